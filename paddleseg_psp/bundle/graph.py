"""A network as a static graph: Paddle's, and ONNX's made of that."""

from __future__ import annotations

import contextlib
import copy
import os
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import paddle
from paddle import nn

from paddleseg_psp.errors import UserError

OUTPUT_OPS = ("argmax", "softmax", "none")
OPSET = 13

# In a process of its own, since the exporter may abort; its default optimize_tool installs packages.
_CONVERT = """
import sys, paddle2onnx
paddle2onnx.export(sys.argv[1], sys.argv[2], sys.argv[3], opset_version=int(sys.argv[4]), optimize_tool=None)
"""


class _ExportedNetwork(nn.Layer):
    """A network whose first output is chosen by `output_op`; logits follow after classes or probabilities.

    Logits are what windows and resizing need to give what evaluation gives.
    """

    def __init__(self, network, output_op):
        super().__init__()
        self.network = network
        self.output_op = output_op

    def forward(self, x):
        logits = self.network(x)[0]
        if self.output_op == "argmax":
            return paddle.argmax(logits, axis=1, dtype="int32"), logits
        return (nn.functional.softmax(logits, axis=1), logits) if self.output_op == "softmax" else logits


def write_graph(model: nn.Layer, folder: str, input_shape: Sequence[int | None], output_op: str) -> str:
    """Writes a network as <folder>/model.json (model.pdmodel before Paddle 3) and model.pdiparams; returns the graph's name."""
    shape = [None if size == -1 else size for size in input_shape]
    network = _ExportedNetwork(model, output_op)
    network.eval()
    # to_static would otherwise fall back to tracing, which ignores the input spec
    spec = [paddle.static.InputSpec(shape, "float32", name="x")]
    paddle.jit.save(paddle.jit.to_static(network, input_spec=spec, full_graph=True), os.path.join(folder, "model"))
    return next(name for name in os.listdir(folder) if name in ("model.json", "model.pdmodel"))


def write_onnx(model: nn.Layer, path: str, input_shape: Sequence[int | None], output_op: str) -> None:
    """Writes a network as an ONNX file of standard operators, PSANet's replaced by plain ones.

    Raises:
        UserError: paddle2onnx fails.
    """
    folder = f"{path}.graph"
    os.makedirs(folder)
    with _plain_operators():
        graph = write_graph(model, folder, input_shape, output_op)
    files = [os.path.join(folder, name) for name in (graph, "model.pdiparams")]
    process = subprocess.run(
        [sys.executable, "-c", _CONVERT, *files, path, str(OPSET)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if process.returncode or not os.path.isfile(path):
        reason = " ".join(process.stdout.split())[-300:] or f"exit code {process.returncode}"
        raise UserError(f"paddle2onnx could not convert the network: {reason}")
    _squeeze_to_scalars(path)
    for file in files:
        os.remove(file)
    os.rmdir(folder)


def _squeeze_to_scalars(path):
    """Replaces reshapes to a scalar, which some runtimes refuse (OpenVINO 2025), by squeezes."""
    import onnx

    model = onnx.load(path)
    empty = {
        node.output[0]
        for node in model.graph.node
        if node.op_type == "Constant" and [list(item.t.dims) for item in node.attribute if item.name == "value"] == [[0]]
    }
    for node in model.graph.node:
        if node.op_type == "Reshape" and node.input[1] in empty:
            node.op_type = "Squeeze"
            del node.input[1:]
            del node.attribute[:]
    onnx.save(model, path)


@contextlib.contextmanager
def _plain_operators():
    before = os.environ.get("PSA_MASK_IMPL")
    os.environ["PSA_MASK_IMPL"] = "reference"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PSA_MASK_IMPL"]
        else:
            os.environ["PSA_MASK_IMPL"] = before


def with_half_weights(model: nn.Layer) -> nn.Layer:
    """Returns a copy of a network that keeps its matrices and kernels as float16 and computes with them as float32.

    An inference engine converts them once, as it loads the graph.

    Raises:
        UserError: a weight is beyond float16's range.
    """
    model, halves = copy.deepcopy(model), []
    for layer in model.sublayers(include_self=True):
        for name, parameter in list(layer._parameters.items()):
            if parameter is None or parameter.ndim < 2:
                continue
            with np.errstate(over="ignore"):
                values = parameter.numpy().astype(np.float16)
            if not np.isfinite(values).all():
                raise UserError(f"weights of {type(layer).__name__} are beyond float16's range; export them as float32")
            del layer._parameters[name]
            half = paddle.create_parameter(values.shape, "float16", default_initializer=nn.initializer.Assign(values))
            layer.add_parameter(f"{name}_half", half)
            halves.append((layer, name))

    def widen(*_):
        for layer, name in halves:
            widened = paddle.cast(getattr(layer, f"{name}_half"), "float32")
            object.__setattr__(layer, name, widened)  # Layer's own would register it

    model.register_forward_pre_hook(widen)
    model.eval()
    return model
