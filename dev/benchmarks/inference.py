"""How long does an exported PSPNet-R50 take for an image on this CPU, beside PyTorch, ONNX Runtime alone and Paddle?

python dev/benchmarks/inference.py [--size 1024 512] [--runs 2]

PyTorch runs the same network. "ONNX Runtime alone" is a session, with the defaults, of the network as published, layer for
layer; "Paddle as installed" is that in Paddle's dynamic graph, without this package's settings for the CPU. Each contender runs
in processes of its own, in turns; medians. PyTorch's part needs `pip install torch`, OpenVINO's `pip install openvino`.
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

CLASSES, TURNS = 19, 3
BEST = "bundle, onnxruntime"
CONTENDERS = (
    BEST,
    "bundle, paddle",
    "bundle, openvino",
    "ONNX Runtime alone",
    "PyTorch",
    "Paddle, dynamic",
    "Paddle as installed",
)


def network(as_published=False):
    """Returns PSPNet-R50 with statistics of some data; as published, branches are resized and concatenated, then fused."""
    import paddle

    from paddleseg_psp.models import PSPNet
    from paddleseg_psp.models.backbones import ResNet50_v1c
    from paddleseg_psp.models.layers import PyramidPooling

    def pooling_as_published(module, x):
        return module.conv_bn_relu2(module.pyramid(x))

    if as_published:
        PyramidPooling.forward = pooling_as_published
    model = PSPNet(CLASSES, ResNet50_v1c(output_stride=8))
    model(paddle.randn([2, 3, 65, 65]))
    model.eval()
    return model


def export(folder):
    """Writes <folder>/own and <folder>/published."""
    from paddleseg_psp.bundle import export_bundle

    export_bundle(network(), f"{folder}/own", onnx=True, verify=False)
    export_bundle(network(as_published=True), f"{folder}/published", onnx=True, verify=False)


def contender(name, folder, x):
    """Returns a function that gives the classes of x."""
    if name == "PyTorch":
        import torch
        from torch_pspnet import PSPNet

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        model, image = PSPNet(CLASSES).eval(), torch.from_numpy(x)
        return torch.inference_mode()(lambda: model(image)[0].argmax(1))
    if name == "ONNX Runtime alone":
        import onnxruntime

        session = onnxruntime.InferenceSession(f"{folder}/published/model.onnx", providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {"x": x})
    if name.startswith("Paddle"):
        import paddle

        model, image = network(as_published=name != "Paddle, dynamic"), paddle.to_tensor(x)
        return paddle.no_grad()(lambda: model(image)[0].argmax(1).numpy())
    from paddleseg_psp.bundle import load_predictor

    predictor = load_predictor(f"{folder}/own", name.split(", ")[1])
    return lambda: predictor.run(x)


def contend(args):
    """Runs one contender and prints the seconds of its runs."""
    run = contender(args.contender, args.folder, np.random.RandomState(0).randn(1, 3, *args.size[::-1]).astype(np.float32))
    run()  # warms up
    for _ in range(args.runs):
        begun = time.perf_counter()
        run()
        print(f"seconds {time.perf_counter() - begun}", flush=True)


def run_contender(name, folder, args):
    """Runs a contender in a process of its own and returns the seconds of its runs."""
    environment = {key: value for key, value in os.environ.items() if key not in ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE")}
    if name == "Paddle as installed":  # what happens where nobody sets anything, written out
        environment.update(OMP_NUM_THREADS="1", MKL_DEBUG_CPU_TYPE="0")
    command = [sys.executable, __file__, "--contender", name, "--folder", folder, "--runs", args.runs, "--size", *args.size]
    process = subprocess.run(list(map(str, command)), env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [float(line.split()[1]) for line in process.stdout.splitlines() if line.startswith("seconds")]


def compare(args):
    optional = {"PyTorch": "torch", "bundle, openvino": "openvino"}
    names = [name for name in CONTENDERS if name not in optional or importlib.util.find_spec(optional[name])]
    seconds = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        export(folder)
        for turn in range(TURNS):
            for name in names:
                print(f"turn {turn + 1}/{TURNS}: {name}", file=sys.stderr, flush=True)
                seconds[name] += run_contender(name, folder, args)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"PSPNet-R50, {args.size[0]}x{args.size[1]}, {len(os.sched_getaffinity(0))} cores, seconds an image:")
    for name, median in medians.items():
        spread = f"({min(seconds[name]):.2f} to {max(seconds[name]):.2f})"
        print(f"  {name:<20} {median:6.2f}  {spread:<17} {median / medians[BEST]:5.2f} times as long as {BEST}")


def main():
    parser = argparse.ArgumentParser(description="Time an exported PSPNet-R50 beside other ways to run it.")
    parser.add_argument("--size", type=int, nargs=2, default=[1024, 512], help="width and height")
    parser.add_argument("--runs", type=int, default=2, help="timed runs a turn")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    contend(args) if args.contender else compare(args)


if __name__ == "__main__":
    main()
