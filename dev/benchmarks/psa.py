"""What do psa_mask and psa_attention cost on this CPU, in time and memory, beside what they replace and what bounds them?

python dev/benchmarks/psa.py [--maps 30x30 64x128] [--masks 59 full] [--threads 1 2] [--channels 512]

psa_mask is measured as its kernel on memory that is there already, beside a memcpy of as many bytes as it must read and write
and a plain loop that scatters (loops.c, -O3). psa_attention is measured as users call it, one branch, softmax on,
against: psa_mask, softmax and matrix product in Paddle ("unfused"); the same from plain Paddle operators alone ("plain"); the
same in PyTorch, around this package's psa_mask kernel, if torch is installed. Each runs in a process of its own. Times are the
best of several, in milliseconds. Memory is the peak beyond inputs, outputs and their gradients, in MB. GFLOP/s counts the
products within the mask alone, which no implementation can avoid; the first line says what the processor gives at most.
"""

import argparse
import concurrent.futures
import ctypes
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

TYPES = ("collect", "distribute")
ATTENTIONS = ("fused", "unfused", "plain", "PyTorch")
SECONDS = 1.5  # for each figure, at least
LONG = ctypes.c_long


class PsaMaskGeometry(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("batch", "height", "width", "mask_height", "mask_width")]
    _fields_ += [("distribute", ctypes.c_bool)]


def best(function):
    """Returns the shortest time of a call, in ms. The function has been called before."""
    times, end = [], time.perf_counter() + SECONDS
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times) * 1e3


def reached(case):
    """Returns how many pairs of positions the mask reaches."""
    height, width, mask_height, mask_width = case["size"]

    def axis(size, mask):
        return sum(min(size, k + mask // 2 + 1) - max(0, k - mask // 2) for k in range(size))

    return axis(height, mask_height) * axis(width, mask_width)


def kernels():
    """Returns the operator's library; its kernels can be called without Paddle."""
    from paddleseg_psp.ops import library

    library.load_operator(required=True)
    return ctypes.CDLL(str(library.find_library()))


def call(kernel, source, target, size, psa_type):
    pointers = (ctypes.c_void_p(array.ctypes.data) for array in (source, target))
    kernel(*pointers, 4, PsaMaskGeometry(1, *size, psa_type == "distribute"))


def mask_times(case):
    height, width, mask_height, mask_width = size = case["size"]
    positions = height * width
    x = np.random.default_rng(0).standard_normal((mask_height * mask_width, positions), "float32")
    out, grad_x = np.zeros((positions, positions), "float32"), np.zeros_like(x)
    library, loops = kernels(), loops_in_c()
    result = {}
    for psa_type in TYPES:
        arguments = x, out, size, psa_type
        result[f"{psa_type} forward"] = kernel_times(case, library.psamask_forward_cpu, loops.scatter, *arguments)
        arguments = out, grad_x, size, psa_type
        result[f"{psa_type} backward"] = kernel_times(case, library.psamask_backward_cpu, loops.gather, *arguments)
    return result


def kernel_times(case, kernel, loop, source, target, size, psa_type):
    moved = (reached(case) + target.size) * 4 // 2  # a memcpy of n bytes reads n and writes n
    pair = np.ones((2, moved), "uint8")  # not zeros, which would be one page of zeros over and over
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (source, target)]
    call(kernel, source, target, size, psa_type)
    return {
        "kernel": best(lambda: call(kernel, source, target, size, psa_type)),
        "memcpy": best(lambda: np.copyto(pair[1], pair[0])),
        "loop": best(lambda: loop(*pointers, *map(LONG, size), psa_type == "distribute")),
    }


def loops_in_c():
    """Returns the library of loops.c."""
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "loops.c")
    with tempfile.TemporaryDirectory() as folder:
        command = ["gcc", "-O3", "-march=native", "-w", "-shared", "-fPIC", source, "-o", f"{folder}/loops.so"]
        subprocess.run(command, check=True)
        return ctypes.CDLL(f"{folder}/loops.so")


def peak(threads):
    """Returns how many GFLOP/s that many threads reach when they do nothing but multiply and add in registers."""
    loops, repeats = loops_in_c(), 20_000_000
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:

        def run():
            list(pool.map(lambda _: loops.multiply_add(LONG(repeats)), range(threads)))

        return threads * repeats * 24 * 16 * 2e-6 / best(run)


def paddle_attention(name, case):
    """Returns functions that run one branch in Paddle, forward and forward with backward, which return what they made."""
    import paddle

    from paddleseg_psp.ops import psa_attention, psa_mask
    from paddleseg_psp.ops.psamask import reference

    paddle.base.core.set_num_threads(case["threads"])
    height, width, *mask_size = case["size"]
    value = paddle.randn([1, case["channels"], height, width])
    mask = paddle.randn([1, mask_size[0] * mask_size[1], height, width])
    grad_out = paddle.randn(value.shape)

    def unfused():
        attention = psa_mask(mask, case["type"], mask_size).flatten(2)
        return paddle.bmm(value.flatten(2), paddle.nn.functional.softmax(attention, axis=1)).reshape(value.shape)

    run = {
        "fused": lambda: psa_attention(value, mask, case["type"], mask_size),
        "unfused": unfused,
        "plain": lambda: reference.psa_attention(value, mask, case["type"], mask_size),
    }[name]

    def forward():
        value.stop_gradient = mask.stop_gradient = True
        return [run()]

    def both():
        value.stop_gradient = mask.stop_gradient = False
        out = run()
        return [out, *paddle.grad(out, [value, mask], grad_out)]

    return forward, both


