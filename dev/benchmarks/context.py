"""Do pyramid pooling and point-wise attention help? Trains each network with and without its context module, equally.

python dev/benchmarks/context.py [--seeds 0] [--save_dir output/context]

The demo data has classes that look alike and differ only by what stands across the street (tools/make_demo_data.py), so a
network that sees no further than its convolutions guesses them. Prints the validation mIoU of each training.
"""

import argparse
import os
import re
import subprocess
import sys

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
NETWORKS = {
    "PSANet": ("configs/psanet/psanet_resnet18_demo.yml", "model.use_psa=false"),
    "PSPNet": ("configs/pspnet/pspnet_resnet18_demo.yml", "model.bin_sizes=[]"),
}


def train(config, seed, save_dir, overrides):
    """Trains a configuration as `train.py` does and returns the last validation mIoU."""
    command = [
        sys.executable,
        "train.py",
        "--config",
        config,
        "--do_eval",
        "--seed",
        seed,
        "--save_dir",
        save_dir,
        "--device",
        "cpu",
    ]
    if overrides:
        command += ["--opts", *overrides]
    os.makedirs(save_dir, exist_ok=True)
    log = os.path.join(save_dir, "train.log")
    with open(log, "w") as file:
        subprocess.run(list(map(str, command)), cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, check=True)
    with open(log) as file:
        return float(re.findall(r"#Images: \d+ mIoU: ([\d.]+)", file.read())[-1])


def main():
    parser = argparse.ArgumentParser(description="Compare networks with and without their context module.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--save_dir", default=os.path.join(ROOT, "output", "context"))
    args = parser.parse_args()
    subprocess.run([sys.executable, "tools/make_demo_data.py"], cwd=ROOT, check=True)
    print("network  seed  mIoU with context  without  difference")
    for name, (config, without) in NETWORKS.items():
        for seed in args.seeds:
            folder = os.path.join(os.path.abspath(args.save_dir), f"{name}_{seed}")
            full = train(config, seed, folder, [])
            plain = train(config, seed, f"{folder}_without", [without])
            print(f"{name:<8} {seed:>4} {full:>18.4f} {plain:>8.4f} {full - plain:>11.4f}", flush=True)


if __name__ == "__main__":
    main()
