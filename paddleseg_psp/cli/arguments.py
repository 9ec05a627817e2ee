"""Every command-line argument, defined once, by PaddleSeg's names."""

from __future__ import annotations

import argparse

# None where it is not given, so that the configuration's test_config holds
_VIEW = {"action": "store_true", "default": None}
_SIZE = {"nargs": 2, "type": int, "metavar": ("W", "H"), "default": None}

_ARGUMENTS: dict[str, dict] = {
    "config": {"help": "YAML configuration; a path with backslashes is understood too"},
    "opts": {"nargs": "+", "metavar": "KEY=VALUE", "help": "override values of the configuration, e.g. model.dropout=0.2"},
    "device": {
        "default": "gpu",
        "choices": ["cpu", "gpu"],
        "help": "where to compute; gpu falls back to cpu where there is none",
    },
    "debug": {"action": "store_true", "help": "show the traceback of an error"},
    "model_path": {"help": "weights, a .pdparams file"},
    "save_dir": {"help": "folder for what the command writes"},
    "num_workers": {"type": int, "default": 0, "help": "processes that read data; 0 reads in the main one"},
    "precision": {
        "default": "fp32",
        "choices": ["fp32", "fp16", "bf16"],
        "help": "fp16 and bf16 compute in mixed precision",
    },
    "amp_level": {"default": "O1", "choices": ["O1", "O2"], "help": "O1: some operators; O2: all, and the weights (GPU only)"},
    # training
    "iters": {"type": int, "help": "iterations in all"},
    "batch_size": {"type": int, "help": "images that a card takes at once"},
    "accumulate": {"type": int, "help": "batches whose gradients are averaged for one iteration, where memory is short"},
    "learning_rate": {"type": float, "help": "initial learning rate"},
    "save_interval": {"type": int, "default": 1000, "help": "iterations between checkpoints (and evaluations)"},
    "log_iters": {"type": int, "default": 10, "help": "iterations between log lines"},
    "keep_checkpoint_max": {"type": int, "default": 5, "help": "checkpoints kept; 0 keeps all"},
    "resume_model": {"help": "checkpoint to go on from: a folder such as output/iter_1000, or auto for the newest in save_dir"},
    "do_eval": {"action": "store_true", "help": "evaluate at each checkpoint and keep the best model"},
    "early_stop_intervals": {"type": int, "help": "end after this many evaluations without a better one"},
    "use_ema": {
        "action": "store_true",
        "help": "average the weights over time; the averaged ones are evaluated and kept as best",
    },
    "ema_decay": {"type": float, "default": 0.999, "help": "weight of the average so far in the next one"},
    "use_vdl": {"action": "store_true", "help": "write scalars and pictures for VisualDL"},
    "seed": {"type": int, "help": "seed of all random numbers; by default a new one, which the log tells"},
    "deterministic": {"action": "store_true", "help": "let GPUs use only operators that repeat exactly (CPUs always do)"},
    # evaluation and prediction
    "aug_eval": {**_VIEW, "help": "average over scales and flips"},
    "aug_pred": {**_VIEW, "dest": "aug_eval", "help": "average over scales and flips"},
    "scales": {"nargs": "+", "type": float, "help": "scales to average over; 1 by default"},
    "flip_horizontal": {**_VIEW, "help": "average over horizontal flips"},
    "flip_vertical": {**_VIEW, "help": "average over vertical flips"},
    "is_slide": {**_VIEW, "help": "predict by a sliding window"},
    "crop_size": {**_SIZE, "help": "size of the window, width then height"},
    "stride": {**_SIZE, "help": "step of the window, width then height"},
    "image_path": {"help": "an image, a folder, or a text file listing images"},
    "custom_color": {"nargs": "+", "type": int, "help": "red, green, blue of the first class, the second, …"},
    "save_ids": {"action": "store_true", "help": "write class_ids/ too: grey PNGs whose pixels are the class indices"},
    # export
    "input_shape": {
        "nargs": "+",
        "type": int,
        "metavar": "SIZE",
        "help": "N C H W to fix the input's shape, -1 for what may vary; all but C varies by default",
    },
    "onnx": {"action": "store_true", "help": "write model.onnx too, for ONNX Runtime and OpenVINO"},
    "half_weights": {"action": "store_true", "help": "keep weights as float16, in half the space"},
    "verify": {
        "action": argparse.BooleanOptionalAction,
        "default": True,
        "help": "compare what was exported with the network before it is kept",
    },
    "output_op": {
        "default": "argmax",
        "choices": ["argmax", "softmax", "none"],
        "help": "what the exported network ends with",
    },
}
_COMMON = ("config", "opts", "device", "debug")


def parser(description: str, *names: str, **defaults: object) -> argparse.ArgumentParser:
    """Returns a parser with the common arguments and those named; `defaults` replaces their defaults."""
    result = argparse.ArgumentParser(description=description)
    for name in (*_COMMON, *names):
        result.add_argument(f"--{name}", **_ARGUMENTS[name])
    result.set_defaults(**defaults)
    return result
