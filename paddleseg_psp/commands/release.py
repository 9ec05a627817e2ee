"""Make a folder to publish from a trained network: weights named by their hash, configuration, model card.

python tools/release.py --config configs/psanet/psanet_resnet18_demo.yml --model_path output/best_model/model.pdparams \
    --save_dir output/release

The auxiliary classifier is only used in training, so it is left out unless --keep_auxiliary is given.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import paddle
import yaml

from paddleseg_psp.bundle.card import class_table, shown
from paddleseg_psp.commands import arguments
from paddleseg_psp.commands.inputs import trained_model
from paddleseg_psp.commands.run import run
from paddleseg_psp.config import Config
from paddleseg_psp.engine.checkpoint import metrics_of
from paddleseg_psp.errors import UserError
from paddleseg_psp.files import atomic_path, require_writable, sha256
from paddleseg_psp.log import logger
from paddleseg_psp.models.cost import costs
from paddleseg_psp.models.weights import read_weights, write_weights

AUXILIARY = ("head.auxlayer.", "aux_head.")


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments.parser(__doc__.splitlines()[0], "model_path", "save_dir", device="cpu")
    parser.add_argument("--format", choices=["pdparams", "safetensors"], default="pdparams", help="file format of the weights")
    parser.add_argument("--keep_auxiliary", action="store_true", help="keep the auxiliary classifier, for further training")
    run(_release, parser, argv)


def _release(args):
    if args.save_dir is None:
        raise UserError("--save_dir is missing: name the folder to make")
    paddle.set_device(args.device)
    require_writable(args.save_dir)
    config = Config(args.config, args.opts)
    network = trained_model(config, args.model_path)
    own = network.state_dict()
    weights = {name: np.asarray(value) for name, value in read_weights(args.model_path).items() if name in own}
    kept = {name: value for name, value in weights.items() if not name.startswith(AUXILIARY)}
    if len(kept) < len(weights) and not args.keep_auxiliary:
        weights = kept
        config = _without_auxiliary(config)
    name = os.path.splitext(os.path.basename(config.path))[0]
    temporary = os.path.join(args.save_dir, f"{name}.{args.format}")
    write_weights(temporary, weights)
    digest = sha256(temporary)
    path = os.path.join(args.save_dir, f"{name}-{digest[:8]}.{args.format}")
    os.replace(temporary, path)
    _require_same_results(config, path, network)
    for file, text in (
        (f"{name}.yml", str(config)),
        ("README.md", _card(config, network, name, path, digest, metrics_of(args.model_path))),
    ):
        with atomic_path(os.path.join(args.save_dir, file)) as target, open(target, "w", encoding="utf-8") as out:
            out.write(text)
    logger.info(f"The release is in {args.save_dir}: {os.path.basename(path)}, {name}.yml, README.md")


def _without_auxiliary(config):
    """Returns a configuration of the network without its auxiliary classifier."""
    data = config.data
    data["model"]["enable_auxiliary_loss"] = False
    data["loss"] = {key: values[:1] for key, values in data["loss"].items()}
    return config.replaced(data)


def _require_same_results(config, path, network):
    """Raises UserError unless the released files give the trained network's logits, to the bit."""
    size = config.crop_size() if config.data["model"].get("compact") else (65, 97)
    image, models = paddle.randn([1, config.img_channels(), *size]), (trained_model(config, path), network)
    with paddle.no_grad():
        for model in models:
            model.eval()
        released, own = (model(image)[0].numpy() for model in models)
    if not np.array_equal(released, own):
        os.remove(path)
        raise UserError("the released weights do not give the results of the network they were made from: nothing was released")


def _card(config, network, name, path, digest, metrics):
    size, backbone = config.crop_size() or (512, 512), config.data["model"].get("backbone")
    parts = costs(network, [1, config.img_channels(), *size]).values()
    lines = [
        f"# {name}",
        "",
        f"- {type(network).__name__}" + (f" with {backbone['type']}" if backbone else ""),
        f"- Weights: `{os.path.basename(path)}`, sha256 `{digest}`",
        f"- {sum(part.parameters for part in parts) / 1e6:.2f} million parameters while training, "
        f"{sum(part.multiply_adds for part in parts) / 1e9:.1f} G multiply-adds for {size[0]}x{size[1]}",
        f"- Evaluate: `python val.py --config {name}.yml --model_path {os.path.basename(path)}`",
        "",
        "## Metrics",
        "",
        *([f"- {key}: {shown(value)}" for key, value in (metrics or {}).items()] or ["None are known for these weights."]),
        "",
        "## Trained with",
        "",
        "```yaml",
        yaml.safe_dump({key: config.data[key] for key in ("optimizer", "lr_scheduler", "loss")}, sort_keys=False).rstrip(),
        "```",
        *class_table(config.class_names(), config.palette()),
    ]
    return "\n".join(lines) + "\n"
