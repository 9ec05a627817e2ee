"""Running a bundle."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import paddle
from paddleseg import transforms as T

from paddleseg_psp import registry
from paddleseg_psp.bundle.description import (
    bundle_file,
    read_description,
    require_own_values,
    require_plain_graph,
    require_whole_parameters,
)
from paddleseg_psp.bundle.sessions import OnnxSession, OpenVinoSession, PaddleSession, Session
from paddleseg_psp.bundle.timing import Stopwatch
from paddleseg_psp.data import read_image
from paddleseg_psp.data.transforms import PadShortSides, SwapRedAndBlue
from paddleseg_psp.engine.views import NumpyArrays, Views, restored
from paddleseg_psp.environment import has_bfloat16, processors
from paddleseg_psp.errors import UserError, suggestion
from paddleseg_psp.files import sha256
from paddleseg_psp.log import logger
from paddleseg_psp.ops import library
from paddleseg_psp.sizes import width_height

BACKENDS = ("paddle", "onnxruntime", "openvino")
PRECISIONS = {"fp32": BACKENDS, "bf16": ("paddle", "openvino"), "int8": ("onnxruntime",)}  # and the backends that have them
_KEEP_SIZE = (T.Normalize, T.Padding, PadShortSides, SwapRedAndBlue)  # transforms after which classes need no resizing


def load_predictor(
    bundle: str,
    backend: str = "paddle",
    device: str = "cpu",
    threads: int | None = None,
    onednn: bool = True,
    precision: str = "fp32",
    description: dict | None = None,
    trust_operators: bool = False,
    emulate: bool = False,
) -> Predictor:
    """Returns a `Predictor` for a bundle.

    Args:
        bundle: the folder, or its deploy.yaml.
        backend: "paddle" (Paddle Inference), or, for bundles exported with --onnx, "onnxruntime" or "openvino".
        device: "cpu" or "gpu".
        threads: CPU threads; None takes all cores.
        onednn: let Paddle Inference use oneDNN's kernels on the CPU; faster, and the same results.
        precision: "fp32"; "bf16" on the CPU in paddle and openvino, which is faster on processors with AVX512_BF16 or AMX and
            rounds products to 8 bits; or with onnxruntime "int8" where deploy/quantize.py has added that.
        description: in place of what deploy.yaml says.
        trust_operators: load the bundle's compiled operators, a program, where this machine cannot build its own.
        emulate: take bf16 on a processor without it too, where it is slow or has no effect.

    Raises:
        UserError: an incomplete bundle, a backend that is not installed, or PSANet's operators that cannot be loaded.
    """
    if backend not in BACKENDS:
        raise UserError(f"there is no backend {backend!r}{suggestion(backend, BACKENDS)}")
    _require_precision(precision, backend, device, emulate)
    path = os.path.join(bundle, "deploy.yaml") if os.path.isdir(bundle) else bundle
    description, folder = description or read_description(path), os.path.dirname(path)
    if backend == "paddle":
        graph, parameters = (bundle_file(folder, description, key) for key in ("model", "params"))
        require_plain_graph(graph)
        require_whole_parameters(parameters)
        _load_operators(graph, folder, description, trust_operators)
        session: Session = PaddleSession(graph, parameters, device, threads or processors(), onednn, precision == "bf16")
    else:
        key, advice = (
            ("onnx_int8", "run deploy/quantize.py first") if precision == "int8" else ("onnx", "export it with --onnx")
        )
        if key not in description:
            raise UserError(f"{path}: the bundle has no {key} file for the backend {backend}; {advice}")
        model = bundle_file(folder, description, key)
        require_own_values(model)
        if backend == "onnxruntime":
            session = OnnxSession(model, device, threads or processors())
        else:
            session = OpenVinoSession(model, device, threads or processors(), precision == "bf16")
    return Predictor(description, session)


def _require_precision(precision, backend, device, emulate):
    """Raises UserError for a precision that a backend lacks, or that this processor only emulates."""
    if backend not in PRECISIONS.get(precision, ()):
        raise UserError(
            f"the backend {backend} has no precision {precision!r}: fp32 everywhere, bf16 in paddle and openvino, int8 in "
            "onnxruntime"
        )
    if precision == "bf16" and device != "cpu":
        raise UserError("bf16 is for the CPU: leave --device cpu, or take fp32")
    if precision == "bf16" and not (emulate or has_bfloat16()):
        raise UserError(
            "this processor has no bfloat16 (AVX512_BF16 or AMX): bf16 would be emulated or ignored, and gain nothing; take "
            "fp32, or --emulate to try"
        )


def has_operators(graph: str) -> bool:
    """Returns whether a graph's file names PSANet's operators."""
    with open(graph, "rb") as file:
        content = file.read()
    return any(name.encode() in content for name in library.OPERATORS)


def _load_operators(graph, folder, description, trusted):
    """Registers PSANet's operators if a graph has them: this machine's own, or those of the bundle if the user trusts them."""
    if not has_operators(graph):
        return
    try:
        library.load_operator(required=True)
    except RuntimeError as error:
        name = description.get("operators")
        if (
            not name
            or not os.path.lexists(os.path.join(folder, name))
            or description.get("paddle_version") != paddle.__version__
        ):
            raise UserError(str(error))
        _load_program(bundle_file(folder, description, "operators"), trusted, error)


def _load_program(program, trusted, reason):
    """Registers the operators in a library of a bundle, which is a program (docs/security.md)."""
    with tempfile.TemporaryDirectory() as private:  # so that what is loaded is what was hashed
        copy = Path(shutil.copy(program, private))
        digest = sha256(str(copy))
        if not trusted:
            raise UserError(
                f"{reason} The bundle brings {program} (SHA-256 {digest}): it is a program, which runs as you do. If you trust "
                "whoever made it, --trust-operators loads it"
            )
        logger.warning(f"Loading the program {program}, SHA-256 {digest}, because of --trust-operators")
        problem = library.register(copy)
    if problem:
        raise UserError(problem)


class _NearestArrays(NumpyArrays):
    """Resizing for classes, which cannot be mixed."""

    @staticmethod
    def resize(x, size):
        return cv2.resize(x[0, 0], width_height(size), interpolation=cv2.INTER_NEAREST)[np.newaxis, np.newaxis]


class Predictor:
    """An exported network.

    Attributes:
        input_shape (list): (N, C, H, W), -1 for what may vary.
        output_op (str): "argmax", "softmax" or "none".
        palette: a (red, green, blue) color for each class, or None.
        class_names: a name for each class, or None.
        max_value: the value of a white pixel in image files, or None; see `read_image`.
        views (Views): how it looks at images: as evaluation does with the configuration it was exported with.
    """

    def __init__(self, description: dict, session: Session) -> None:
        self._session = session
        self.input_shape = description["input_shape"]
        self.output_op = description["output_op"]
        self.palette = description.get("palette")
        self.class_names = description.get("class_names")
        self.views = Views.from_options(description.get("test_config") or {}, "deploy.yaml: test_config")
        self._has_logits = self.output_op != "argmax" or session.outputs > 1
        self.max_value = description.get("max_value")
        transforms = [
            registry.build_transform(spec, f"deploy.yaml: transforms.{i}") for i, spec in enumerate(description["transforms"])
        ]
        self._transforms = T.Compose(transforms, img_channels=self.input_shape[1])
        self._resizes = not all(isinstance(item, _KEEP_SIZE) for item in transforms)

    def run(self, batch: np.ndarray, output: int = 0) -> np.ndarray:
        """Returns an output of the network, by default the first one, for prepared images [N, C, H, W] float32.

        Where the bundle fixes N, the batch runs in pieces, the last one filled up.
        """
        given, fixed = list(batch.shape), self.input_shape
        if len(given) != 4 or any(size not in (-1, own) for size, own in zip(fixed[1:], given[1:])):
            raise UserError(
                f"the bundle takes inputs of the shape {fixed}, not {given}; export it with --input_shape "
                f"{' '.join(map(str, [-1, fixed[1], *given[2:]]))}, or without for any size"
            )
        batch = np.ascontiguousarray(batch, np.float32)
        if fixed[0] in (-1, len(batch)):
            return self._session.run(batch, output)
        filled = np.concatenate([batch, np.repeat(batch[-1:], -len(batch) % fixed[0], axis=0)])
        parts = np.split(filled, len(filled) // fixed[0])
        return np.concatenate([self._session.run(part, output) for part in parts])[: len(batch)]

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """Returns the logits [N, K, H, W] of prepared images, or probabilities if an older bundle has only those.

        Raises:
            UserError: a bundle that gives classes only.
        """
        if not self._has_logits:
            raise UserError(
                "this bundle gives classes only, but windows, scales, flips and resized images need logits: export it again, "
                "or with --output_op none"
            )
        return self.run(batch, self._session.outputs - 1)

    def look(self, batch: np.ndarray) -> np.ndarray:
        """Returns scores [N, K, H, W] or classes [N, H, W] of prepared images [N, C, H, W], by the bundle's views."""
        resizes = self._resizes and self._has_logits
        if not (resizes or self.views.augment or self.views.window):
            return self.run(batch)
        if resizes or self.views.augment:
            return self.views.scores(self.logits, batch, NumpyArrays)
        strips = self.views.strips(self.logits, batch, NumpyArrays)
        return np.concatenate([strip.argmax(1).astype(np.int32) for strip in strips], axis=1)

    def fits(self, shape: Sequence[int]) -> bool:
        """Returns whether the network accepts the windows, scales and flips of a prepared image of a shape [C, h, w]."""
        inputs = [(shape[0], *size) for size in self.views.input_sizes(shape[1:])]
        return all(fixed in (-1, own) for item in inputs for fixed, own in zip(self.input_shape[1:], item))

    def prepare(self, image: str | os.PathLike | np.ndarray) -> tuple[np.ndarray, list]:
        """Returns an image ready for `run` as [C, h, w], and the steps that lead back to its size.

        Args:
            image: a path, or an array [H, W, C] (blue, green, red) as `read_image` gives it.
        """
        if isinstance(image, np.ndarray):
            array = image
        else:
            array = read_image(os.fspath(image), self.input_shape[1], self.max_value)
        sample = self._transforms({"img": array.astype("float32"), "gt_fields": []})
        return sample["img"], sample["trans_info"]

    def classes(self, output: np.ndarray, steps: list) -> np.ndarray:
        """Returns the class map [H, W] at the size of the original image, uint8 or, for more than 256 classes, uint16.

        Args:
            output: one image's output of `look`, or of `run`: scores [K, h, w] are resized as evaluation resizes them, classes
                [h, w] take the nearest one.
            steps: as `prepare` gave them.
        """
        if output.ndim == 3:
            classes = NumpyArrays.argmax(restored(output[np.newaxis], steps, NumpyArrays))[0]
        else:
            classes = restored(output[np.newaxis, np.newaxis].astype(np.uint16), steps, _NearestArrays)[0, 0]
        return classes.astype(np.uint8 if classes.max(initial=0) < 256 else np.uint16)

    def predict(
        self,
        images: Sequence[str | os.PathLike | np.ndarray],
        batch_size: int | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> list[np.ndarray]:
        """Returns the class maps [H, W] of images of any sizes, as `classes` does; those of equal sizes run as batches.

        Args:
            images: paths or arrays, see `prepare`.
            batch_size: images run together; None takes all.
            stopwatch: notes the time of the stages.
        """
        stopwatch = stopwatch or Stopwatch()
        by_shape: dict[tuple, list[int]] = {}
        outputs: dict[int, np.ndarray] = {}
        with stopwatch.stage("prepare"):
            prepared = [self.prepare(image) for image in images]
        for index, (array, _) in enumerate(prepared):
            by_shape.setdefault(array.shape, []).append(index)
        with stopwatch.stage("run"):
            for indices in by_shape.values():
                size = batch_size or len(indices)
                for start in range(0, len(indices), size):
                    chosen = indices[start : start + size]
                    for index, output in zip(chosen, self.look(np.stack([prepared[index][0] for index in chosen]))):
                        outputs[index] = output
        with stopwatch.stage("classes"):
            return [self.classes(outputs[index], steps) for index, (_, steps) in enumerate(prepared)]
