"""Writing the bundle: the graph, its parameters, deploy.yaml, which says how to use them, and a model card."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence

import numpy as np
import paddle
import yaml
from paddle import nn

from paddleseg_psp.bundle.card import write_card
from paddleseg_psp.bundle.graph import OUTPUT_OPS, with_half_weights, write_graph, write_onnx
from paddleseg_psp.bundle.predictor import has_operators
from paddleseg_psp.bundle.quantization import INT8
from paddleseg_psp.bundle.verify import Comparison, verify_bundle
from paddleseg_psp.engine.views import WHOLE, Views
from paddleseg_psp.errors import UserError
from paddleseg_psp.files import require_writable, sha256
from paddleseg_psp.models.cost import multiply_adds
from paddleseg_psp.models.layers import PointWiseSpatialAttention
from paddleseg_psp.ops import library

DYNAMIC_SHAPE = (-1, 3, -1, -1)
ONNX, OPERATORS = "model.onnx", "psa_operators.so"
# All that a bundle may have; deploy.yaml comes last and goes first, so that none is beside files that do not belong to it.
FILES = ("model.json", "model.pdmodel", "model.pdiparams", ONNX, INT8, OPERATORS, "MODEL_CARD.md", "deploy.yaml")


def export_bundle(
    model: nn.Layer,
    save_dir: str,
    transforms: Sequence[dict] = (),
    input_shape: Sequence[int | None] = DYNAMIC_SHAPE,
    output_op: str = "argmax",
    palette: Sequence[Sequence[int]] | None = None,
    class_names: Sequence[str] | None = None,
    ignore_index: int = 255,
    onnx: bool = False,
    half_weights: bool = False,
    verify: bool = True,
    images: Sequence[np.ndarray] = (),
    metrics: dict | None = None,
    views: Views = WHOLE,
    max_value: float | None = None,
    prove: Callable[[str], list[str]] | None = None,
) -> list[Comparison]:
    """Writes a network as a bundle, after checking that it computes what the network computes.

    The bundle has model.json and model.pdiparams, deploy.yaml, MODEL_CARD.md, with `onnx` model.onnx, and for
    PSANet the library of its operators. Files appear in save_dir, together, only once they are verified; what else is there
    stays.

    Args:
        model: the network; it is left in evaluation mode.
        save_dir: folder for the bundle.
        transforms: what an image goes through first, as in a configuration.
        input_shape: (N, C, H, W), -1 for what may vary.
        output_op: "argmax" gives classes [N, H, W] int32, "softmax" probabilities and "none" logits
            [N, num_classes, H, W] float32. After classes or probabilities the logits are a second output, which windows,
            scales, flips and resized images need.
        palette: a (red, green, blue) color for each class.
        class_names: a name for each class.
        ignore_index: the label value that is ignored.
        onnx: write model.onnx too.
        half_weights: keep weights as float16, in half the space; the network of the rounded weights is what is verified.
        verify: run the bundle and the network, see `verify_bundle`.
        images: paths or arrays [H, W, C] to verify with, besides made-up inputs.
        metrics: name and value, for the model card.
        views: how the network sees an image.
        max_value: of a white pixel, see `read_image`.
        prove: called with the folder of the bundle before its files appear; it may raise UserError, and returns lines for the
            model card.

    Returns:
        The comparisons of `verify_bundle`.

    Raises:
        UserError: no place to write, results that differ from the network's, an attention that needs a fixed input_shape, or
            one that the views do not fit.
    """
    if output_op not in OUTPUT_OPS:
        raise ValueError(f"output_op must be one of {', '.join(OUTPUT_OPS)}, not {output_op!r}")
    require_writable(save_dir)
    _require_fixed_size(model, input_shape, views)
    _require_views_fit(input_shape, views)
    model.eval()
    exported = with_half_weights(model) if half_weights else model
    folder = os.path.abspath(save_dir)
    work = os.path.join(os.path.dirname(folder), f".{os.path.basename(folder)}.{os.getpid()}")
    try:
        os.makedirs(work)
        files = _write(exported, work, input_shape, output_op, onnx)
        description = {
            "model": files.pop("model"),
            "params": files.pop("params"),
            "transforms": [dict(item) for item in transforms],
            "input_shape": list(input_shape),
            "output_op": output_op,
            "output_dtype": "int32" if output_op == "argmax" else "float32",
            "ignore_index": ignore_index,
            **({"test_config": views.options()} if views != WHOLE else {}),
            **({"max_value": max_value} if max_value is not None else {}),
            "weights": "float16" if half_weights else "float32",
            "paddle_version": paddle.__version__,
            **_about(model, input_shape, class_names, palette),
            **files,
        }
        _describe(work, description)
        comparisons = verify_bundle(work, exported, images) if verify else []
        proof = prove(work) if prove else []
        write_card(os.path.join(work, "MODEL_CARD.md"), model, description, comparisons, metrics, proof)
        _publish(work, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return comparisons


def _write(model, folder, input_shape, output_op, onnx):
    """Writes the graph, its parameters, with `onnx` model.onnx, and the library of its operators where it has some.

    Returns:
        The files' names by what deploy.yaml calls them.
    """
    files = {"model": write_graph(model, folder, input_shape, output_op), "params": "model.pdiparams"}
    if onnx:
        write_onnx(model, os.path.join(folder, ONNX), input_shape, output_op)
        files["onnx"] = ONNX
    operators = library.find_library() if has_operators(os.path.join(folder, files["model"])) else None
    if operators:
        shutil.copyfile(operators, os.path.join(folder, OPERATORS))
        files["operators"] = OPERATORS
    return files


def _describe(folder, description):
    """Adds the checksums of a bundle's files to its description, and writes that."""
    description["sha256"] = {name: sha256(os.path.join(folder, name)) for name in sorted(os.listdir(folder))}
    with open(os.path.join(folder, "deploy.yaml"), "w", encoding="utf-8") as file:
        yaml.safe_dump({"Deploy": description}, file, sort_keys=False, default_flow_style=None, allow_unicode=True)


