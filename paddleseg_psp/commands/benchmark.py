"""Measure the images per second of a bundle by batch size, backend and threads, as a table and a picture.

python deploy/benchmark.py --config output/inference_model/deploy.yaml --size 1024 512 --batch_sizes 1 2 4

The last column is the share of the machine's fastest matrix product that the network reaches. Near 100 % arithmetic is the
limit; far below it is memory, or work that cannot be divided among the threads.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Iterable, Sequence

import numpy as np

from paddleseg_psp.bundle import load_predictor
from paddleseg_psp.bundle.description import read_description
from paddleseg_psp.bundle.predictor import BACKENDS, PRECISIONS, Predictor
from paddleseg_psp.bundle.timing import product_rate
from paddleseg_psp.commands import bundle_arguments
from paddleseg_psp.commands.run import run
from paddleseg_psp.environment import processors
from paddleseg_psp.errors import UserError
from paddleseg_psp.files import atomic_path, require_writable
from paddleseg_psp.progress import track
from paddleseg_psp.visual import draw_throughput

COLUMNS = ("backend", "threads", "batch", "ms a batch", "images/s", "GFLOP/s", "share of product")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure the images per second of an exported bundle.")
    parser.add_argument("--config", required=True, help="the bundle's deploy.yaml")
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 512), metavar=("W", "H"), help="size of the images")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--backends", nargs="+", default=["paddle"], choices=BACKENDS)
    parser.add_argument("--threads", type=int, nargs="+", default=[processors()])
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS, help=bundle_arguments.PRECISION_HELP)
    parser.add_argument("--emulate", action="store_true", help=bundle_arguments.EMULATE_HELP)
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--rounds", type=int, default=3, help="number of measurements; the median counts")
    parser.add_argument("--save_dir", default="output/benchmark", help="folder for throughput.csv and throughput.png")
    bundle_arguments.trust(parser)
    run(benchmark, parser, argv)


def measure(predictor: Predictor, batch: np.ndarray, rounds: int) -> float:
    """Returns the median of the seconds that a batch takes, after a first one that warms up."""
    seconds = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        predictor.run(batch)
        seconds.append(time.perf_counter() - begun)
    return float(np.median(seconds[1:]))


def benchmark(args: argparse.Namespace) -> None:
    if min(*args.size, *args.batch_sizes, *args.threads, args.rounds) < 1:
        raise UserError("--size, --batch_sizes, --threads and --rounds must be at least 1")
    require_writable(args.save_dir)
    description = read_description(args.config)
    width, height = args.size
    operations = 2 * description.get("multiply_adds_per_pixel", float("nan")) * width * height
    peaks = {threads: product_rate(threads) for threads in args.threads}
    cases = [(backend, threads, size) for backend in args.backends for threads in args.threads for size in args.batch_sizes]
    rows, predictors = [], {}
    random = np.random.RandomState(0)
    for backend, threads, size in track(cases, len(cases), "[BENCHMARK]"):
        if (backend, threads) not in predictors:
            predictors = {
                (backend, threads): load_predictor(
                    args.config,
                    backend,
                    args.device,
                    threads,
                    precision=args.precision,
                    trust_operators=args.trust_operators,
                    emulate=args.emulate,
                )
            }
        batch = random.randn(size, description["input_shape"][1], height, width).astype(np.float32)
        seconds = measure(predictors[backend, threads], batch, args.rounds)
        rate = operations * size / seconds
        rows.append((backend, threads, size, seconds * 1e3, size / seconds, rate / 1e9, rate / peaks[threads]))
    print(table(rows))
    for threads, peak in peaks.items():
        print(f"a matrix product with {threads} threads: {peak / 1e9:.0f} GFLOP/s")
    with atomic_path(os.path.join(args.save_dir, "throughput.csv")) as path, open(path, "w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    with atomic_path(os.path.join(args.save_dir, "throughput.png")) as path:
        draw_throughput([(f"{row[0]}, {row[1]} threads", row[2], row[4]) for row in rows], f"{width}x{height}", path)
    print(f"{args.save_dir} has throughput.csv and throughput.png")


def table(rows: Iterable[Sequence]) -> str:
    """Returns the rows as text."""
    lines = ["".join(f"{name:>18}" for name in COLUMNS)]
    for *names, milliseconds, images, gigaflops, share in rows:
        lines.append(
            "".join(f"{name:>18}" for name in names) + f"{milliseconds:>18.1f}{images:>18.2f}{gigaflops:>18.0f}{share:>18.0%}"
        )
    return "\n".join(lines)
