"""An int8 version of a bundle's ONNX file, measured before it is kept."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections import namedtuple

import numpy as np
import yaml
from paddle.io import Dataset

from paddleseg_psp.bundle.description import read_description
from paddleseg_psp.bundle.predictor import load_predictor
from paddleseg_psp.bundle.scoring import evaluate_bundle
from paddleseg_psp.data import checked
from paddleseg_psp.engine.views import NumpyArrays
from paddleseg_psp.errors import UserError
from paddleseg_psp.files import atomic_path, sha256

INT8 = "model_int8.onnx"

Report = namedtuple("Report", "megabytes images_per_second miou")
Report.__doc__ = "Size, speed and mean IoU of the float32 and of the int8 model, a pair each."


def quantize_bundle(
    bundle: str, calibration: Dataset, evaluation: Dataset, threads: int | None = None, images: int = 32
) -> Report:
    """Adds model_int8.onnx to a bundle: weights and activations of convolutions and products in 8 bits.

    ONNX Runtime's static quantization, a scale for each output channel; the ranges of activations are those that occur on
    `images` images, spread over the calibration set.

    Args:
        bundle: the folder; it has model.onnx.
        calibration, evaluation: data sets of paddleseg or this package.
        threads: CPU threads; None takes all cores.
        images: for calibration.

    Returns:
        Measured on the evaluation set.

    Raises:
        UserError: no model.onnx, or an int8 model that is not faster here, which is then not kept.
    """
    path = os.path.join(bundle, "deploy.yaml")
    description = read_description(path)
    predictor = load_predictor(bundle, "onnxruntime", threads=threads)
    with tempfile.TemporaryDirectory(dir=bundle, prefix=".int8.") as folder:
        made = os.path.join(folder, INT8)
        _quantize(os.path.join(bundle, description["onnx"]), made, _inputs(predictor, checked(calibration), images))
        trial = {**description, "onnx_int8": os.path.relpath(made, bundle)}
        quantized = load_predictor(bundle, "onnxruntime", threads=threads, precision="int8", description=trial)
        pair, files = (predictor, quantized), (os.path.join(bundle, description["onnx"]), made)
        speed = _images_per_second(pair, checked(evaluation))
        report = Report(
            tuple(os.path.getsize(file) / 2**20 for file in files),
            speed,
            tuple(evaluate_bundle(item, evaluation).mean_iou() for item in pair),
        )
        if speed[1] <= speed[0]:
            raise UserError(
                f"int8 is not faster here: {speed[1]:.2f} images a second, float32 {speed[0]:.2f}; nothing was kept. "
                "Processors with VNNI or AMX instructions gain"
            )
        os.replace(made, os.path.join(bundle, INT8))
    sums = {**(description.get("sha256") or {}), INT8: sha256(os.path.join(bundle, INT8))}
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        entry = {"Deploy": {**description, "onnx_int8": INT8, "sha256": sums}}
        yaml.safe_dump(entry, file, sort_keys=False, default_flow_style=None, allow_unicode=True)
    return report


def _inputs(predictor, dataset, images):
    """Yields the network's input for each image: one view [N, C, h, w], repeated for a bundle with a fixed batch size."""
    for turn, index in enumerate(np.unique(np.linspace(0, len(dataset) - 1, images).astype(int))):
        yield _view(predictor, dataset.read(index)[0], turn)


def _view(predictor, image, turn):
    views = predictor.views.inputs(predictor.prepare(image)[0][np.newaxis], NumpyArrays)
    return np.repeat(views[turn % len(views)], max(predictor.input_shape[0], 1), axis=0)


def _quantize(source, target, inputs):
    import onnxruntime
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def get_next(self):
            batch = next(inputs, None)
            return None if batch is None else {"x": batch}

    # Normalizations folded into convolutions and weights as initializers: quantize_static sees no others.
    folded = target + ".folded"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = folded
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    settings = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
    logging.disable(logging.WARNING)  # it recommends what was just done
    onnxruntime.set_default_logger_severity(3)
    try:
        quantize_static(folded, target, Reader(), op_types_to_quantize=["Conv", "MatMul"], **settings)
    finally:
        logging.disable(logging.NOTSET)
        onnxruntime.set_default_logger_severity(2)
    os.remove(folded)


def _images_per_second(predictors, dataset, rounds=5):
    """Returns each predictor's rate on an image of the data set, the best of rounds in turns."""
    batch = _view(predictors[0], dataset.read(0)[0], 0)
    seconds = [[] for _ in predictors]
    for _ in range(rounds + 1):  # the first one warms up
        for own, predictor in zip(seconds, predictors):
            begun = time.perf_counter()
            predictor.run(batch)
            own.append(time.perf_counter() - begun)
    return tuple(len(batch) / min(own[1:]) for own in seconds)