def torch_attention(case):
    import torch

    library = kernels()
    torch.set_num_threads(case["threads"])
    height, width, *mask_size = case["size"]
    value = torch.randn(1, case["channels"], height, width, requires_grad=True)
    mask = torch.randn(1, mask_size[0] * mask_size[1], height, width, requires_grad=True)
    grad_out = torch.randn(value.shape)

    class PsaMask(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            out = torch.empty(1, height * width, height, width)
            call(library.psamask_forward_cpu, x.detach().numpy(), out.numpy(), case["size"], case["type"])
            return out

        @staticmethod
        def backward(context, grad):
            grad_x = torch.empty(mask.shape)
            call(library.psamask_backward_cpu, grad.contiguous().numpy(), grad_x.numpy(), case["size"], case["type"])
            return grad_x

    def run():
        return (value.flatten(2) @ PsaMask.apply(mask).flatten(2).softmax(1)).reshape(value.shape)

    def forward():
        with torch.no_grad():
            return [run()]

    def both():
        out = run()
        return [out, *torch.autograd.grad(out, [value, mask], grad_out)]

    return forward, both


def attention_times(case):
    def functions(case):
        return torch_attention(case) if case["name"] == "PyTorch" else paddle_attention(case["name"], case)

    for function in functions({**case, "size": [4, 4, 3, 3], "channels": 8}):  # starts and loads everything
        function()
    function = functions(case)[case["backward"]]
    memory = extra_memory(function)
    return {"ms": best(function), "MB": memory}


def extra_memory(function):
    """Returns the peak of a call's memory beyond what was there and what it returns, in MB; NaN where Linux does not tell."""

    def status(key):
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith(key))

    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak starts again
    except OSError:
        return float("nan")
    before = status("VmRSS")
    results = function()
    return status("VmHWM") - before - sum(4 * np.prod(result.shape) for result in results) / 2**20


def measure(function, case):
    """Returns what a function of this file says about a case, called in a process of its own."""
    command = [sys.executable, os.path.abspath(__file__), "--child", function, json.dumps(case)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(case["threads"])}
    process = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if process.returncode:
        sys.exit(f"{case} failed:\n{process.stderr[-2000:]}")
    return json.loads(process.stdout.splitlines()[-1])


def report_mask(case):
    for name, times in measure("mask_times", case).items():
        kernel, memcpy, loop = (times[key] for key in ("kernel", "memcpy", "loop"))
        print(
            f"  psa_mask {name:19} {kernel:8.1f}   memcpy {memcpy:7.1f} ({kernel / memcpy:.2f} times as long)"
            f"   loop {loop:7.1f} ({loop / kernel:.1f} times as fast)",
            flush=True,
        )


def report_attention(case, names):
    products = 2 * case["channels"] * reached(case) * 1e-6  # a million of them, of which ms make GFLOP/s
    for psa_type in TYPES:
        for backward, factor in ((False, 1), (True, 3)):
            print(f"  psa_attention {psa_type}, {'forward and backward' if backward else 'forward'}", flush=True)
            cases = ({**case, "name": name, "type": psa_type, "backward": backward} for name in names)
            results = [measure("attention_times", case) for case in cases]
            for name, result in zip(names, results):
                ratio, speed = result["ms"] / results[0]["ms"], factor * products / result["ms"]
                print(f"    {name:9}{result['ms']:10.1f} ({ratio:5.2f}){speed:7.0f} GFLOP/s{result['MB']:8.0f} MB", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", nargs="+", default=["30x30", "49x49", "64x64", "64x128"], help="height x width")
    parser.add_argument("--masks", nargs="+", default=["59", "full"], help="side of the mask; full covers from every position")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        function, case = args.child
        print(json.dumps(globals()[function](json.loads(case))))
        return
    names = [name for name in ATTENTIONS if name != "PyTorch" or importlib.util.find_spec("torch")]
    for threads in args.threads:
        print(f"this processor, threads {threads}: {peak(threads):.0f} GFLOP/s of float32", flush=True)
        for size in args.maps:
            height, width = map(int, size.split("x"))
            full = 2 * height - 1, 2 * width - 1
            for mask_size in dict.fromkeys(full if mask == "full" else (int(mask), int(mask)) for mask in args.masks):
                print(f"map {size}, mask {mask_size[0]}x{mask_size[1]}, threads {threads}", flush=True)
                case = {"size": [height, width, *mask_size], "channels": args.channels, "threads": threads}
                report_mask(case)
                report_attention(case, names)


if __name__ == "__main__":
    main()
