"""How long is a training step of PSPNet-R50 on this CPU, beside the same network in PyTorch and Paddle as installed?

python dev/benchmarks/train_step.py [--size 129] [--batch 2] [--steps 4]

Each contender runs in processes of its own, in turns, so that a slow moment of the machine meets all of them; figures are
medians over all turns. A step is forward, loss, backward and SGD. PyTorch's part needs `pip install torch`.
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import time

CLASSES = 19
CONTENDERS = ("this package", "PyTorch", "Paddle as installed")
TURNS = 3
WARM_UP = 2  # steps


def paddle_step(args):
    """Returns a function that trains one step in Paddle and returns the loss."""
    import paddle

    from paddleseg_psp.engine.trainer import loss_terms
    from paddleseg_psp.losses import CrossEntropyLoss
    from paddleseg_psp.models import PSPNet
    from paddleseg_psp.models.backbones import ResNet50_v1c

    paddle.set_device("cpu")
    model = PSPNet(CLASSES, ResNet50_v1c())
    optimizer = paddle.optimizer.Momentum(0.01, 0.9, model.parameters(), weight_decay=4e-5)
    x = paddle.randn([args.batch, 3, args.size, args.size])
    y = paddle.randint(0, CLASSES, [args.batch, args.size, args.size])
    losses = [(1, CrossEntropyLoss()), (0.4, CrossEntropyLoss())]

    def step():
        loss = sum(loss_terms(model(x), y, losses))
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        return float(loss)

    return step


def torch_step(args):
    """Returns a function that trains one step of the same network in PyTorch and returns the loss."""
    import torch
    from torch.nn import functional as F
    from torch_pspnet import PSPNet

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = PSPNet(CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=4e-5)
    x = torch.randn(args.batch, 3, args.size, args.size)
    y = torch.randint(0, CLASSES, (args.batch, args.size, args.size))

    def step():
        main, auxiliary = model(x)
        loss = F.cross_entropy(main, y) + 0.4 * F.cross_entropy(auxiliary, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def contend(args):
    """Runs one contender and prints the seconds of its steps."""
    step = torch_step(args) if args.contender == "PyTorch" else paddle_step(args)
    for _ in range(WARM_UP):
        step()
    for _ in range(args.steps):
        start = time.perf_counter()
        step()
        print(f"seconds {time.perf_counter() - start}", flush=True)


def run_contender(name, args):
    """Runs a contender in a process of its own and returns the seconds of its steps."""
    environment = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE")}
    if name == "Paddle as installed":  # what happens where nobody sets anything, written out
        environment.update(OMP_NUM_THREADS="1", MKL_DEBUG_CPU_TYPE="0")
    if name == "PyTorch":
        environment["OMP_NUM_THREADS"] = str(len(os.sched_getaffinity(0)))
    command = [sys.executable, __file__, "--contender", name, "--size", args.size, "--batch", args.batch, "--steps", args.steps]
    process = subprocess.run(list(map(str, command)), env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [float(line.split()[1]) for line in process.stdout.splitlines() if line.startswith("seconds")]


def compare(args):
    names = [name for name in CONTENDERS if name != "PyTorch" or importlib.util.find_spec("torch")]
    seconds = {name: [] for name in names}
    for turn in range(TURNS):
        for name in names:
            print(f"turn {turn + 1}/{TURNS}: {name}", file=sys.stderr, flush=True)
            seconds[name] += run_contender(name, args)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"PSPNet-R50, {args.batch}x3x{args.size}x{args.size}, {len(os.sched_getaffinity(0))} cores, seconds a training step:")
    for name, median in medians.items():
        print(f"  {name:<20} {median:6.2f}  ({min(seconds[name]):.2f} to {max(seconds[name]):.2f})")
    for name in names[1:]:
        print(f"this package takes {medians['this package'] / medians[name]:.2f} times as long as {name}")
    if "PyTorch" not in names:
        print("PyTorch is not installed: pip install torch for the comparison with it")


def main():
    parser = argparse.ArgumentParser(description="Time a training step of PSPNet-R50.")
    parser.add_argument("--size", type=int, default=129, help="height and width of the images")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4, help="timed steps a turn")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    contend(args) if args.contender else compare(args)


if __name__ == "__main__":
    main()
