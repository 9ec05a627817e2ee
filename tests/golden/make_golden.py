"""Computes golden files of mmsegmentation again, and compares them with those there or writes them.

pip install torch mmsegmentation==1.2.2 mmcv-lite==2.1.0 ftfy regex
python tests/golden/make_golden.py tests/golden/ps*head_mmseg_*.npz tests/golden/model_mmseg_*.npz tests/golden/psamask_*.npz

Inputs, parameters and options are read from a file; outputs, losses, gradients and running statistics are computed. It runs in
an environment of its own, without Paddle. mmcv-lite has no psa_mask, so it is a gather in plain PyTorch here.
"""

from __future__ import annotations

import argparse
import json
import sys
import types

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

LARGEST_ERROR = 1e-5  # relative, ‖a - b‖ / ‖b‖


class PSAMask(nn.Module):
    """The operator psa_mask: [N, mask_h * mask_w, H, W] -> [N, H * W, H, W]."""

    def __init__(self, psa_type: str, mask_size: tuple[int, int]) -> None:
        super().__init__()
        self.psa_type, self.mask_size = psa_type, tuple(mask_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        (rows, row_hit), (columns, column_hit) = (
            self._offsets(length, side) for length, side in zip((height, width), self.mask_size)
        )
        channel = rows[:, None, :, None] * self.mask_size[1] + columns[None, :, None, :]  # [target h, target w, h, w]
        hit = row_hit[:, None, :, None] & column_hit[None, :, None, :]
        shape = (height * width, height, width)
        index = torch.where(hit, channel, 0).reshape(1, *shape).expand(len(x), -1, -1, -1)
        out = torch.where(hit.reshape(1, *shape), x.gather(1, index), x.new_zeros(()))
        return out if self.psa_type == "collect" else out.flatten(2).transpose(1, 2).reshape(out.shape)

    @staticmethod
    def _offsets(length, side):
        """Returns for each target and position of an axis the place in the mask, and whether it is inside."""
        place = torch.arange(length)
        offset = place[:, None] - place[None, :] + (side - 1) // 2
        return offset, (offset >= 0) & (offset < side)


# mmcv-lite has the Python side of its compiled operators only; of these the networks here need one.
operators = types.ModuleType("mmcv.ops")
operators.__dict__.update(PSAMask=PSAMask, __getattr__=lambda name: None, __path__=[])
sys.modules["mmcv.ops"] = operators


def head(meta: dict) -> nn.Module:
    """Returns mmsegmentation's PSPHead or PSAHead of a file's options."""
    from mmseg.models.decode_heads import PSAHead, PSPHead

    kind = {"mmseg PSPHead": PSPHead, "mmseg PSAHead": PSAHead}[meta["impl"]]
    return kind(**{key: value for key, value in meta.items() if key not in ("impl", "seed", "mode")})


def model(meta: dict) -> nn.Module:
    """Returns mmsegmentation's EncoderDecoder of a file's options."""
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules

    register_all_modules()
    return MODELS.build(meta)


def load(network: nn.Module, arrays: dict) -> None:
    state = {name[3:]: torch.from_numpy(value) for name, value in arrays.items() if name.startswith("sd/")}
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing), (missing, unexpected)


def of_mask(arrays: dict) -> dict:
    """Returns what a file of the operator has besides its input."""
    x = torch.from_numpy(arrays["x"]).requires_grad_()
    out = PSAMask(("collect", "distribute")[int(arrays["psa_type"])], arrays["mask_size"].tolist())(x)
    out.backward(torch.from_numpy(arrays["grad_out"]))
    return {"out": out, "grad_x": x.grad}


def of_head(arrays: dict, meta: dict) -> dict:
    network, found = head(meta), {}
    load(network, arrays)
    network.train(meta["mode"] == "train")
    for size in [name[:-2] for name in arrays if name.endswith("/x")]:
        x = torch.from_numpy(arrays[f"{size}/x"]).requires_grad_()
        out = network([x])
        out.backward(torch.from_numpy(arrays[f"{size}/grad_out"]))
        found.update({f"{size}/out": out, f"{size}/grad_x": x.grad})
        found.update({f"{size}/grad/{name}": value.grad for name, value in network.named_parameters()})
    found.update({f"after/{name}": value for name, value in network.state_dict().items()})
    return found


def of_model(arrays: dict, meta: dict) -> dict:
    network = model(meta)
    load(network, arrays)
    network.eval()
    x = torch.from_numpy(arrays["x"])
    features = network.backbone(x)
    logits, auxiliary = network.decode_head(features), network.auxiliary_head(features)
    full = F.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=network.align_corners)
    found = {"feat2": features[2], "feat3": features[3], "logits": logits, "aux_logits": auxiliary, "logits_full": full}
    found["pred"] = full.argmax(1)
    found.update({f"loss_eval/{name}": value for name, value in losses(network, logits, auxiliary, arrays["label"]).items()})
    network.train()
    x = torch.from_numpy(arrays["train/x"]).requires_grad_()
    features = network.backbone(x)
    logits, auxiliary = network.decode_head(features), network.auxiliary_head(features)
    terms = losses(network, logits, auxiliary, arrays["train/label"])
    sum(value for name, value in terms.items() if "loss" in name).backward()
    found.update({f"train/{name}": value for name, value in terms.items()})
    found["train/grad_x"] = x.grad
    found.update({f"train/grad/{name}": value.grad for name, value in network.named_parameters()})
    found.update({f"train/after/{name}": value for name, value in network.state_dict().items()})
    return found


def losses(network: nn.Module, logits: torch.Tensor, auxiliary: torch.Tensor, label: np.ndarray) -> dict:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.from_numpy(item.astype(np.int64))[None])) for item in label]
    terms = {}
    for name, part, scores in (("decode", network.decode_head, logits), ("aux", network.auxiliary_head, auxiliary)):
        terms.update({f"{name}.{key}": value for key, value in part.loss_by_feat(scores, samples).items()})
    return terms


def differences(arrays: dict, found: dict) -> dict[str, float]:
    """Returns the relative difference of each computed array that a file has."""
    result = {}
    for name, value in found.items():
        if name in arrays:
            own, theirs = value.detach().double().numpy(), arrays[name].astype(np.float64)
            result[name] = float(np.linalg.norm(own - theirs) / np.maximum(np.linalg.norm(theirs), 1e-30))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="Compute golden files of mmsegmentation again.")
    parser.add_argument("files", nargs="+", help="golden files")
    parser.add_argument("--write", action="store_true", help="write what was computed in place of what the files have")
    args, worst = parser.parse_args(), 0.0
    torch.set_num_threads(2)
    for path in args.files:
        with np.load(path) as file:
            arrays = dict(file)
        meta = json.loads(str(arrays["meta"])) if "meta" in arrays else {}
        found = of_mask(arrays) if not meta else of_head(arrays, meta) if "impl" in meta else of_model(arrays, meta)
        errors = differences(arrays, found)
        name = max(errors, key=errors.__getitem__)
        print(f"{path}: {len(errors)} arrays, the largest difference {errors[name]:.1e} ({name})", flush=True)
        worst = max(worst, errors[name])
        if args.write:
            computed = {name: found[name].detach().numpy().astype(arrays[name].dtype) for name in errors}
            np.savez_compressed(path, **{**arrays, **computed})
    if worst > LARGEST_ERROR:
        sys.exit(f"Error: a difference of {worst:.1e} is above {LARGEST_ERROR}")


if __name__ == "__main__":
    main()
