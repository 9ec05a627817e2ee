"""Converting a checkpoint of another framework to this package's network, configuration and weights, and back."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import re
from collections.abc import Callable, Sequence

import numpy as np
import paddle

import paddleseg_psp.models  # noqa: F401 (registers the networks)
from paddleseg_psp import registry
from paddleseg_psp.convert import mmsegmentation_config as stated
from paddleseg_psp.convert.mindspore_files import read_mindspore
from paddleseg_psp.convert.names import (
    NOT_OF_THE_BACKBONE,
    NOT_OF_THE_NETWORK,
    channel_order,
    find_framework,
    source_name,
    source_names,
)
from paddleseg_psp.convert.network import describe_backbone, describe_network, require_known
from paddleseg_psp.convert.torch_files import MAGIC, read_torch
from paddleseg_psp.errors import UserError
from paddleseg_psp.models.weights import read_weights

_LONGEST_NAME = 200  # characters of a class
_STATES = ("state_dict", "model", "model_state_dict", "state_dict_ema", "net")  # where training programs keep the weights


@dataclasses.dataclass
class Conversion:
    """What `convert` found.

    Attributes:
        framework: where the file is from.
        model: the mapping `model` of a configuration; for a backbone `model.backbone`.
        weights: this package's name -> array.
        sources: this package's name -> the file's name.
        left_out: names of the file that have no place here -> their arrays.
        normalize: mean and std of images from 0 to 1, in the order of the network's channels, where the file states
            them; elsewhere they are those that its framework always has.
        red_first: that order: red, green, blue or the other way round.
        test_config: how the file says its network looks at images.
        class_names, palette: of the file.
    """

    framework: str
    model: dict
    weights: dict
    sources: dict
    left_out: dict
    normalize: dict | None = None
    red_first: bool = True
    test_config: dict | None = None
    class_names: list | None = None
    palette: list | None = None


def read_checkpoint(path: str) -> tuple[dict, dict]:
    """Returns ({name: array}, what else the file says) of a file of PyTorch, MindSpore, Paddle or safetensors.

    Raises:
        UserError: another kind of file, or a damaged one.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(len(MAGIC))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}")
    if start[:4] == b"PK\x03\x04" or start == MAGIC or path.endswith((".pth", ".pt")):
        content = read_torch(path)
        if not isinstance(content, dict):
            raise UserError(f"{path} holds a {type(content).__name__}, not a dict of tensors")
        state = next((content[key] for key in _STATES if isinstance(content.get(key), dict)), content)
        meta = content.get("meta")
    elif path.endswith(".ckpt"):
        state, meta = read_mindspore(path), None
    elif path.endswith((".pdparams", ".safetensors")):
        state, meta = read_weights(path), None
    else:
        raise UserError(f"{path}: expected a file of PyTorch (.pth), MindSpore (.ckpt), Paddle (.pdparams) or .safetensors")
    arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
    if not arrays:
        raise UserError(f"{path} holds no tensors")
    if all(name.startswith("module.") for name in arrays):  # of PyTorch's DataParallel
        arrays = {name[len("module.") :]: array for name, array in arrays.items()}
    return arrays, meta if isinstance(meta, dict) else {}


def convert(
    path: str, model: dict | None = None, set_options: Callable[[dict], object] = lambda model: None, ignore: Sequence[str] = ()
) -> Conversion:
    """Converts a whole network.

    Args:
        path: the checkpoint.
        model: the mapping `model` of a configuration whose network the checkpoint is of; None finds it out.
        set_options: changes the mapping that was detected.
        ignore: beginnings of names that are left out.

    Returns:
        What was found.

    Raises:
        UserError: a damaged or foreign file, tensors without a place, a parameter without a tensor, wrong shapes.
    """
    arrays, meta = read_checkpoint(path)
    framework = _framework(path, arrays)
    if framework.endswith("backbone"):
        raise UserError(f"{path} holds a backbone ({framework}) and no classifier of pixels: convert it with --backbone")
    config = stated.read_config(meta.get("cfg") or meta.get("config")) if framework == "mmsegmentation" else {}

    def shape(own):
        return _shape(arrays, own, framework)

    try:
        if model is None:
            model = describe_network(shape, framework)
            options, backbone = stated.model_options(config)
            model.update(options)
            model["backbone"].update(backbone)
            set_options(model)
            require_known(model, shape)
        weights, sources, left_out = _translated(arrays, _own_shapes(model), framework, ignore)
        normalize, red_first = _preprocessing(stated.preprocessing(config))
        test_config = stated.test_options(config) if config else None
    except UserError as error:
        raise UserError(f"{path}: {error}")
    return Conversion(
        framework, model, weights, sources, left_out, normalize, red_first, test_config, *_classes(meta, model["num_classes"])
    )


