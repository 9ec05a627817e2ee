"""Draw the loss, learning rate and mIoU of several trainings in one picture, and print a table.

python tools/compare_logs.py output/a output/b train.log --save_path comparison.png

A run is the folder of a training (its metrics.jsonl) or a file of log lines in PaddleSeg's format.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence

import numpy as np

from paddleseg_psp.commands.run import run
from paddleseg_psp.engine.training_log import RECORDS, read_records
from paddleseg_psp.errors import UserError
from paddleseg_psp.files import atomic_path
from paddleseg_psp.visual import draw_curves

TRAIN = re.compile(r"\[TRAIN\].*?iter: (\d+)/\d+, loss: ([\d.]+), lr: ([\d.e+-]+)")
EVAL = re.compile(r"\[EVAL\] #Images.*?mIoU: ([\d.]+)")
FORMAT = "{:<32}{:>12}{:>12}{:>12}{:>14}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="folders of trainings, or log files")
    parser.add_argument("--save_path", default="comparison.png", help="the picture to write")
    run(_compare, parser, argv)


def _compare(args):
    runs = {path.rstrip("/"): _records(path) for path in args.runs}
    print(FORMAT.format("run", "iterations", "last loss", "best mIoU", "at iteration"))
    for name, records in runs.items():
        losses = [item["loss"] for item in records if item["group"] == "Train"]
        evaluations = [(item["mIoU"], item["iteration"]) for item in records if item["group"] == "Evaluate" and item["mIoU"]]
        best, where = max(evaluations, default=(float("nan"), "-"))
        last = np.mean(losses[-max(len(losses) // 20, 1) :]) if losses else float("nan")
        print(FORMAT.format(name[-31:], max(item["iteration"] for item in records), f"{last:.4f}", f"{best:.4f}", where))
    with atomic_path(args.save_path) as path:
        draw_curves(runs, path)
    print(f"The picture is {args.save_path}")


def _records(path):
    """Returns a run's records, as `read_records` does.

    Raises:
        UserError: nothing there, or nothing of a training in it.
    """
    file = os.path.join(path, RECORDS) if os.path.isdir(path) else path
    if not os.path.isfile(file):
        raise UserError(f"{path}: expected the folder of a training, with {RECORDS} in it, or a log file")
    records = read_records(file) if file.endswith(".jsonl") else _parsed(file)
    if not records:
        raise UserError(f"{file} has no line of a training")
    return records


def _parsed(path):
    """Returns the records that a log's lines tell; an evaluation belongs to the iteration logged before it."""
    records, iteration = [], 0
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            if found := TRAIN.search(line):
                iteration = int(found[1])
                records.append({"group": "Train", "iteration": iteration, "loss": float(found[2]), "lr": float(found[3])})
            elif found := EVAL.search(line):
                records.append({"group": "Evaluate", "iteration": iteration, "mIoU": float(found[1])})
    return records
