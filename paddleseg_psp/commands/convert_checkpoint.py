"""Converts checkpoints from other frameworks, and back to mmsegmentation.

python tools/convert_checkpoint.py pspnet_r50-d8_512x1024_40k_cityscapes.pth --save_path output/pspnet.pdparams
python val.py --config output/pspnet.yml --model_path output/pspnet.pdparams

python tools/convert_checkpoint.py resnet50_v1c.pth --backbone --save_path data/pretrained/mmseg_resnet50_v1c.pdparams
python tools/convert_checkpoint.py output/pspnet.pdparams --to_mmsegmentation --save_path output/pspnet.pth

From mmsegmentation, semseg (.pth), MindSpore (.ckpt), PaddleSeg and PSANet_paddle (.pdparams), and ResNets of torchvision,
timm, mmpretrain and semseg. It also writes a configuration that evaluates the network like its framework does (.yml) and a
record of every tensor (.json). No code in a file is run.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
from collections.abc import Sequence

import numpy as np
import safetensors.numpy
import yaml

from paddleseg_psp.commands.run import run
from paddleseg_psp.config import apply_overrides, read_yaml, resolve_path
from paddleseg_psp.config.shipped import configurations
from paddleseg_psp.convert import convert, convert_backbone, to_mmsegmentation
from paddleseg_psp.convert.conversion import configuration
from paddleseg_psp.convert.torch_files import write_torch
from paddleseg_psp.errors import UserError
from paddleseg_psp.files import atomic_path, sha256
from paddleseg_psp.log import logger
from paddleseg_psp.models.weights import read_weights, write_weights

BASES = os.path.join(configurations(), "_base_")
# By classes: the data set, and a crop of each framework's.
DATA = {
    "mmsegmentation": {19: "mmseg_cityscapes_512x1024", 21: "mmseg_voc12aug_512x512", 150: "mmseg_ade20k_512x512"},
    "semseg": {19: "semseg_cityscapes_{}", 21: "semseg_voc12aug_{}", 150: "semseg_ade20k_{}"},
    "paddle": {19: "cityscapes", 21: "pascal_voc12aug", 150: "ade20k"},
}
CROPS = {("PSPNet", 19): "713x713", ("PSANet", 19): "705x705", "PSPNet": "473x473", "PSANet": "465x465"}
SCHEDULES = {"mmsegmentation": "mmseg_schedule_40k", "semseg": "semseg_schedule", "paddle": "schedule_80k"}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="the file to convert")
    parser.add_argument(
        "--save_path", required=True, help="the file to write: .pdparams, .safetensors; .pth for mmsegmentation"
    )
    parser.add_argument("--config", help="configuration of the checkpoint's network; default: detect it")
    parser.add_argument("--opts", nargs="+", metavar="KEY=VALUE", help="what cannot be detected, e.g. model.psa_type=collect")
    parser.add_argument("--ignore", nargs="+", default=[], metavar="NAME", help="leave out tensors whose names start with NAME")
    parser.add_argument("--backbone", action="store_true", help="convert only the backbone")
    parser.add_argument(
        "--to_mmsegmentation", action="store_true", help="convert weights of this package to mmsegmentation's names"
    )
    run(_convert, parser, argv)


def _convert(args):
    if args.to_mmsegmentation:
        _back(args)
    elif args.backbone:
        conversion = convert_backbone(args.checkpoint, args.ignore)
        _write(args, conversion, {"model": {"backbone": {**conversion.model, "pretrained": args.save_path}}})
    else:
        base = read_yaml(resolve_path(args.config)) if args.config else None
        conversion = convert(args.checkpoint, base and base["model"], lambda model: _override(model, args.opts), args.ignore)
        data = configuration(conversion, base or _base(conversion))
        apply_overrides(data, args.opts)
        _write(args, conversion, data)
        logger.info(f"Evaluate it: python val.py --config {_beside(args.save_path, '.yml')} --model_path {args.save_path}")


def _override(model, overrides):
    apply_overrides({"model": model}, [item for item in overrides or () if item.startswith("model.")])


def _base(conversion):
    """Returns the data set, test_config and schedule of a framework for a number of classes."""
    framework = {"mindspore": "semseg"}.get(name := conversion.framework.split()[0], name)
    classes, network = conversion.model["num_classes"], conversion.model["type"]
    crop = CROPS.get((network, classes), CROPS[network])
    path = DATA[framework].get(classes, DATA[framework][19]).format(crop if classes in DATA[framework] else "713x713")
    data = {**read_yaml(os.path.join(BASES, f"{SCHEDULES[framework]}.yml")), **read_yaml(os.path.join(BASES, f"{path}.yml"))}
    if "iters" not in data:
        data["epochs"] = {19: 200, 21: 50}.get(classes, 100)
    if classes not in DATA[framework]:
        stated = {"class_names": conversion.class_names, "palette": conversion.palette}
        for key, mode in (("train_dataset", "train"), ("val_dataset", "val")):
            lists = {f"{mode}_path": f"data/dataset/{mode}.txt"}
            own = {"type": "Dataset", "dataset_root": "data/dataset", "mode": mode, **lists, "num_classes": classes}
            own.update({name: value for name, value in stated.items() if value})
            data[key] = {**own, "transforms": data[key]["transforms"]}
        logger.warning(f"No known data set has {classes} classes: write your lists into the configuration (docs/data.md)")
    return data


def _beside(path, extension):
    return os.path.splitext(path)[0] + extension


def _write(args, conversion, data):
    write_weights(args.save_path, conversion.weights)
    record = {
        "source": os.path.basename(args.checkpoint),
        "source_sha256": sha256(args.checkpoint),
        "framework": conversion.framework,
        "weights_sha256": sha256(args.save_path),
        "tensors": {own: {"source": name, "shape": conversion.weights[own].shape} for own, name in conversion.sources.items()},
        "left_out": {name: _told(array) for name, array in conversion.left_out.items()},
    }
    for extension, text in (
        (".json", json.dumps(record, indent=1)),
        (".yml", f"# From {record['source']} of {conversion.framework}.\n" + yaml.safe_dump(_plain(data), sort_keys=False)),
    ):
        with atomic_path(_beside(args.save_path, extension)) as path, open(path, "w", encoding="utf-8") as file:
            file.write(text)
    logger.info(
        f"{conversion.framework}: {len(conversion.weights)} tensors converted, {len(conversion.left_out)} left out"
        f"{_examples(conversion.left_out)}"
    )
    if conversion.normalize:
        order = "red, green, blue" if conversion.red_first else "blue, green, red"
        logger.info(f"Images: channels {order}, mean {conversion.normalize['mean']}, std {conversion.normalize['std']}")
    logger.info(f"Wrote {args.save_path}, {_beside(args.save_path, '.yml')} and {_beside(args.save_path, '.json')}")


def _examples(names):
    return f" ({', '.join(list(names)[:3])}{', ...' if len(names) > 3 else ''})" if names else ""


def _told(array):
    return array.item() if array.ndim == 0 else list(array.shape)


def _plain(value):
    """Returns nested data with lists in place of tuples, which YAML has no plain form for."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _back(args):
    if not args.save_path.endswith((".pth", ".safetensors")):
        raise UserError(f"--save_path {args.save_path}: mmsegmentation's names are written to .pth and .safetensors files")
    converted = to_mmsegmentation(read_weights(args.checkpoint), _counters(args.checkpoint))
    try:
        with atomic_path(args.save_path) as path:
            if args.save_path.endswith(".pth"):
                write_torch(path, converted, meta={"source": os.path.basename(args.checkpoint)})
            else:
                safetensors.numpy.save_file({name: np.ascontiguousarray(array) for name, array in converted.items()}, path)
    except (OSError, pickle.PicklingError) as error:
        raise UserError(f"{args.save_path} could not be written: {error}")
    logger.info(f"Wrote {len(converted)} tensors under mmsegmentation's names to {args.save_path}")
    config = _beside(args.checkpoint, ".yml")
    if os.path.exists(config) and read_yaml(config).get("model", {}).get("convention") == "semseg":
        logger.warning(
            "Its attention follows semseg's convention; mmsegmentation shrinks and pads otherwise, with other results"
        )


def _counters(path):
    """Returns num_batches_tracked of normalizations, from the record of the conversion that the weights came from."""
    try:
        with open(_beside(path, ".json"), encoding="utf-8") as file:
            record = json.load(file)
        if record["framework"] == "mmsegmentation" and record["weights_sha256"] == sha256(path):
            counters = {name: value for name, value in record["left_out"].items() if name.endswith(".num_batches_tracked")}
            return {name: np.array(value, np.int64) for name, value in counters.items()}
    except (OSError, ValueError, KeyError):
        pass
    return {}
