"""Running a bundle with Paddle Inference."""

import os

import cv2
import numpy as np
import yaml
from paddle import inference
from paddleseg.transforms import Compose

from paddleseg_psp import registry
from paddleseg_psp.data import read_image
from paddleseg_psp.errors import UserError
from paddleseg_psp.ops import build

# Optimizations with oneDNN that go wrong; its fused convolutions, which make it fast, need neither.
_BROKEN_PASSES = (
    "onednn_placement_pass",  # moves single operators to oneDNN: bilinear resizing fails, or returns wrong values
    "operator_reshape_onednn_fuse_pass",  # drops a reshape behind a transpose, and the graph no longer loads
)


def load_predictor(bundle, device="cpu", threads=None, onednn=True):
    """Returns a `Predictor` for a bundle.

    Args:
        bundle (str): the folder, or its deploy.yaml.
        device (str): "cpu" or "gpu".
        threads (int|None): CPU threads; None takes all cores.
        onednn (bool): use oneDNN's kernels on the CPU; faster, and the same results.

    Raises:
        UserError: an incomplete bundle, or PSANet's operators that cannot be loaded.
    """
    path = os.path.join(bundle, "deploy.yaml") if os.path.isdir(bundle) else bundle
    try:
        with open(path, encoding="utf-8") as file:
            description = yaml.safe_load(file)["Deploy"]
        graph, parameters = (os.path.join(os.path.dirname(path), description[key]) for key in ("model", "params"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name the folder or the deploy.yaml that export.py wrote")
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no deploy.yaml of export.py: {' '.join(str(error).split())}")
    for file in (graph, parameters):
        if not os.path.isfile(file):
            raise UserError(f"the bundle is incomplete: {file} is missing; export it again")
    with open(graph, "rb") as file:
        content = file.read()
    if any(name.encode() in content for name in build.OPERATORS):
        try:
            build.load_operator(required=True)
        except RuntimeError as error:
            raise UserError(str(error))
    return Predictor(description, _paddle_predictor(graph, parameters, device, threads, onednn))


def _paddle_predictor(graph, parameters, device, threads, onednn):
    config = inference.Config(graph, parameters)
    config.disable_glog_info()
    if device == "gpu":
        config.enable_use_gpu(256, 0)
    else:
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(threads or os.cpu_count())
        if onednn:
            config.enable_mkldnn()
            for name in _BROKEN_PASSES:
                config.delete_pass(name)
        else:
            config.disable_mkldnn()  # it is on by default
    try:
        return inference.create_predictor(config)
    except Exception as error:
        raise UserError(f"Paddle Inference cannot load {graph}: {' '.join(str(error).split())[-300:]}")


class Predictor:
    """An exported network.

    Attributes:
        input_shape (list): (N, C, H, W), -1 for what may vary.
        output_op (str): "argmax", "softmax" or "none".
        palette: a (red, green, blue) colour for each class, or None.
    """

    def __init__(self, description, session):
        self._session = session
        self.input_shape = description["input_shape"]
        self.output_op = description["output_op"]
        self.palette = description.get("palette")
        specs = description["transforms"]
        self._transforms = Compose([registry.build(spec, f"transforms.{i}") for i, spec in enumerate(specs)])

    def run(self, batch):
        """Returns the network's output for a batch of prepared images [N, 3, H, W] float32."""
        given = list(batch.shape)
        if any(fixed not in (-1, size) for fixed, size in zip(self.input_shape, given)):
            raise UserError(
                f"the bundle takes inputs of the shape {self.input_shape}, not {given}; export it with --input_shape "
                f"{' '.join(map(str, [-1, 3, *given[2:]]))}, or without for any size"
            )
        handle = self._session.get_input_handle(self._session.get_input_names()[0])
        handle.reshape(given)
        handle.copy_from_cpu(np.ascontiguousarray(batch, np.float32))
        self._session.run()
        return self._session.get_output_handle(self._session.get_output_names()[0]).copy_to_cpu()

    def prepare(self, image):
        """Returns an image ready for `run` as [3, h, w], and the steps that lead back to its size.

        Args:
            image: a path, or an array [H, W, 3] (blue, green, red).
        """
        image = (read_image(image) if isinstance(image, str) else image).astype("float32")
        sample = self._transforms({"img": image, "gt_fields": []})
        return sample["img"], sample["trans_info"]

    def classes(self, output, steps):
        """Returns the class map [H, W] uint8, at the size of the original image, of one image's output of `run`."""
        classes = output if self.output_op == "argmax" else output.argmax(0)
        classes = classes.astype(np.uint8)
        for name, (height, width) in reversed(steps):
            if name == "padding":
                classes = classes[:height, :width]
            else:
                classes = cv2.resize(classes, (width, height), interpolation=cv2.INTER_NEAREST)
        return classes

    def predict(self, images):
        """Returns the class maps [H, W] uint8 of images (paths or arrays) of any sizes; equal sizes run as one batch."""
        prepared = [self.prepare(image) for image in images]
        by_shape = {}
        for index, (array, _) in enumerate(prepared):
            by_shape.setdefault(array.shape, []).append(index)
        results = [None] * len(images)
        for indices in by_shape.values():
            outputs = self.run(np.stack([prepared[index][0] for index in indices]))
            for index, output in zip(indices, outputs):
                results[index] = self.classes(output, prepared[index][1])
        return results
