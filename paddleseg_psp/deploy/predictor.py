"""Running a bundle."""

from __future__ import annotations

import os
from collections.abc import Sequence

import cv2
import numpy as np
import paddle
import yaml
from paddleseg.transforms import Compose

from paddleseg_psp import registry
from paddleseg_psp.data import read_image
from paddleseg_psp.deploy.sessions import OnnxSession, OpenVinoSession, PaddleSession, Session
from paddleseg_psp.deploy.timing import Stopwatch
from paddleseg_psp.environment import processors
from paddleseg_psp.errors import UserError
from paddleseg_psp.ops import build

BACKENDS = ("paddle", "onnxruntime", "openvino")
PRECISIONS = ("fp32", "int8")
_KEYS = ("model", "params", "transforms", "input_shape", "output_op")


def load_predictor(
    bundle: str,
    backend: str = "paddle",
    device: str = "cpu",
    threads: int | None = None,
    onednn: bool = True,
    precision: str = "fp32",
    description: dict | None = None,
) -> Predictor:
    """Returns a `Predictor` for a bundle.

    Args:
        bundle: the folder, or its deploy.yaml.
        backend: "paddle" (Paddle Inference), or, for bundles exported with --onnx, "onnxruntime" or "openvino".
        device: "cpu" or "gpu".
        threads: CPU threads; None takes all cores.
        onednn: let Paddle Inference use oneDNN's kernels on the CPU; faster, and the same results.
        precision: "fp32", or with onnxruntime "int8" where deploy/quantize.py has added that.
        description: in place of what deploy.yaml says.

    Raises:
        UserError: an incomplete bundle, a backend that is not installed, or PSANet's operators that cannot be loaded.
    """
    if backend not in BACKENDS:
        raise UserError(f"there is no backend {backend!r}{registry.suggestion(backend, BACKENDS)}")
    if precision not in PRECISIONS or precision == "int8" and backend != "onnxruntime":
        raise UserError(f"the backend {backend} has no precision {precision!r}: fp32 everywhere, int8 in onnxruntime")
    path = os.path.join(bundle, "deploy.yaml") if os.path.isdir(bundle) else bundle
    description, folder = description or read_description(path), os.path.dirname(path)
    if backend == "paddle":
        graph, parameters = (_existing(folder, description[key]) for key in ("model", "params"))
        _load_operators(graph, folder, description)
        session: Session = PaddleSession(graph, parameters, device, threads or processors(), onednn)
    else:
        key, advice = (
            ("onnx", "export it with --onnx") if precision == "fp32" else ("onnx_int8", "run deploy/quantize.py first")
        )
        if key not in description:
            raise UserError(f"{path}: the bundle has no {key} file for the backend {backend}; {advice}")
        model = _existing(folder, description[key])
        kind = OnnxSession if backend == "onnxruntime" else OpenVinoSession
        session = kind(model, device, threads or processors())
    return Predictor(description, session)


def read_description(path: str) -> dict:
    """Returns what a deploy.yaml says, as a dict.

    Raises:
        UserError: no such file, or not one that export.py writes.
    """
    try:
        with open(path, encoding="utf-8") as file:
            description = yaml.safe_load(file)["Deploy"]
        missing = [key for key in _KEYS if key not in description]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name the folder or the deploy.yaml that export.py wrote")
    except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no deploy.yaml of export.py: {' '.join(str(error).split())}")
    if missing:
        raise UserError(f"{path} is no deploy.yaml of export.py: it lacks {', '.join(missing)}")
    return description


def _existing(folder, name):
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        raise UserError(f"the bundle is incomplete: {path} is missing; export it again")
    return path


def has_operators(graph: str) -> bool:
    """Returns whether a graph's file names PSANet's operators."""
    with open(graph, "rb") as file:
        content = file.read()
    return any(name.encode() in content for name in build.OPERATORS)


def _load_operators(graph, folder, description):
    """Registers PSANet's operators if a graph has them: this machine's own, or else those that came with the bundle."""
    if not has_operators(graph):
        return
    try:
        build.load_operator(required=True)
    except RuntimeError as error:
        library = os.path.join(folder, description.get("operators", ""))
        same = description.get("paddle_version") == paddle.__version__
        if not (same and os.path.isfile(library) and build.register(library) is None):
            raise UserError(str(error))


class Predictor:
    """An exported network.

    Attributes:
        input_shape (list): (N, C, H, W), -1 for what may vary.
        output_op (str): "argmax", "softmax" or "none".
        palette: a (red, green, blue) colour for each class, or None.
        class_names: a name for each class, or None.
    """

    def __init__(self, description: dict, session: Session) -> None:
        self._session = session
        self.input_shape = description["input_shape"]
        self.output_op = description["output_op"]
        self.palette = description.get("palette")
        self.class_names = description.get("class_names")
        transforms = [registry.build(spec, f"transforms.{i}") for i, spec in enumerate(description["transforms"])]
        self._transforms = Compose(transforms, img_channels=self.input_shape[1])

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Returns the network's output for a batch of prepared images [N, C, H, W] float32.

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
            return self._session.run(batch)
        filled = np.concatenate([batch, np.repeat(batch[-1:], -len(batch) % fixed[0], axis=0)])
        parts = np.split(filled, len(filled) // fixed[0])
        return np.concatenate([self._session.run(part) for part in parts])[: len(batch)]

    def prepare(self, image: str | os.PathLike | np.ndarray) -> tuple[np.ndarray, list]:
        """Returns an image ready for `run` as [C, h, w], and the steps that lead back to its size.

        Args:
            image: a path, or an array [H, W, C] (blue, green, red).
        """
        array = image if isinstance(image, np.ndarray) else read_image(os.fspath(image), self.input_shape[1])
        sample = self._transforms({"img": array.astype("float32"), "gt_fields": []})
        return sample["img"], sample["trans_info"]

    def classes(self, output: np.ndarray, steps: list) -> np.ndarray:
        """Returns the class map [H, W] at the size of the original image, uint8 or, for more than 256 classes, uint16.

        Args:
            output: one image's output of `run`.
            steps: as `prepare` gave them.
        """
        scores = output.ndim == 3
        values = output.transpose(1, 2, 0) if scores else output.astype(np.uint16)
        for name, (height, width) in reversed(steps):
            if name == "padding":
                values = values[:height, :width]
            else:  # scores as evaluation resizes them; classes cannot be mixed
                values = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR if scores else cv2.INTER_NEAREST)
        classes = values.argmax(2) if scores else values
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
                    for index, output in zip(chosen, self.run(np.stack([prepared[index][0] for index in chosen]))):
                        outputs[index] = output
        with stopwatch.stage("classes"):
            return [self.classes(outputs[index], steps) for index, (_, steps) in enumerate(prepared)]
