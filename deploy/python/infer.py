"""Class maps of images by an exported bundle, with Paddle Inference.

python deploy/python/infer.py --config output/inference_model/deploy.yaml --image_path IMAGES --save_dir output/result
"""

import argparse
import os
import time

import numpy as np

from paddleseg_psp.cli.run import run
from paddleseg_psp.data.images import find_images, output_names
from paddleseg_psp.deploy import load_predictor
from paddleseg_psp.errors import UserError
from paddleseg_psp.files import atomic_path, require_writable
from paddleseg_psp.visual import color_map, save_index_png


def _switch(text):
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected True or False, not {text!r}")
    return text.lower() == "true"


def parse_arguments():
    parser = argparse.ArgumentParser(description="Predict the class maps of images with an exported bundle.")
    parser.add_argument("--config", required=True, help="the bundle's deploy.yaml")
    parser.add_argument("--image_path", required=True, help="an image, a folder, or a text file listing images")
    parser.add_argument("--save_dir", default="./output", help="gets a palette PNG of class indices for each image")
    parser.add_argument("--batch_size", type=int, default=1, help="images run together; only those of one size can be")
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--cpu_threads", type=int, default=10, help="threads on the CPU")
    parser.add_argument("--enable_mkldnn", type=_switch, default=False, metavar="True|False", help="oneDNN on the CPU")
    parser.add_argument("--use_trt", type=_switch, default=False, metavar="False", help="TensorRT is not supported")
    parser.add_argument("--precision", default="fp32", help="only fp32 is supported")
    parser.add_argument("--benchmark", type=_switch, default=False, metavar="True|False", help="print times")
    parser.add_argument("--model_name", default="model", help="name in the benchmark's output")
    parser.add_argument("--save_log_path", help="file that also gets the benchmark's output")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser.parse_args()


def infer(args):
    if args.use_trt or args.precision != "fp32":
        raise UserError("only --use_trt False and --precision fp32 are supported")
    if args.batch_size < 1:
        raise UserError("--batch_size must be at least 1")
    images, folder = find_images(args.image_path)
    require_writable(args.save_dir)
    predictor = load_predictor(args.config, args.device, args.cpu_threads, args.enable_mkldnn)
    colors, seconds = color_map(predictor.palette), []
    names = output_names(images, folder)
    for start in range(0, len(images), args.batch_size):
        batch = images[start : start + args.batch_size]
        began = time.perf_counter()
        maps = predictor.predict(batch)
        seconds.append((time.perf_counter() - began) / len(batch))
        for name, classes in zip(names[start:], maps):
            with atomic_path(os.path.join(args.save_dir, f"{name}.png")) as target:
                save_index_png(target, classes, colors)
    print(f"{len(images)} class maps are in {args.save_dir}")
    if args.benchmark:
        report(args, seconds)


def report(args, seconds):
    """Prints the time an image takes, reading and preparing it included; the first batch warms up where there are more."""
    steady = np.array(seconds[1:] or seconds)
    median, slow = np.median(steady) * 1e3, np.percentile(steady, 95) * 1e3
    line = (
        f"{args.model_name}: {1 / steady.mean():.2f} images/s, batch {args.batch_size}, "
        f"median {median:.1f} ms an image, 95th percentile {slow:.1f} ms"
    )
    print(line)
    if args.save_log_path:
        with open(args.save_log_path, "a", encoding="utf-8") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    run(infer, parse_arguments())
