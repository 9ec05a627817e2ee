"""What share of a training is spent outside forward and backward, beside a plain PyTorch loop of the same network and data?

python dev/benchmarks/training_loop.py [--size 128] [--batch 4] [--steps 15] [--num_workers 1]

Ours is `paddleseg_psp.engine.train` with a log line every ten iterations. PyTorch's is the loop of a tutorial. PSPNet-R50, SGD
with momentum, the demo data and its transforms, each in a process of its own, in turns. Needs `pip install torch` for the
second, and `python tools/make_demo_data.py` before.
"""

import argparse
import functools
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter

import numpy as np

CLASSES, WARM_UP, TURNS = 19, 3, 2
DATA = "data/demo_cityscapes"
CONTENDERS = ("this package", "PyTorch")


class Clock:
    """Adds up the seconds spent in functions, by name, from the time that it is started."""

    def __init__(self):
        self.seconds, self.started = Counter(), None

    def start(self):
        self.seconds.clear()
        self.started = time.perf_counter()

    def timed(self, name, function):
        @functools.wraps(function)
        def wrapped(*args, **kwargs):
            begun = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - begun

        return wrapped

    def print(self, steps):
        total = (time.perf_counter() - self.started) / steps
        print("seconds", total, *(self.seconds[name] / steps for name in ("forward and backward", "optimizer")), flush=True)


def dataset(size):
    from paddleseg.transforms import Normalize, RandomHorizontalFlip, RandomPaddingCrop

    from paddleseg_psp.data import Cityscapes

    return Cityscapes([RandomPaddingCrop(crop_size=(size, size)), RandomHorizontalFlip(), Normalize()], DATA)


def ours(args):
    import paddle

    from paddleseg_psp.engine import train
    from paddleseg_psp.losses import CrossEntropyLoss
    from paddleseg_psp.models import PSPNet
    from paddleseg_psp.models.backbones import ResNet50_v1c

    paddle.set_device("cpu")
    clock, steps = Clock(), WARM_UP + args.steps
    model = PSPNet(CLASSES, ResNet50_v1c())
    optimizer = paddle.optimizer.Momentum(0.01, 0.9, model.parameters(), weight_decay=4e-5)
    losses = [(weight, CrossEntropyLoss()) for weight in (1, 0.4)]
    taken = []

    def step(take=optimizer.step):
        take()
        taken.append(1)
        if len(taken) == WARM_UP:
            clock.start()
        if len(taken) == steps:
            clock.print(args.steps)

    for layer in (model, *(loss for _, loss in losses)):
        layer.forward = clock.timed("forward and backward", layer.forward)
    paddle.Tensor.backward = clock.timed("forward and backward", paddle.Tensor.backward)
    optimizer.step = clock.timed("optimizer", step)
    with tempfile.TemporaryDirectory() as folder:
        train(
            model, dataset(args.size), None, optimizer, folder, steps, args.batch, losses=losses, num_workers=args.num_workers
        )


def torchs(args):
    import torch
    from torch.nn import functional as F
    from torch_pspnet import PSPNet

    from paddleseg_psp.data import CheckedDataset

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    clock, model = Clock(), PSPNet(CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=4e-5)

    def collate(samples):
        return {key: torch.from_numpy(np.stack([sample[key] for sample in samples])) for key in ("img", "label")}

    options = {"shuffle": True, "drop_last": True, "num_workers": args.num_workers, "collate_fn": collate}
    loader = torch.utils.data.DataLoader(CheckedDataset(dataset(args.size)), args.batch, **options)

    def both(x, y):
        main, auxiliary = model(x)
        loss = F.cross_entropy(main, y, ignore_index=255) + 0.4 * F.cross_entropy(auxiliary, y, ignore_index=255)
        loss.backward()
        return loss

    def batches():
        while True:
            yield from loader

    both, take = clock.timed("forward and backward", both), clock.timed("optimizer", optimizer.step)
    for count, batch in enumerate(batches(), 1):
        optimizer.zero_grad()
        loss = both(batch["img"], batch["label"].long())
        take()
        if count % 10 == 0:
            print(f"iteration {count}, loss {loss.item():.4f}")
        if count == WARM_UP:
            clock.start()
        if count == WARM_UP + args.steps:
            return clock.print(args.steps)


def run_contender(name, args):
    """Runs a contender in a process of its own and returns its (total, forward and backward, optimizer) seconds a step."""
    command = [sys.executable, __file__, "--contender", name]
    for option in ("size", "batch", "steps", "num_workers"):
        command += [f"--{option}", str(getattr(args, option))]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    line = next(line for line in process.stdout.splitlines() if line.startswith("seconds"))
    return [float(value) for value in line.split()[1:]]


def compare(args):
    names = [name for name in CONTENDERS if name != "PyTorch" or importlib.util.find_spec("torch")]
    results = {name: [] for name in names}
    for turn in range(TURNS):
        for name in names:
            print(f"turn {turn + 1}/{TURNS}: {name}", file=sys.stderr, flush=True)
            results[name].append(run_contender(name, args))
    print(f"PSPNet-R50, {args.batch}x3x{args.size}x{args.size}, {args.num_workers} reading processes, milliseconds a step:")
    print(
        f"  {'':<14} {'total':>8} {'forward+backward':>18} {'optimizer':>10} {'rest':>8} {'outside forward and backward':>30}"
    )
    for name in names:
        total, network, optimizer = (1000 * min(column) for column in zip(*results[name]))
        share = min(1 - turn[1] / turn[0] for turn in results[name])
        print(f"  {name:<14} {total:8.1f} {network:18.1f} {optimizer:10.1f} {total - network - optimizer:8.1f} {share:30.1%}")


def main():
    parser = argparse.ArgumentParser(description="Time a training loop outside forward and backward.")
    parser.add_argument("--size", type=int, default=128, help="height and width of the crops")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=15, help="timed steps a turn")
    parser.add_argument("--num_workers", type=int, default=1, help="processes that read")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contender:
        ours(args) if args.contender == "this package" else torchs(args)
    else:
        compare(args)


if __name__ == "__main__":
    main()