def convert_backbone(path: str, ignore: Sequence[str] = ()) -> Conversion:
    """Converts only the weights of a backbone, from an image classifier or a whole network; otherwise like `convert`."""
    arrays, _ = read_checkpoint(path)
    framework = _framework(path, arrays)
    try:
        backbone = describe_backbone(lambda own: _shape(arrays, own, framework), framework)
        shapes = {f"backbone.{name}": shape for name, shape in _shapes(_without_values(backbone, "backbone")).items()}
        if not framework.endswith("backbone"):  # of a whole network
            ignore = (*ignore, *(set(arrays) - set(source_names(shapes, framework).values())))
        weights, sources, left_out = _translated(arrays, shapes, framework, ignore)
    except UserError as error:
        raise UserError(f"{path}: {error}")
    weights, sources = ({name[len("backbone.") :]: value for name, value in found.items()} for found in (weights, sources))
    return Conversion(framework, backbone, weights, sources, left_out)


def to_mmsegmentation(weights: dict, counters: dict | None = None) -> dict:
    """Returns this package's weights {name: array} under mmsegmentation's names.

    Args:
        weights: of a PSPNet or PSANet with a backbone that mmsegmentation has.
        counters: num_batches_tracked by mmsegmentation's names, kept from a conversion.

    Raises:
        UserError: parameters that mmsegmentation's networks do not have.
    """
    homeless = [name for name in weights if name.startswith("backbone.bb_") or name.endswith("_conv.bias")]
    if homeless or not any(name.startswith("head.") for name in weights):
        few = ", ".join((homeless or list(weights))[:3])
        raise UserError(
            f"mmsegmentation's PSPNet and PSANet have no place for {few}: they take ResNet v1b or v1c and conv_bias: false"
        )
    shapes = {name: value.shape for name, value in weights.items()}
    converted = {}
    for own, name in source_names(weights, "mmsegmentation").items():
        order = channel_order(own, shapes, "mmsegmentation")
        converted[name] = weights[own] if order is None else weights[own][:, np.argsort(order)]
    return {**converted, **(counters or {})}


def configuration(conversion: Conversion, base: dict) -> dict:
    """Returns a configuration, as nested data, that evaluates a converted network like its framework does.

    Args:
        conversion: of a whole network.
        base: a configuration's data, whose data sets, test_config and schedule it takes.
    """
    data = copy.deepcopy(base)
    data["model"] = conversion.model
    if conversion.test_config is not None:
        data.pop("test_config", None)
        if conversion.test_config:
            data["test_config"] = conversion.test_config
    for key in ("train_dataset", "val_dataset"):
        transforms = []
        for transform in data[key]["transforms"]:
            if transform["type"] == "Normalize" and conversion.normalize:
                transforms += [] if conversion.red_first else [{"type": "SwapRedAndBlue"}]
                transform = {"type": "Normalize", **conversion.normalize}
            transforms.append(transform)
        data[key]["transforms"] = transforms
    return data


def _framework(path, arrays):
    try:
        return find_framework(arrays)
    except UserError as error:
        raise UserError(f"{path}: {error}")


def _shape(arrays, own, framework):
    array = arrays.get(source_name(own, framework))
    return None if array is None else array.shape


