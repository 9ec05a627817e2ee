"""Does the demo train as well in half precision? Trains it in each precision and draws the curves side by side.

python dev/benchmarks/precision.py [--model psanet] [--save_dir output/precision] [--picture curves.png]

On a CPU half precision is emulated (`paddleseg_psp.engine.precision`): the curves are those of the rounding, the times are not.
"""

import argparse
import os
import subprocess
import sys

from paddleseg_psp.engine.training_log import read_records
from paddleseg_psp.visual import draw_curves

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
PRECISIONS = ("fp32", "bf16", "fp16")


def main():
    parser = argparse.ArgumentParser(description="Compare trainings of the demo in several precisions.")
    parser.add_argument("--model", default="psanet", choices=["psanet", "pspnet"])
    parser.add_argument("--save_dir", default="output/precision")
    parser.add_argument("--picture", default="output/precision/curves.png")
    args = parser.parse_args()
    config, runs = f"configs/{args.model}/{args.model}_resnet18_demo.yml", {}
    for precision in PRECISIONS:
        folder = os.path.join(os.path.abspath(args.save_dir), precision)
        command = [sys.executable, "train.py", "--config", config, "--do_eval", "--save_interval", "50", "--seed", "0"]
        options = ["--precision", precision, "--save_dir", folder, "--keep_checkpoint_max", "1", "--num_workers", "1"]
        subprocess.run([*command, *options], cwd=ROOT, check=True)
        runs[precision] = read_records(os.path.join(folder, "metrics.jsonl"))
    draw_curves(runs, args.picture)
    for precision, records in runs.items():
        best = max(record["mIoU"] for record in records if record["group"] == "Evaluate")
        loss = [record["loss"] for record in records if record["group"] == "Train"]
        print(f"{precision}: best mIoU {best:.4f}, mean loss of the last five lines {sum(loss[-5:]) / 5:.4f}")
    print(f"The curves are in {args.picture}")


if __name__ == "__main__":
    main()
