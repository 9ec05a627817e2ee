"""Adds an int8 model to a bundle that was exported with --onnx, if it is faster on this machine.

python deploy/quantize.py --config output/inference_model/deploy.yaml --dataset configs/...
"""

import argparse
import os

from paddleseg_psp.cli.run import run
from paddleseg_psp.config import Config
from paddleseg_psp.deploy.quantization import quantize_bundle


def parse_arguments(argv=None):
    parser = argparse.ArgumentParser(description="Add an int8 model to a bundle; --precision int8 then runs it.")
    parser.add_argument("--config", required=True, help="the bundle's deploy.yaml")
    parser.add_argument("--dataset", required=True, help="a configuration: train_dataset calibrates, val_dataset measures")
    parser.add_argument("--opts", nargs="+", metavar="KEY=VALUE", help="override values of that configuration")
    parser.add_argument("--images", type=int, default=32, help="for calibration")
    parser.add_argument("--cpu_threads", type=int, help="threads on the CPU; all cores by default")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args(argv)


def quantize(args):
    config = Config(args.dataset, args.opts)
    sets = [config.build_dataset(key) for key in ("train_dataset", "val_dataset")]
    report = quantize_bundle(os.path.dirname(os.path.abspath(args.config)), *sets, args.cpu_threads, args.images)
    print(f"{'':<18}{'float32':>10}{'int8':>10}")
    for name, (whole, int8), digits in zip(("MB", "images a second", "mIoU"), report, (1, 2, 4)):
        print(f"{name:<18}{whole:>10.{digits}f}{int8:>10.{digits}f}")
    print(f"mIoU changes by {report.miou[1] - report.miou[0]:+.4f}; --backend onnxruntime --precision int8 runs it")


def main(argv=None):
    run(quantize, parse_arguments(argv))


if __name__ == "__main__":
    main()