def _shapes(layer):
    return {name: tuple(value.shape) for name, value in layer.state_dict().items()}


def _own_shapes(model):
    """Returns the parameters' shapes of the network that a mapping describes."""
    model = copy.deepcopy(model)
    for part in (model, model["backbone"]):
        part.pop("pretrained", None)
    if not isinstance(model["backbone"], dict) or "_vd" in str(model["backbone"].get("type")):  # sets values that it must have
        model["backbone"] = registry.build(model["backbone"], "model.backbone")
    return _shapes(_without_values(model, "model"))


def _without_values(spec, where):
    """Builds a layer of this package without allocating its parameters, because a small file may describe a huge network."""
    own = registry.find(spec.get("type"), f"{where}.type").__module__.startswith("paddleseg_psp.")
    with paddle.LazyGuard() if own else contextlib.nullcontext():
        return registry.build(spec, where)


def _translated(arrays, own_shapes, framework, ignore):
    """Returns the arrays under this package's names, their names in the file, and what was left out."""
    sources = source_names(own_shapes, framework)
    passed_over = NOT_OF_THE_NETWORK + (f"|{NOT_OF_THE_BACKBONE}" if framework.endswith("backbone") else "")
    taken = set(sources.values())
    left_out = {
        name: array for name, array in arrays.items()
        if name not in taken and (re.search(passed_over, name) or name.startswith(tuple(ignore)))
    }  # fmt: skip
    problems = [
        ("tensors have no place in the network (--ignore leaves out what begins so)", set(arrays) - taken - set(left_out)),
        ("parameters of the network have no tensor", taken - set(arrays)),
        (
            "tensors have another shape",
            {
                f"{name} {list(arrays[name].shape)} in place of {list(own_shapes[own])}"
                for own, name in sources.items()
                if name in arrays and arrays[name].shape != own_shapes[own]
            },
        ),
    ]
    found = [
        f"{len(names)} {what}: {', '.join(sorted(names)[:8])}{', …' if len(names) > 8 else ''}"
        for what, names in problems
        if names
    ]
    if found:
        raise UserError(f"it is taken for {framework}'s, but {'; '.join(found)}")
    weights = {}
    for own, name in sources.items():
        order = channel_order(own, own_shapes, framework)
        weights[own] = _as_float32(name, arrays[name] if order is None else arrays[name][:, order])
    return weights, sources, left_out


def _as_float32(name, array):
    converted = array.astype(np.float32)
    if array.dtype.kind != "f" or not np.array_equal(converted.astype(array.dtype), array, equal_nan=True):
        raise UserError(f"{name} has values of type {array.dtype} that float32 does not hold")
    return np.ascontiguousarray(converted)


def _preprocessing(found):
    """Returns (mean and std of channels from 0 to 1 or None, whether red comes first)."""
    if found is None:
        return None, True
    mean, std, red_first = found
    return {"mean": [round(value / 255, 8) for value in mean], "std": [round(value / 255, 8) for value in std]}, bool(red_first)


def _classes(meta, number):
    """Returns the names and colors of classes in a file; None if missing, or another number than classes."""
    dataset = meta.get("dataset_meta")
    if not isinstance(dataset, dict):
        dataset = {}
    names = _listed(meta.get("CLASSES") or dataset.get("classes"), number, _is_name)
    colors = _listed(meta.get("PALETTE") or dataset.get("palette"), number, _is_color)
    return names, colors and [list(color) for color in colors]


def _listed(items, number, fits):
    """Returns a list if it has `number` items that all fit, else None."""
    if not isinstance(items, (list, tuple)) or len(items) != number:
        return None
    for item in items:
        if not fits(item):
            return None
    return list(items)


def _is_name(value):
    return isinstance(value, str) and len(value) <= _LONGEST_NAME and value.isprintable()


def _is_color(value):
    return (
        isinstance(value, (list, tuple)) and len(value) == 3 and all(type(part) is int and 0 <= part <= 255 for part in value)
    )
