"""PSPNet and PSANet for PaddlePaddle: training, evaluation, export and deployment.

The names below are imported when they are first used, so that importing the package alone imports no Paddle.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from paddleseg_psp import environment

if TYPE_CHECKING:
    from paddleseg_psp.bundle import export_bundle, load_predictor
    from paddleseg_psp.config import Config
    from paddleseg_psp.engine import evaluate, predict, train

__all__ = ["Config", "evaluate", "export_bundle", "load_predictor", "predict", "train"]
__version__ = "0.1.0"

_MODULES = {
    "Config": "config",
    "evaluate": "engine",
    "export_bundle": "bundle",
    "load_predictor": "bundle",
    "predict": "engine",
    "train": "engine",
}

environment.configure()


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
