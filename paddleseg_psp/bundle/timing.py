"""How long the stages of inference take."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


class Stopwatch:
    """Notes the seconds of each stage each time.

    Attributes:
        seconds (dict): stage -> list of seconds.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a block."""
        begun = time.perf_counter()
        yield
        self.seconds[name].append(time.perf_counter() - begun)

    def table(self, images: int, batch_size: int) -> str:
        """Returns a table of the milliseconds that a batch spends in each stage, and the images a second.

        The first batch warms up; where there are more it does not count.

        Args:
            images: all that were run.
            batch_size: of them together.
        """
        steady = {name: np.array(seconds[1:] or seconds) for name, seconds in self.seconds.items()}
        counted = images - batch_size if len(next(iter(self.seconds.values()))) > 1 else images
        steady["together"] = np.sum(list(steady.values()), axis=0)
        rows = [f"{'ms a batch':<12}{'mean':>10}{'50 %':>10}{'90 %':>10}{'95 %':>10}{'99 %':>10}"]
        for name, seconds in steady.items():
            values = [seconds.mean(), *np.percentile(seconds, [50, 90, 95, 99])]
            rows.append(f"{name:<12}" + "".join(f"{value * 1e3:>10.1f}" for value in values))
        rows.append(f"{counted / steady['together'].sum():.2f} images/s, batch {batch_size}")
        return "\n".join(rows)


def product_rate(threads: int, size: int = 3072) -> float:
    """Returns the floating-point operations a second of a float32 matrix product in ONNX Runtime, the best of three."""
    from onnx import TensorProto, helper

    from paddleseg_psp.bundle.sessions import OnnxSession

    random = np.random.RandomState(0)
    weight = helper.make_tensor(
        "w", TensorProto.FLOAT, [size, size], random.rand(size, size).astype(np.float32).tobytes(), raw=True
    )
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [size, size]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "product", shapes[:1], shapes[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session, x = OnnxSession(model.SerializeToString(), "cpu", threads), random.rand(size, size).astype(np.float32)
    seconds = []
    for _ in range(4):
        begun = time.perf_counter()
        session.run(x)
        seconds.append(time.perf_counter() - begun)
    return 2 * size**3 / min(seconds[1:])
