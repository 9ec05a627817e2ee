"""What evaluation, prediction and export share: a trained network, and how to look at images."""

from __future__ import annotations

import argparse

from paddle import nn

from paddleseg_psp.config import Config
from paddleseg_psp.engine.views import OPTIONS, Views
from paddleseg_psp.errors import UserError
from paddleseg_psp.log import logger
from paddleseg_psp.models.weights import load_weights


def trained_model(config: Config, model_path: str | None) -> nn.Layer:
    """Returns the configuration's network with the weights of --model_path.

    Raises:
        UserError: no path, or weights of another network.
    """
    if model_path is None:
        raise UserError("--model_path is missing: name the weights, e.g. --model_path output/best_model/model.pdparams")
    model = config.build_model(pretrained=False)  # all weights come from model_path
    load_weights(model, model_path, strict=True)
    return model


def chosen_views(config: Config, args: argparse.Namespace) -> Views:
    """Returns how the network looks at images: as the configuration's test_config says, and flags, which come first.

    Raises:
        UserError: a wrong value, a sliding window without its size or step, or one with a step larger than the window.
    """
    flags = {name: value for name in OPTIONS if (value := getattr(args, name)) is not None}
    where = f"{config.path}: test_config" + "".join(f" --{name}" for name in flags)
    views = Views.from_options({**config.test_config(), **flags}, where)
    if flags.keys() & {"scales", "flip_horizontal", "flip_vertical"} and not views.augment:
        logger.warning("--scales and flips do nothing without --aug_eval (--aug_pred in predict.py)")
    return views
