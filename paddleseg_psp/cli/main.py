"""`paddleseg-psp`: every command of the repository, from any folder."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Sequence
from types import ModuleType

import paddleseg_psp
from paddleseg_psp.log import tolerant_output
from paddleseg_psp.registry import suggestion
from paddleseg_psp.shipped import shipped

# name -> (module of the package, or script of the repository; what it does)
COMMANDS = {
    "train": ("paddleseg_psp.cli.train", "train a network"),
    "val": ("paddleseg_psp.cli.val", "evaluate a trained network"),
    "predict": ("paddleseg_psp.cli.predict", "colour images by their classes"),
    "export": ("paddleseg_psp.cli.export", "write a static graph for deployment, and prove it"),
    "doctor": ("paddleseg_psp.doctor", "what this machine has, and what is wrong with it"),
    "build-operator": ("paddleseg_psp.ops.build", "compile PSANet's operator"),
    "check-data": ("tools/check_data.py", "what is wrong with a data set"),
    "analyse": ("tools/analyse.py", "where a network is wrong: confusion, worst images"),
    "visualise-attention": ("tools/visualise_attention.py", "what PSANet's attention and PSPNet's pyramid look at"),
    "analyse-model": ("tools/analyse_model.py", "parameters, multiply-adds, memory by part"),
    "convert-checkpoint": ("tools/convert_checkpoint.py", "checkpoints of other frameworks, and back to mmsegmentation"),
    "average-checkpoints": ("tools/average_checkpoints.py", "the mean of several checkpoints"),
    "release": ("tools/release.py", "a folder to publish: weights, configuration, model card"),
    "compare-logs": ("tools/compare_logs.py", "several trainings in one picture"),
    "print-config": ("tools/print_config.py", "a configuration after _base_ and overrides"),
    "make-demo-data": ("tools/make_demo_data.py", "a small data set to try everything on"),
    "convert-cityscapes": ("tools/data/convert_cityscapes.py", "the labels that training on Cityscapes reads"),
    "voc-aug": ("tools/data/voc_aug.py", "PASCAL VOC 2012 with SBD's labels"),
    "labelme2seg": ("tools/data/labelme2seg.py", "labels from the files of labelme"),
    "split-list": ("tools/data/split_dataset_list.py", "lists of training and validation images"),
    "infer": ("deploy/python/infer.py", "class maps by an exported network"),
    "evaluate-bundle": ("deploy/python/evaluate.py", "metrics of an exported network"),
    "benchmark": ("deploy/benchmark.py", "speed of an exported network"),
    "quantize": ("deploy/quantize.py", "an exported network in int8"),
    "serve": ("deploy/serving/serve.py", "an HTTP service for an exported network"),
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
    module = load(COMMANDS[name][0])
    sys.argv = [f"paddleseg-psp {name}", *rest]  # where commands find their name and arguments
    sys.exit(module.main())


def _help():
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(["usage: paddleseg-psp COMMAND …   (COMMAND --help has its arguments)", "", *lines])


def load(where: str) -> ModuleType:
    """Returns a module of the package, or one made from a script of the repository."""
    if not where.endswith(".py"):
        return importlib.import_module(where)
    folder, _, rest = where.partition("/")
    path = os.path.join(shipped(folder), rest)
    name = f"paddleseg_psp_{os.path.splitext(os.path.basename(path))[0]}"
    sys.path.insert(0, os.path.dirname(path))  # as Python does for a script
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader  # as for any .py
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where reading processes look for its functions
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
