"""Evaluate an exported bundle on a configuration's val_dataset.

python deploy/python/evaluate.py --config output/inference_model/deploy.yaml --dataset configs/... --batch_size 4
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from paddleseg_psp.bundle.scoring import evaluate_bundle
from paddleseg_psp.commands import bundle_arguments
from paddleseg_psp.commands.run import run
from paddleseg_psp.config import Config
from paddleseg_psp.engine.evaluator import log_metrics
from paddleseg_psp.errors import UserError


def main(argv: Sequence[str] | None = None) -> None:
    parser = bundle_arguments.parser("Evaluate an exported bundle on a labelled data set.")
    parser.add_argument("--dataset", required=True, help="configuration whose val_dataset has the images and labels")
    parser.add_argument("--opts", nargs="+", metavar="KEY=VALUE", help="override values of that configuration")
    parser.add_argument("--batch_size", type=int, default=1, help="images run together, if they have the same size")
    run(evaluate, parser, argv)


def evaluate(args: argparse.Namespace) -> None:
    if args.batch_size < 1:
        raise UserError("--batch_size must be at least 1")
    dataset = Config(args.dataset, args.opts).build_dataset("val_dataset")
    matrix = evaluate_bundle(bundle_arguments.loaded(args), dataset, args.batch_size)
    log_metrics(matrix, len(dataset), getattr(dataset, "CLASS_NAMES", None))
