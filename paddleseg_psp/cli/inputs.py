"""What evaluation, prediction and export share: a trained network, and how to look at images."""

from __future__ import annotations

import argparse

from paddle import nn

from paddleseg_psp.config import Config
from paddleseg_psp.errors import UserError
from paddleseg_psp.models.weights import load_weights

LOOKING = ("scales", "flip_horizontal", "flip_vertical", "is_slide", "crop_size", "stride")


def trained_model(config: Config, model_path: str | None) -> nn.Layer:
    """Returns the configuration's network with the weights of --model_path.

    Raises:
        UserError: no path, or weights of another network.
    """
    if model_path is None:
        raise UserError("--model_path is missing: name the weights, e.g. --model_path output/best_model/model.pdparams")
    model = config.without_pretrained().build_model()  # all weights come from model_path
    load_weights(model, model_path, strict=True)
    return model


def looking_options(args: argparse.Namespace) -> dict:
    """Returns the arguments about windows, scales and flips, checked.

    Raises:
        UserError: a sliding window without its size or step, or with a step larger than the window.
    """
    if args.is_slide:
        if args.crop_size is None or args.stride is None:
            raise UserError("--is_slide needs --crop_size W H and --stride W H")
        if any(step < 1 or step > side for side, step in zip(args.crop_size, args.stride)):
            raise UserError(f"--stride {args.stride} must be at least 1 and at most --crop_size {args.crop_size}")
    return {name: getattr(args, name) for name in LOOKING}
