"""`paddleseg-psp`: every command, from any folder."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import paddleseg_psp
from paddleseg_psp.errors import suggestion
from paddleseg_psp.log import tolerant_output


class Command(NamedTuple):
    """A command: its module in this folder, the script of the repository that runs it, and what it does."""

    module: str
    script: str | None
    help: str


COMMANDS = {
    "train": Command("train", "train.py", "train a network"),
    "val": Command("val", "val.py", "evaluate a trained network"),
    "predict": Command("predict", "predict.py", "color images by their classes"),
    "export": Command("export", "export.py", "write a static graph for deployment, and prove it"),
    "doctor": Command("doctor", None, "check this machine and say what is wrong"),
    "build-operator": Command("build_operator", None, "compile PSANet's operator"),
    "check-data": Command("check_data", "tools/check_data.py", "find errors in a data set"),
    "analyse": Command("analyse", "tools/analyse.py", "show where a network is wrong: confusion, worst images"),
    "visualise-attention": Command(
        "visualise_attention", "tools/visualise_attention.py", "draw PSANet's attention and PSPNet's pyramid"
    ),
    "analyse-model": Command("analyse_model", "tools/analyse_model.py", "count parameters, multiply-adds and memory by part"),
    "convert-checkpoint": Command(
        "convert_checkpoint",
        "tools/convert_checkpoint.py",
        "convert checkpoints from other frameworks, and to mmsegmentation",
    ),
    "average-checkpoints": Command("average_checkpoints", "tools/average_checkpoints.py", "average several checkpoints"),
    "release": Command("release", "tools/release.py", "make a folder to publish: weights, configuration, model card"),
    "compare-logs": Command("compare_logs", "tools/compare_logs.py", "draw several trainings in one picture"),
    "compare-predictions": Command(
        "compare_predictions", "tools/compare_predictions.py", "draw images, labels and predictions side by side"
    ),
    "print-config": Command("print_config", "tools/print_config.py", "print a configuration after _base_ and overrides"),
    "make-demo-data": Command("make_demo_data", "tools/make_demo_data.py", "make a small data set to try everything on"),
    "convert-cityscapes": Command(
        "convert_cityscapes", "tools/data/convert_cityscapes.py", "make the labels for training on Cityscapes"
    ),
    "voc-aug": Command("voc_aug", "tools/data/voc_aug.py", "join PASCAL VOC 2012 and SBD's labels"),
    "labelme2seg": Command("labelme2seg", "tools/data/labelme2seg.py", "make labels from the files of labelme"),
    "split-list": Command("split_list", "tools/data/split_dataset_list.py", "divide images into training and validation lists"),
    "infer": Command("infer", "deploy/python/infer.py", "write class maps by an exported network"),
    "evaluate-bundle": Command("evaluate_bundle", "deploy/python/evaluate.py", "evaluate an exported network"),
    "benchmark": Command("benchmark", "deploy/benchmark.py", "measure the speed of an exported network"),
    "quantize": Command("quantize", "deploy/quantize.py", "add an int8 model to an exported network"),
    "serve": Command("serve", "deploy/serving/serve.py", "run an HTTP service for an exported network"),
}


def main(argv: Sequence[str] | None = None) -> None:
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        with tolerant_output():
            print(_help())
        return
    if name == "--version":
        print(f"paddleseg-psp {paddleseg_psp.__version__}")
        return
    if name not in COMMANDS:
        sys.exit(f"Error: there is no command {name!r}{suggestion(name, COMMANDS)}")
    sys.argv = [f"paddleseg-psp {name}", *rest]  # argparse takes the command's name from here
    sys.exit(importlib.import_module(f"paddleseg_psp.commands.{COMMANDS[name].module}").main())


def _help():
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: paddleseg-psp COMMAND …   (COMMAND --help lists its arguments)", "", *lines])
