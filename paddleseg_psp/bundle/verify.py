"""Checking that a bundle computes what the network computes."""

from __future__ import annotations

import hashlib
import os
from collections import namedtuple
from collections.abc import Sequence

import cv2
import numpy as np
import paddle
from paddle import nn

from paddleseg_psp.bundle.description import read_description
from paddleseg_psp.bundle.predictor import load_predictor
from paddleseg_psp.engine.views import NumpyArrays
from paddleseg_psp.errors import UserError

MIN_AGREEMENT = 0.9999  # share of pixels with the same class
MAX_ERROR = 1e-4  # of probabilities or logits, relative
_DYNAMIC_SIZES = ((128, 256), (97, 161))  # where height and width may vary: a round size, and one that nothing divides

Comparison = namedtuple("Comparison", "backend shape agreement error")
Comparison.__doc__ = """How a bundle's output compares with the network's: what ran it, the input's shape, the share of pixels
with the same class, and the relative error ‖a - b‖ / ‖b‖ of logits and probabilities."""


@paddle.no_grad()
def verify_bundle(bundle: str, model: nn.Layer, images: Sequence[np.ndarray] = ()) -> list[Comparison]:
    """Compares a bundle with the network it was made from: its parameters, and its output from every backend it is for.

    That is Paddle Inference with oneDNN on and off and, where it has model.onnx, ONNX Runtime. Logits are compared even where
    the bundle gives classes.

    Args:
        bundle: the folder.
        model: the network, in evaluation mode.
        images: paths or arrays [H, W, C], besides made-up inputs; those that do not fit a fixed input shape are left out.

    Returns:
        What was compared.

    Raises:
        UserError: a parameter is not the network's, or values that are not finite, classes that differ on more than
            1 - MIN_AGREEMENT of the pixels, or values by more than MAX_ERROR.
    """
    description = read_description(os.path.join(bundle, "deploy.yaml"))
    runs = [
        (f"Paddle Inference, oneDNN {'on' if onednn else 'off'}", load_predictor(bundle, onednn=onednn))
        for onednn in (True, False)
    ]
    if "onnx" in description:
        runs.append(("ONNX Runtime", load_predictor(bundle, "onnxruntime")))
    _check_parameters(os.path.join(bundle, description["model"]), model)
    predictor = runs[0][1]
    batches = [_sample_batch(shape) for shape in _input_shapes(description["input_shape"])]
    shown = [predictor.views.inputs(predictor.prepare(image)[0][np.newaxis], NumpyArrays)[0][0] for image in images]
    batches += _fitting(shown, description["input_shape"])
    expected = [_finite_logits(model, batch) for batch in batches]
    comparisons = []
    for name, predictor in runs:
        for batch, logits in zip(batches, expected):
            error = _relative_error(predictor.logits(batch), logits)
            comparisons.append(_compare(name, predictor.run(batch), predictor.output_op, batch.shape, logits, error))
    return comparisons


def summary(comparisons: Sequence[Comparison]) -> list[tuple]:
    """Returns for each backend the number of inputs, their sizes "HxW", the least agreement and the largest error."""
    rows = []
    for backend in dict.fromkeys(item.backend for item in comparisons):
        own = [item for item in comparisons if item.backend == backend]
        sizes = dict.fromkeys("x".join(map(str, item.shape[2:])) for item in own)
        agreement, error = min(item.agreement for item in own), max(item.error for item in own)
        rows.append((backend, len(own), ", ".join(sizes), agreement, error))
    return rows


def _finite_logits(model, batch):
    logits = model(paddle.to_tensor(batch))[0].numpy()
    if not np.isfinite(logits).all():
        raise UserError(
            f"the network's own output at input {list(batch.shape)} is not finite: its weights have diverged or are damaged"
        )
    return logits


def _relative_error(values, expected):
    return float(np.linalg.norm(values - expected) / np.linalg.norm(expected))


def _check_parameters(graph, model):
    """Raises UserError if a parameter of the graph does not equal one of the network's to the bit, or is not finite."""
    wrong = [name for name, value in model.named_parameters() if not bool(paddle.isfinite(value.astype("float32")).all())]
    if wrong:
        raise UserError(
            f"{len(wrong)} parameters of the network are not finite, e.g. {wrong[0]}: it has diverged or is damaged"
        )
    own = {_digest(value) for value in model.state_dict().values()}
    loaded = paddle.jit.load(os.path.splitext(graph)[0]).state_dict().values()
    foreign = [value for value in loaded if _digest(value) not in own]
    if foreign:
        raise UserError(
            f"the exported network differs from the trained one: {len(foreign)} of {len(loaded)} parameters are not the "
            f"network's, one of them {foreign[0].shape}; export it again"
        )


def _digest(tensor):
    values = np.ascontiguousarray(tensor.numpy())
    return values.shape, str(values.dtype), hashlib.sha256(values).digest()


def _compare(backend, output, output_op, shape, logits, error):
    """Returns a Comparison of an output, and of logits that have a relative error, with the network's logits."""
    if output_op == "softmax":
        error = max(error, _relative_error(output, NumpyArrays.softmax(logits)))
    agreement = float(((output if output_op == "argmax" else output.argmax(1)) == logits.argmax(1)).mean())
    if agreement < MIN_AGREEMENT or not error <= MAX_ERROR:
        raise UserError(
            f"the exported network differs from the trained one: at input {list(shape)} in {backend} the classes agree on "
            f"{agreement:.4%} of the pixels, and the relative error is {error:.2g}"
        )
    return Comparison(backend, tuple(shape), agreement, error)


def _input_shapes(shape):
    channels, height, width = shape[1:]
    sizes = dict.fromkeys((h if height == -1 else height, w if width == -1 else width) for h, w in _DYNAMIC_SIZES)
    return [(count if shape[0] == -1 else shape[0], channels, *size) for count, size in enumerate(sizes, 1)]


def _fitting(images, shape):
    """Returns each prepared image [C, h, w] that an input shape allows as a batch; a fixed batch repeats it."""
    fitting = [image for image in images if all(fixed in (-1, size) for fixed, size in zip(shape[1:], image.shape))]
    return [np.repeat(image[np.newaxis], max(shape[0], 1), axis=0) for image in fitting]


def _sample_batch(shape):
    """Returns reproducible inputs with structure at several scales, of about unit size."""
    random = np.random.RandomState(0)
    count, channels, height, width = shape
    batch = random.randn(count, height, width, channels).astype(np.float32)
    for scale in (4, 16, 64):
        coarse = random.randn(count, height // scale + 2, width // scale + 2, channels).astype(np.float32)
        batch += np.stack([cv2.resize(item, (width, height)).reshape(height, width, channels) for item in coarse])
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2)) / 2
