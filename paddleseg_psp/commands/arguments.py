"""Every command-line argument, defined once, by PaddleSeg's names."""

from __future__ import annotations

import argparse

# None where it is not given, so that the configuration's test_config holds
_VIEW = {"action": "store_true", "default": None}
_SIZE = {"nargs": 2, "type": int, "metavar": ("W", "H"), "default": None}

_ARGUMENTS: dict[str, dict] = {
    "config": {"help": "YAML configuration; a path with backslashes works too"},
    "opts": {"nargs": "+", "metavar": "KEY=VALUE", "help": "override values of the configuration, e.g. model.dropout=0.2"},
    "device": {
        "default": "gpu",
        "choices": ["cpu", "gpu"],
        "help": "device to compute on; gpu falls back to cpu if there is none",
    },
    "model_path": {"help": "weights, a .pdparams file"},
    "save_dir": {"help": "folder for the output"},
    "num_workers": {"type": int, "default": 0, "help": "processes that read data; 0 reads in the main process"},
    "precision": {
        "default": "fp32",
        "choices": ["fp32", "fp16", "bf16"],
        "help": "fp16 and bf16 are mixed precision",
    },
    "amp_level": {"default": "O1", "choices": ["O1", "O2"], "help": "O1: some operators; O2: all, and the weights (GPU only)"},
    # training
    "iters": {"type": int, "help": "total number of iterations"},
    "batch_size": {"type": int, "help": "batch size of each GPU or process"},
    "accumulate": {"type": int, "help": "batches whose gradients are averaged for one iteration, to save memory"},
    "learning_rate": {"type": float, "help": "initial learning rate"},
    "save_interval": {"type": int, "default": 1000, "help": "iterations between checkpoints (and evaluations)"},
    "log_iters": {"type": int, "default": 10, "help": "iterations between log lines"},
    "keep_checkpoint_max": {"type": int, "default": 5, "help": "checkpoints kept; 0 keeps all"},
    "resume_model": {
        "help": "checkpoint to resume from: a folder such as output/iter_1000, or auto for the newest in save_dir"
    },
    "do_eval": {"action": "store_true", "help": "evaluate at each checkpoint and keep the best model"},
    "early_stop_intervals": {"type": int, "help": "stop after this many evaluations without an improvement"},
    "use_ema": {
        "action": "store_true",
        "help": "keep a moving average of the weights, which is evaluated and saved as the best model",
    },
    "ema_decay": {"type": float, "default": 0.999, "help": "weight of the old average in each update"},
    "use_vdl": {"action": "store_true", "help": "write scalars and pictures for VisualDL"},
    "seed": {"type": int, "help": "seed for all randomness; default: a random seed, printed in the log"},
    "deterministic": {"action": "store_true", "help": "use only GPU operators that repeat exactly (CPU operators always do)"},
    # evaluation and prediction
    "aug_eval": {**_VIEW, "help": "average over scales and flips"},
    "aug_pred": {**_VIEW, "dest": "aug_eval", "help": "average over scales and flips"},
    "scales": {"nargs": "+", "type": float, "help": "scales to average over; default: 1"},
    "flip_horizontal": {**_VIEW, "help": "average over horizontal flips"},
    "flip_vertical": {**_VIEW, "help": "average over vertical flips"},
    "is_slide": {**_VIEW, "help": "predict by a sliding window"},
    "crop_size": {**_SIZE, "help": "size of the window, width then height"},
    "stride": {**_SIZE, "help": "step of the window, width then height"},
    "image_path": {"help": "an image, a folder, or a text file listing images"},
    "custom_color": {"nargs": "+", "type": int, "help": "red, green and blue of the first class, then of the second, …"},
    "save_ids": {"action": "store_true", "help": "also write class_ids/: gray PNGs whose pixels are the class indices"},
    # export
    "input_shape": {
        "nargs": "+",
        "type": int,
        "metavar": "SIZE",
        "help": "N C H W to fix the input's shape, -1 for a size that may vary; by default all but C may vary",
    },
    "onnx": {"action": "store_true", "help": "also write model.onnx, for ONNX Runtime and OpenVINO"},
    "half_weights": {"action": "store_true", "help": "store the weights as float16, in half the space"},
    "verify": {
        "action": argparse.BooleanOptionalAction,
        "default": True,
        "help": "compare the exported network with the original before it is written",
    },
    "verify_precision": {
        "choices": ["bf16"],
        "help": "measure what bfloat16 changes on the validation set, for the model card",
    },
    "most_changed": {
        "type": float,
        "default": 0.01,
        "help": "with --verify_precision: refuse the export if a larger share of the pixels changes its class",
    },
    "output_op": {
        "default": "argmax",
        "choices": ["argmax", "softmax", "none"],
        "help": "output of the exported network: classes, probabilities or logits",
    },
}
_COMMON = ("config", "opts", "device")


def parser(description: str, *names: str, **defaults: object) -> argparse.ArgumentParser:
    """Returns a parser with the common arguments and those named; `defaults` replaces their defaults."""
    result = argparse.ArgumentParser(description=description)
    for name in (*_COMMON, *names):
        result.add_argument(f"--{name}", **_ARGUMENTS[name])
    result.set_defaults(**defaults)
    return result
