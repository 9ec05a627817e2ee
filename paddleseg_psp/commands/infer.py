"""Class maps of images by an exported bundle.

python deploy/python/infer.py --config output/inference_model/deploy.yaml --image_path IMAGES --save_dir output/result
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from paddleseg_psp.bundle.timing import Stopwatch
from paddleseg_psp.commands import bundle_arguments
from paddleseg_psp.commands.run import run
from paddleseg_psp.data.reading.images import find_images, output_names, require_no_overwriting
from paddleseg_psp.errors import UserError
from paddleseg_psp.files import atomic_path, require_writable
from paddleseg_psp.progress import track
from paddleseg_psp.visual import color_map, save_index_png


def main(argv: Sequence[str] | None = None) -> None:
    parser = bundle_arguments.parser("Predict the class maps of images with an exported bundle.")
    parser.add_argument("--image_path", required=True, help="an image, a folder, or a text file listing images")
    parser.add_argument("--save_dir", default="./output", help="folder for one palette PNG of class indices per image")
    parser.add_argument("--batch_size", type=int, default=1, help="images run together, if they have the same size")
    parser.add_argument(
        "--use_trt", type=bundle_arguments.switch, default=False, metavar="False", help="TensorRT is not supported"
    )
    parser.add_argument("--benchmark", type=bundle_arguments.switch, default=False, metavar="True|False", help="print times")
    parser.add_argument("--model_name", default="model", help="name for the benchmark's output")
    parser.add_argument("--save_log_path", help="also append the benchmark's output to this file")
    run(infer, parser, argv)


def infer(args: argparse.Namespace) -> None:
    if args.use_trt:
        raise UserError("only --use_trt False is supported")
    if args.batch_size < 1:
        raise UserError("--batch_size must be at least 1")
    images, folder = find_images(args.image_path, args.save_dir)
    require_writable(args.save_dir)
    predictor, stopwatch = bundle_arguments.loaded(args), Stopwatch()
    colors, names = color_map(predictor.palette), output_names(images, folder)
    targets = [os.path.join(args.save_dir, f"{name}.png") for name in names]
    require_no_overwriting(targets, images)
    starts = range(0, len(images), args.batch_size)
    for start in track(starts, len(starts), "[INFER]"):
        batch = images[start : start + args.batch_size]
        for place, classes in zip(targets[start:], predictor.predict(batch, stopwatch=stopwatch)):
            with atomic_path(place) as target:
                save_index_png(target, classes, colors)
    print(f"{len(images)} class maps are in {args.save_dir}")
    if args.benchmark:
        report = f"{args.model_name}, {args.backend}:\n{stopwatch.table(len(images), args.batch_size)}"
        print(report)
        if args.save_log_path:
            with open(args.save_log_path, "a", encoding="utf-8") as file:
                file.write(report + "\n")
