"""Adds an int8 model to a bundle that was exported with --onnx, if it is faster on this machine.

python deploy/quantize.py --config output/inference_model/deploy.yaml --dataset configs/...
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from paddleseg_psp.bundle.quantization import quantize_bundle
from paddleseg_psp.commands.run import run
from paddleseg_psp.config import Config


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Add an int8 model to a bundle; --precision int8 then runs it.")
    parser.add_argument("--config", required=True, help="the bundle's deploy.yaml")
    parser.add_argument("--dataset", required=True, help="a configuration: train_dataset calibrates, val_dataset measures")
    parser.add_argument("--opts", nargs="+", metavar="KEY=VALUE", help="override values of that configuration")
    parser.add_argument("--images", type=int, default=32, help="number of images for calibration")
    parser.add_argument("--cpu_threads", type=int, help="CPU threads; default: all cores")
    run(quantize, parser, argv)


def quantize(args: argparse.Namespace) -> None:
    config = Config(args.dataset, args.opts)
    train, val = config.build_dataset("train_dataset"), config.build_dataset("val_dataset")
    report = quantize_bundle(os.path.dirname(os.path.abspath(args.config)), train, val, args.cpu_threads, args.images)
    print(f"{'':<18}{'float32':>10}{'int8':>10}")
    for name, (whole, int8), digits in zip(("MB", "images a second", "mIoU"), report, (1, 2, 4)):
        print(f"{name:<18}{whole:>10.{digits}f}{int8:>10.{digits}f}")
    print(f"mIoU changes by {report.miou[1] - report.miou[0]:+.4f}; --backend onnxruntime --precision int8 runs it")
