"""Files of weights: `.pdparams`, read without running code from them, and `.safetensors`; loading them into a network."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator

import numpy as np
import paddle
import safetensors
import safetensors.numpy
from paddle import nn

from paddleseg_psp.errors import UserError
from paddleseg_psp.files import atomic_path, read_if_there, sha256
from paddleseg_psp.log import logger
from paddleseg_psp.models.downloads import download_weights, is_url
from paddleseg_psp.models.pickles import find_name, finished, unpickle

_NAME_TABLE = "StructuredToParameterName@@"  # paddle.save adds this entry to the parameters


_SAFETENSORS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip


def read_weights(path: str) -> dict[str, np.ndarray]:
    """Returns the dict {name: numpy array} in a `.pdparams` (or `.pdopt`) or `.safetensors` file; warns of NaN and infinity.

    The arrays are read-only; bfloat16 becomes float32. Nothing in the file is run (docs/security.md).

    Raises:
        UserError: no such file, a truncated or foreign one, one that would run code, or one whose SHA-256 is not that in a file
            beside it: SHA256SUMS, the metrics.json of a training, or the record of a conversion.
    """
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder; name the file in it, e.g. {os.path.join(path, 'model.pdparams')}")
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{path} is no regular file")
    kind = ".safetensors" if path.endswith(".safetensors") else ".pdparams"
    try:
        _require_checksum(path)
        with open(path, "rb") as file:
            content = _read_safetensors(file) if kind == ".safetensors" else finished(unpickle(file, find_name))
    except FileNotFoundError:
        raise UserError(f"there is no file {path}")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}")
    except UserError as error:
        raise UserError(f"{path} was not loaded: {error}")
    except Exception as error:
        raise UserError(f"{path} is no complete {kind} file ({error})")
    if not isinstance(content, dict):
        raise UserError(f"{path} holds a {type(content).__name__}, not a dict of parameters")
    content.pop(_NAME_TABLE, None)
    # paddle pickles a tensor inside a nested structure as (name, array)
    weights = {name: value[1] if isinstance(value, tuple) and len(value) == 2 else value for name, value in content.items()}
    if kind == ".pdparams":  # which has bfloat16 as integers, as Paddle keeps it
        weights = {name: bfloat16(value) if _is_uint16(value) else value for name, value in weights.items()}
    wrong = [name for name, value in weights.items() if _is_float(value) and not np.isfinite(value).all()]
    if wrong:
        logger.warning(f"{path} has values that are not finite (NaN or infinite) in {len(wrong)} parameters: {_few(wrong)}")
    return weights


def bfloat16(halves: np.ndarray) -> np.ndarray:
    """Returns float32 numbers whose upper halves are given as uint16."""
    return (halves.astype(np.uint32) << 16).view(np.float32)


def _is_uint16(value):
    return isinstance(value, np.ndarray) and value.dtype == np.uint16


def _is_float(value):
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _require_checksum(path):
    for source, expected in _checksums(path):
        if sha256(path) != expected:
            raise UserError(
                f"it is damaged, or not the file that belongs there: its SHA-256 is not that in {source}. Take another copy or "
                f"checkpoint; if you put it there yourself, remove {os.path.basename(source)}"
            )


def _checksums(path: str) -> Iterator[tuple[str, str]]:
    """Yields (file, SHA-256) for each file beside a file of weights that says which checksum that has."""
    folder, name = os.path.split(path)
    source = os.path.join(folder, "SHA256SUMS")
    for line in read_if_there(source).splitlines():
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](?:\./)?(.+)", line)
        if match and match[2] == name:
            yield source, match[1].lower()
    for record in ("metrics.json" if name == "model.pdparams" else "", os.path.splitext(name)[0] + ".json"):
        source = os.path.join(folder, record)
        try:
            expected = json.loads(read_if_there(source))["weights_sha256"]
        except (ValueError, KeyError, TypeError, RecursionError):  # none, or a file of another kind
            continue
        if isinstance(expected, str):
            yield source, expected


def _read_safetensors(file):
    arrays = {}
    for name, tensor in safetensors.deserialize(file.read()):
        if (kind := tensor["dtype"]) not in _SAFETENSORS:
            raise UserError(f"{name} has values of the type {kind}; known are {', '.join(_SAFETENSORS)}")
        array = np.frombuffer(tensor["data"], _SAFETENSORS[kind]).reshape(tensor["shape"])
        arrays[name] = bfloat16(array) if kind == "BF16" else array
    return arrays


def write_weights(path: str, weights: dict) -> None:
    """Writes the dict {name: numpy array} to a `.pdparams` or `.safetensors` file, whole or not at all.

    Raises:
        UserError: another kind of file, or no place to write it.
    """
    if not path.endswith((".pdparams", ".safetensors")):
        raise UserError(f"{path}: weights are written to .pdparams and .safetensors files")
    try:
        with atomic_path(path) as temporary:
            if path.endswith(".safetensors"):
                safetensors.numpy.save_file({name: np.ascontiguousarray(value) for name, value in weights.items()}, temporary)
            else:
                paddle.save({name: paddle.to_tensor(value) for name, value in weights.items()}, temporary)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror}")


def load_weights(layer: nn.Layer, path: str, strict: bool = False) -> None:
    """Loads a file of weights, local or at a URL, into a layer and logs what was left out.

    Args:
        layer: the network or backbone.
        path: path or URL; a URL is downloaded once into PaddleSeg's cache.
        strict: every parameter of the layer must be in the file with its shape. Otherwise half of them must, so that
            a backbone without its classifier loads, and weights of another network do not pass unseen.

    Raises:
        UserError: an unreadable file, or weights of another network.
    """
    local = download_weights(path) if is_url(path) else path
    weights, own = read_weights(local), layer.state_dict()
    weights = _in_own_types(weights, own, path)
    missing = [name for name in own if name not in weights]
    reshaped = [name for name in own if name in weights and list(own[name].shape) != list(np.shape(weights[name]))]
    matching = {name: weights[name] for name in own if name in weights and name not in reshaped}
    if len(matching) < len(own) * (1 if strict else 0.5):
        raise UserError(_mismatch(path, layer, own, weights, missing, reshaped))
    layer.set_state_dict(matching)
    logger.info(f"Loaded {len(matching)}/{len(own)} parameters of {type(layer).__name__} from {path}")
    unexpected = [name for name in weights if name not in own]
    for label, names in (
        ("are missing in the file and keep their values", missing),
        ("have another shape in the file and keep their values", reshaped),
        ("of the file are not in the network", unexpected),
    ):
        if names:
            logger.warning(f"{len(names)} parameters {label}: {_few(names)}")


def _in_own_types(weights, own, path):
    """Returns weights in the types of the parameters; says which numbers were rounded.

    Raises:
        UserError: no numbers, or integers where there are fractions.
    """
    converted, kinds = dict(weights), set()
    for name, parameter in own.items():
        value, kind = weights.get(name), str(parameter.dtype).rpartition(".")[2]
        if value is None:
            continue
        if not isinstance(value, np.ndarray) or (kind.endswith(("float32", "float16")) and not _is_float(value)):
            found = f"values of type {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
            raise UserError(f"{path}: {name}: expected numbers of type {kind}, found {found}")
        if _is_float(value) and value.dtype != np.float32:
            with np.errstate(over="ignore"):
                converted[name] = value.astype(np.float32)
            kinds.add(str(value.dtype))
    if kinds:
        logger.info(f"{path} has values of type {', '.join(sorted(kinds))}; they are used as float32")
    return converted


def _mismatch(path, layer, own, weights, missing, reshaped):
    parts = [f"{len(missing)} are missing, e.g. {_few(missing)}"] if missing else []
    if reshaped:
        name = reshaped[0]
        parts.append(
            f"{len(reshaped)} have another shape, e.g. {name} {list(np.shape(weights[name]))} where the network has "
            f"{list(own[name].shape)}"
        )
    return (
        f"{path} does not fit this {type(layer).__name__}: of its {len(own)} parameters {'; '.join(parts)}. "
        "Use the configuration the file was trained with"
    )


def _few(names, count=3):
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def harmless_copy(path: str, folder: str) -> str:
    """Writes the weights in a file, local or at a URL, anew, for paddleseg's components, which unpickle what they load.

    Returns:
        The copy's path; fractions in it are float32.

    Raises:
        UserError: as `read_weights`.
    """
    weights = read_weights(download_weights(path) if is_url(path) else path)
    copy = os.path.join(folder, f"{len(os.listdir(folder))}.pdparams")
    arrays = {name: value for name, value in weights.items() if isinstance(value, np.ndarray)}
    write_weights(copy, {name: value.astype(np.float32) if _is_float(value) else value for name, value in arrays.items()})
    return copy