def _publish(new, folder):
    """Puts the files of a new bundle in place of those of an old one."""
    os.makedirs(folder, exist_ok=True)
    for name in reversed(FILES):
        if os.path.exists(os.path.join(folder, name)):
            os.remove(os.path.join(folder, name))
    for name in FILES:
        if os.path.exists(os.path.join(new, name)):
            os.replace(os.path.join(new, name), os.path.join(folder, name))


def _require_fixed_size(model, input_shape, views):
    attentions = [layer for layer in model.sublayers() if isinstance(layer, PointWiseSpatialAttention)]
    if -1 in input_shape[2:] and any(layer.convention.depends_on_size or layer.compact for layer in attentions):
        size = "{} {}, the size of its windows".format(*views.window) if views.window else "H W"
        raise UserError(
            "this PSANet's attention (compact, or of mmsegmentation's convention) depends on the image size: export it for one "
            f"size with --input_shape 1 3 {size}"
        )


def _require_views_fit(input_shape, views):
    """Raises UserError if the views cannot produce an input of the fixed size."""
    fixed = tuple(input_shape[2:])
    if views.window and any(own not in (-1, side) for own, side in zip(fixed, views.window)):
        window = "{} {}".format(*views.window)
        raise UserError(
            f"--input_shape fixes {fixed[0]}x{fixed[1]} (height x width), but test_config shows the network windows: "
            f"export with --input_shape 1 3 {window}, or for whole images with --opts test_config=null"
        )
    if views.augment and not views.window and fixed != (-1, -1) and set(views.scales) != {1.0}:
        raise UserError(
            "test_config shows the network images at several scales, so that --input_shape cannot fix their size: leave it "
            "out, or export with --opts test_config=null"
        )


def _about(model, input_shape, class_names, palette):
    """Returns the entries of deploy.yaml that describe the network."""
    about = {"multiply_adds_per_pixel": _multiply_adds_per_pixel(model, input_shape)}
    masks = [list(layer.mask_size) for layer in model.sublayers() if isinstance(layer, PointWiseSpatialAttention)]
    if masks:
        about["mask_size"] = masks[0]
    if class_names is not None:
        about["class_names"] = list(map(str, class_names))
    if palette is not None:
        about["palette"] = [list(map(int, color)) for color in palette]
    return about


def _multiply_adds_per_pixel(model, input_shape):
    channels, height, width = (fixed if fixed != -1 else size for fixed, size in zip(input_shape[1:], (3, 256, 512)))
    return round(sum(multiply_adds(model, [1, channels, height, width]).values()) / (height * width))
