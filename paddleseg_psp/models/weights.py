"""Files of weights: `.pdparams`, read as data (docs/security.md), and `.safetensors`; loading them into a network."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator

import numpy as np
import paddle
import safetensors.numpy
from paddle import nn

from paddleseg_psp.errors import UserError, shown
from paddleseg_psp.files import atomic_path, read_if_there, sha256
from paddleseg_psp.log import logger
from paddleseg_psp.models.downloads import download_weights, is_url
from paddleseg_psp.models.pickles import bfloat16, find_name, finished, unpickle

_NAME_TABLE = "StructuredToParameterName@@"  # paddle.save adds this entry to the parameters
_SAFETENSORS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
_HEADER = 2**22  # bytes of a .safetensors header, which takes thirty times as many in memory
_NOTE = 2**20  # characters of a file that says something of weights


def read_weights(path: str) -> dict[str, np.ndarray]:
    """Returns the dict {name: numpy array} in a `.pdparams` (or `.pdopt`) or `.safetensors` file, bfloat16 as float32.

    Says in a line that there was bfloat16, and warns of NaN and infinity.

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
            content = (
                _read_safetensors(file)
                if kind == ".safetensors"
                else finished(unpickle(file, find_name), os.path.getsize(path))
            )
    except FileNotFoundError:
        raise UserError(f"there is no file {path}")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}")
    except UserError as error:
        raise UserError(f"{path} was not loaded: {error}")
    except Exception as error:
        raise UserError(f"{path} is no complete {kind} file ({type(error).__name__}: {shown(error)})")
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise UserError(f"{path} holds a {type(content).__name__}, not a dict of named parameters")
    content.pop(_NAME_TABLE, None)
    weights = {name: _unpaired(value) for name, value in content.items()}
    halves = [name for name, value in weights.items() if isinstance(value, np.ndarray) and value.dtype == np.uint16]
    for name in halves:  # paddle's arrays of bfloat16 are uint16, the upper half of a float32
        weights[name] = bfloat16(weights[name])
    if halves:
        logger.info(f"{path} has bfloat16, read as float32, in {len(halves)} parameters: {_few(halves)}")
    wrong = [name for name, value in weights.items() if _is_float(value) and not np.isfinite(value).all()]
    if wrong:
        logger.warning(f"{path} has values that are not finite (NaN or infinite) in {len(wrong)} parameters: {_few(wrong)}")
    return weights


def _read_safetensors(file):
    header = file.read(8)
    if int.from_bytes(header, "little") > _HEADER:
        raise ValueError(f"its header has more than {_HEADER} bytes")
    weights = {}
    for name, tensor in safetensors.deserialize(header + file.read()):
        if tensor["dtype"] not in _SAFETENSORS:
            raise UserError(f"{shown(name)} has the type {tensor['dtype']}, which is not read; save it as F32")
        weights[name] = np.frombuffer(tensor["data"], _SAFETENSORS[tensor["dtype"]]).reshape(tensor["shape"])
    return weights


def _unpaired(value):
    """Returns the array of a pair (name, array), as which paddle pickles a tensor inside a nested structure."""
    paired = isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], np.ndarray)
    return value[1] if paired else value


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
    """Yields (file, SHA-256) for each file beside the weights that records their checksum."""
    folder, name = os.path.split(path)
    source = os.path.join(folder, "SHA256SUMS")
    for line in read_if_there(source, _NOTE).splitlines():
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](?:\./)?(.+)", line)
        if match and match[2] == name:
            yield source, match[1].lower()
    for record in ("metrics.json" if name == "model.pdparams" else "", os.path.splitext(name)[0] + ".json"):
        source = os.path.join(folder, record)
        try:
            expected = json.loads(read_if_there(source, _NOTE))["weights_sha256"]
        except (ValueError, KeyError, TypeError, RecursionError):  # none, or a file of another kind
            continue
        if isinstance(expected, str):
            yield source, expected


def write_weights(path: str, weights: dict) -> None:
    """Writes the dict {name: numpy array} to a `.pdparams` or `.safetensors` file, atomically.

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
    weights = {name: value for name, value in weights.items() if isinstance(value, np.ndarray)}
    missing = [name for name in own if name not in weights]
    reshaped = [name for name in own if name in weights and list(own[name].shape) != list(np.shape(weights[name]))]
    matching = {name: weights[name] for name in own if name in weights and name not in reshaped}
    if len(matching) < len(own) * (1 if strict else 0.5):
        raise UserError(_mismatch(path, layer, own, weights, missing, reshaped))
    layer.set_state_dict(_in_types_of(own, matching, path))
    logger.info(f"Loaded {len(matching)}/{len(own)} parameters of {type(layer).__name__} from {path}")
    unexpected = [name for name in weights if name not in own]
    for label, names in (
        ("are missing in the file and keep their values", missing),
        ("have another shape in the file and keep their values", reshaped),
        ("of the file are not in the network", unexpected),
    ):
        if names:
            logger.warning(f"{len(names)} parameters {label}: {_few(names)}")


def _in_types_of(own, weights, path):
    """Returns the weights in the types of a network's own, and says which were converted."""
    converted, kinds = dict(weights), set()
    for name, array in weights.items():
        kind = str(own[name].dtype).rpartition(".")[2]
        if array.dtype.name == kind:
            continue
        with np.errstate(over="ignore"):
            values = array.astype(np.float32) if array.dtype.kind == "f" else None
        if values is None or not own[name].is_floating_point() or (np.isinf(values) & ~np.isinf(array)).any():
            raise UserError(f"{path}: {name} has values of the type {array.dtype} that the network's {kind} does not hold")
        converted[name] = values if kind == "float32" else paddle.to_tensor(values).astype(kind)
        kinds.add(f"{array.dtype} to {kind}")
    if kinds:
        logger.info(f"Parameters of {path} were converted from {', '.join(sorted(kinds))}")
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
    return ", ".join(map(shown, names[:count])) + (", ..." if len(names) > count else "")


def harmless_copy(path: str, folder: str) -> str:
    """Writes a safe copy of weights, local or at a URL, for paddleseg's components, which unpickle what they load.

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
