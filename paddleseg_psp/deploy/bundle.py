"""Writing the bundle: the graph, its parameters, and deploy.yaml, which says how to use them."""

import os
import shutil

import paddle
import yaml
from paddle import nn

from paddleseg_psp.deploy.verify import verify_bundle
from paddleseg_psp.files import require_writable

OUTPUT_OPS = ("argmax", "softmax", "none")
DYNAMIC_SHAPE = (-1, 3, -1, -1)


class _ExportedNetwork(nn.Layer):
    """A network with one output: its classes [N, H, W] int32, or probabilities or logits [N, num_classes, H, W]."""

    def __init__(self, network, output_op):
        super().__init__()
        self.network = network
        self.output_op = output_op

    def forward(self, x):
        logits = self.network(x)[0]
        if self.output_op == "argmax":
            return paddle.argmax(logits, axis=1, dtype="int32")
        return nn.functional.softmax(logits, axis=1) if self.output_op == "softmax" else logits


def export_bundle(model, save_dir, transforms=(), input_shape=DYNAMIC_SHAPE, output_op="argmax", palette=None):
    """Writes a network as model.json, model.pdiparams and deploy.yaml, after checking that they compute what it computes.

    Files appear in save_dir, together, only once they are verified; what else is there stays.

    Args:
        model (Layer): the network; it is left in evaluation mode.
        save_dir (str): folder for the bundle.
        transforms (list of dict): what an image goes through first, as in a configuration.
        input_shape: (N, C, H, W), -1 for what may vary.
        output_op (str): "argmax" gives classes [N, H, W] int32, "softmax" probabilities and "none" logits
            [N, num_classes, H, W] float32.
        palette: a (red, green, blue) colour for each class, for pictures.

    Returns:
        list: the comparisons of `verify_bundle`.

    Raises:
        UserError: no place to write, or results that differ from the network's.
    """
    if output_op not in OUTPUT_OPS:
        raise ValueError(f"output_op must be one of {', '.join(OUTPUT_OPS)}, not {output_op!r}")
    require_writable(save_dir)
    model.eval()
    folder = os.path.abspath(save_dir)
    temporary = os.path.join(os.path.dirname(folder), f".{os.path.basename(folder)}.{os.getpid()}")
    try:
        os.makedirs(temporary)
        _write_graph(model, temporary, input_shape, output_op)
        graph = next(name for name in os.listdir(temporary) if name in ("model.json", "model.pdmodel"))
        _write_description(temporary, graph, transforms, input_shape, output_op, palette)
        comparisons = verify_bundle(temporary, model)
        os.makedirs(folder, exist_ok=True)
        for name in (graph, "model.pdiparams", "deploy.yaml"):
            os.replace(os.path.join(temporary, name), os.path.join(folder, name))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return comparisons


def _write_graph(model, folder, input_shape, output_op):
    shape = [None if size == -1 else size for size in input_shape]
    spec = paddle.static.InputSpec(shape, "float32", name="x")
    network = _ExportedNetwork(model, output_op)
    network.eval()
    # to_static would otherwise fall back to tracing, which ignores the input spec
    graph = paddle.jit.to_static(network, input_spec=[spec], full_graph=True)
    paddle.jit.save(graph, os.path.join(folder, "model"))


def _write_description(folder, graph, transforms, input_shape, output_op, palette):
    description = {
        "model": graph,
        "params": "model.pdiparams",
        "transforms": [dict(item) for item in transforms],
        "input_shape": list(input_shape),
        "output_op": output_op,
        "output_dtype": "int32" if output_op == "argmax" else "float32",
    }
    if palette is not None:
        description["palette"] = [list(map(int, color)) for color in palette]
    with open(os.path.join(folder, "deploy.yaml"), "w", encoding="utf-8") as file:
        yaml.safe_dump({"Deploy": description}, file, sort_keys=False, default_flow_style=None)
