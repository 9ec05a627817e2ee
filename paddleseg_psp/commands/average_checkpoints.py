"""Writes the mean of several checkpoints of one training, which often beats each of them.

python tools/average_checkpoints.py output/iter_76000 output/iter_78000 output/iter_80000 --save_path output/average.pdparams

Statistics of normalizations are averaged too: this is exact for means, and close for variances of similar checkpoints.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

import numpy as np

from paddleseg_psp.commands.run import run
from paddleseg_psp.errors import UserError
from paddleseg_psp.log import logger
from paddleseg_psp.models.weights import read_weights, write_weights


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", help="folders of checkpoints, or files of weights")
    parser.add_argument("--save_path", required=True, help="the file to write: .pdparams or .safetensors")
    run(_average, parser, argv)


def _average(args):
    if len(args.checkpoints) < 2:
        raise UserError("give at least two checkpoints to average")
    sums, first = {}, None
    for path in args.checkpoints:
        path = os.path.join(path, "model.pdparams") if os.path.isdir(path) else path
        weights = read_weights(path)
        shapes = {name: np.shape(value) for name, value in weights.items()}
        if first is None:
            first, expected = path, {name: (np.shape(value), np.asarray(value).dtype) for name, value in weights.items()}
        if shapes != {name: shape for name, (shape, _) in expected.items()}:
            different = sorted(name for name in {**shapes, **expected} if shapes.get(name) != expected.get(name, (None,))[0])
            raise UserError(f"{path} and {first} are of different networks: {', '.join(different[:3])} differ")
        for name, value in weights.items():
            sums[name] = sums.get(name, 0) + np.asarray(value, np.float64)
    average = {name: (total / len(args.checkpoints)).astype(expected[name][1]) for name, total in sums.items()}
    write_weights(args.save_path, average)
    logger.info(f"Wrote the mean of {len(args.checkpoints)} checkpoints to {args.save_path}")
