"""Small valid files of each format, and hostile ones built byte by byte; what the fuzzer begins with."""

import base64
import functools
import io
import json
import os
import pickle
import struct
import zipfile

import cv2
import numpy as np
import safetensors.numpy
from PIL import Image

GOLDEN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "golden")
MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."

CONFIG = """norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder', pretrained='open-mmlab://resnet50_v1c',  # a comment
    backbone=dict(type='ResNetV1c', depth=50, norm_cfg=norm_cfg, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4)),
    decode_head=dict(type='PSPHead', pool_scales=(1, 2, 3, 6), dropout_ratio=0.1, align_corners=False),
    test_cfg=dict(mode='slide', crop_size=(61, 97), stride=(40, 64)))
img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
lr_config = {'policy': "poly", 'power': 0.9, 'min_lr': 1e-4, 'by_epoch': False}
text = '''several
lines'''
"""
DEPLOY = """Deploy:
  model: model.json
  params: model.pdiparams
  transforms:
  - {type: Resize, target_size: [96, 64], interp: LINEAR}
  - {type: Normalize, mean: [0.5, 0.5, 0.5], std: &std [0.5, 0.25, 0.5]}
  input_shape: [-1, 3, -1, -1]
  output_op: argmax
  ignore_index: 255
  test_config: {is_slide: true, crop_size: [96, 64], stride: [64, 32], aug_eval: true, scales: [0.75, 1.5]}
  class_names: [road, car]
  palette: [[128, 64, 128], [0, 0, 142]]
  sha256: {model.json: 0a}
  multiply_adds_per_pixel: 1000
"""


class _Pair:
    """Pickles as paddle's tensor in a nested structure."""

    def __init__(self, name, array):
        self.pair = (name, array)

    def __reduce__(self):
        return tuple, (self.pair,)


def _arrays():
    random = np.random.RandomState(0)
    return {
        "weight": random.standard_normal((2, 3)).astype("f4"),
        "bias": np.arange(3, dtype="f4"),
        "half": np.ones(2, "f2"),
        "bfloat16": np.full(2, 0x3F80, "u2"),
        "steps": np.array(3, "i8"),
    }


def _archive(content, compression=zipfile.ZIP_STORED, **more):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("a/data.pkl", content)
        for name, values in more.items():
            archive.writestr(f"a/data/{name[1:]}" if name[0] == "_" else f"a/{name}", values)
    return file.getvalue()


def _mindspore(name, kind, dims, content):
    def field(number, value):
        return bytes([number << 3 | 2]) + _varint(len(value)) + value

    tensor = b"".join(b"\x08" + _varint(length) for length in dims) + field(2, kind) + field(3, content)
    return field(1, field(1, name) + field(2, tensor))


def _varint(value):
    value %= 2**64
    digits = []
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


def _safetensors(**header):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def _encoded(kind, image, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _golden(name):
    with open(os.path.join(GOLDEN, name), "rb") as file:
        return file.read()


def valid():
    """Returns {format: [bytes]}."""
    arrays, random = _arrays(), np.random.RandomState(1)
    color = Image.fromarray(random.randint(0, 256, (9, 13, 3)).astype("u1"))
    grey = Image.fromarray(random.randint(0, 5, (9, 13)).astype("u1"))
    palette = grey.convert("P")
    deep = cv2.imencode(".png", random.randint(0, 65536, (9, 13, 3)).astype("u2"))[1].tobytes()
    nested = {
        "weight|_velocity_0": arrays["weight"],
        "LR_Scheduler": {"last_epoch": 3, "last_lr": 0.1},
        "master_weights": {"weight": _Pair("w_0", arrays["weight"])},
        "pair": _Pair("w_1", arrays["bias"]),
        "scalar": np.float64(3),
        "list": [1, (2.5, None, True), "text"],
    }
    table = {**arrays, "StructuredToParameterName@@": {name: f"w_{name}" for name in arrays}}
    npy = io.BytesIO()
    np.save(npy, random.randint(0, 255, (9, 13, 3)).astype("u1"))
    tiffs = [_encoded("TIFF", color, compression=kind) for kind in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits")]
    half = safetensors.numpy.save({"a": np.ones((2, 3), "f2"), "weight": arrays["weight"]})
    return {
        "pdparams": [pickle.dumps(table, protocol) for protocol in (2, 3, 4)],
        "pdopt": [pickle.dumps(nested, protocol) for protocol in (2, 4)],
        "pth": [_golden("torch_archive.pth")],
        "stream": [_golden("torch_stream.pth")],
        "ckpt": [_mindspore(b"w", b"Float32", (2, 1), b"\0" * 8) + _mindspore(b"b", b"BFloat16", (3,), b"\0" * 6)],
        "safetensors": [half, half.replace(b"F16", b"BF16").replace(b"  ", b" ", 1)],
        "config": [CONFIG.encode()],
        "note": [json.dumps({"weights_sha256": "0" * 64, "mIoU": 0.5, "classes": [[0.5, None], {"a": "b"}]}).encode()],
        "image": [
            _encoded("PNG", color),
            _encoded("JPEG", color),
            _encoded("JPEG", color, progressive=True),
            _encoded("BMP", color),
            _encoded("WEBP", color),
            _encoded("WEBP", color, lossless=True),
            deep,
            *tiffs,
        ],
        "npy": [npy.getvalue()],
        "label": [
            _encoded("PNG", palette),
            _encoded("PNG", grey),
            _encoded("TIFF", grey, compression="tiff_lzw"),
            _encoded("BMP", grey),
            _encoded("GIF", palette),
            _encoded("TIFF", Image.fromarray(np.zeros((5, 7), "f4"))),
        ],
        "deploy": [DEPLOY.encode()],
        "labelme": [json.dumps(_labelme(grey)).encode()],
        "polygons": [json.dumps(_polygons()).encode()],
    }


def _polygons():
    names = ["road", "car", "cargroup", "license plate", "out of roi"]
    corners = [[1, 2], [8, 6.25], [3, 7], [0, 4]]
    return {"imgWidth": 13, "imgHeight": 9, "objects": [{"label": name, "polygon": corners, "deleted": 0} for name in names]}


def _labelme(image):
    kinds = {"polygon": 3, "rectangle": 2, "circle": 2, "line": 2, "linestrip": 3, "point": 1, "points": 2, "rotation": 4}
    points = [[1.5, 2], [8, 6.25], [3, 7], [0, 4]]
    shapes = [{"label": "car", "shape_type": kind, "points": points[:count]} for kind, count in kinds.items()]
    mask = base64.b64encode(_encoded("PNG", image.crop((0, 0, 4, 3)))).decode()
    shapes.append({"label": "road", "shape_type": "mask", "points": [[2, 3], [5, 5]], "mask": mask})
    picture = base64.b64encode(_encoded("PNG", image)).decode()
    return {"shapes": shapes, "imageWidth": 13, "imageHeight": 9, "imagePath": "a.png", "imageData": picture}


def _name(module, name):
    return b"c" + module + b"\n" + name + b"\n"


_DTYPE = _name(b"numpy", b"dtype")
_NDARRAY = _name(b"numpy", b"ndarray")
_RECONSTRUCT = _name(b"numpy.core.multiarray", b"_reconstruct")
_STATE = b"(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"  # of a type: little-endian
_EMPTY = _RECONSTRUCT + _NDARRAY + b"K\x00\x85C\x01b\x87R"  # an array without shape and values
_FLOAT = _DTYPE + b"X\x02\x00\x00\x00f4K\x00K\x01\x87R" + _STATE


def _text(value):
    return b"X" + struct.pack("<I", len(value)) + value


def _long(value):
    content = value.to_bytes(255, "little", signed=True).rstrip(b"\0") + b"\0"
    return b"\x8a" + bytes([len(content)]) + content


def _weights(value):
    """Returns a pickle of {"w": value}; `value` are the operations that make it."""
    return b"\x80\x04}" + _text(b"w") + value + b"s."


def _array_of(kind, shape, data):
    return _EMPTY + b"(K\x01" + shape + kind + b"\x89C" + bytes([len(data)]) + data + b"tb"


def _storage_of(key, count, more=b""):
    return b"(" + _text(b"storage") + _name(b"torch", b"FloatStorage") + _text(key) + _text(b"cpu") + count + more + b"tQ"


def _tensor_of(count, offset, size, stride, more=b"", key=b"0"):
    rebuild = _name(b"torch._utils", b"_rebuild_tensor_v2") + b"(" + _storage_of(key, count, more)
    return rebuild + offset + size + stride + b"\x89}tR"


def _stream(content, keys=b"]."):
    return MAGIC + b"\x80\x02M\xe9\x03." + b"\x80\x02}." + content + b"\x80\x02" + keys


def _called(module, name, arguments=b"(X\x02\x00\x00\x00idt"):
    return _name(module, name) + arguments + b"R"


# Names that scanners of pickles missed or list as dangerous, by kind: each runs code, opens files or finds other names.
_FORBIDDEN = [
    (b"os", b"system"),
    (b"posix", b"system"),
    (b"nt", b"system"),
    (b"builtins", b"eval"),
    (b"__builtin__", b"exec"),
    (b"builtins", b"__import__"),
    (b"builtins", b"getattr"),
    (b"builtins", b"bytearray"),
    (b"builtins", b"open"),
    (b"pkgutil", b"resolve_name"),
    (b"operator", b"attrgetter"),
    (b"functools", b"partial"),
    (b"importlib", b"import_module"),
    (b"subprocess", b"Popen"),
    (b"runpy", b"_run_code"),
    (b"types", b"CodeType"),
    (b"ctypes", b"CDLL"),
    (b"io", b"FileIO"),
    (b"pickle", b"loads"),
    (b"copyreg", b"_reconstructor"),
    (b"numpy.testing._private.utils", b"runstring"),
    (b"numpy.f2py.crackfortran", b"getlincoef"),
    (b"numpy", b"load"),
    (b"numpy", b"memmap"),
    (b"numpy.core.multiarray", b"fromfile"),
    (b"numpy", b"ndarray"),
    (b"numpy.ctypeslib", b"load_library"),
    (b"torch", b"load"),
    (b"torch.storage", b"_load_from_bytes"),
    (b"torch.serialization", b"load"),
    (b"torch.hub", b"load"),
    (b"torch._utils", b"_rebuild_tensor.__globals__"),
    (b"collections", b"OrderedDict.fromkeys"),
    (b"collections", b"defaultdict"),
    (b"paddle", b"load"),
    (b"uuid", b"_get_command_stdout"),
    (b"numpy.dtype.__class__", b"x"),
    (b"asyncio", b"run"),
    (b"idlelib.pyshell", b"ModifiedInterpreter.runcommand"),
]


def _pickles():
    """Returns {what: operations that make a value}, hostile in a `.pdparams` and a `.pth` alike."""
    fake = _NDARRAY + b"K\x01\x85" + _DTYPE + _text(b"O") + b"\x85R" + b"C\x08" + b"A" * 8 + b"\x87R"
    found = {f"{module.decode()}.{name.decode()}": _called(module, name) for module, name in _FORBIDDEN}
    found.update(
        {
            f"stack {module.decode()}": _text(module) + _text(name) + b"\x93(" + _text(b"id") + b"tR"
            for module, name in _FORBIDDEN[:4]
        }
    )
    found["an object at an address"] = _name(b"builtins", b"tuple") + fake + b"\x85R"
    for code in (b"O", b"O8", b"V8", b"U9", b"S9", b"M8", b"f4,O", b"f4" * 100000, b"(1000000,)f4"):
        found[f"an array of {code[:9]!r}"] = _array_of(
            _DTYPE + _text(code) + b"K\x00K\x01\x87R" + _STATE, b"K\x01\x85", b"A" * 8
        )
    parts = (
        _DTYPE
        + _text(b"f4")
        + b"K\x00K\x01\x87R(K\x03"
        + _text(b"<")
        + b"]"
        + _text(b"a")
        + b"a}NJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    found["a type that gets parts"] = _array_of(parts, b"K\x02\x85", b"A" * 8)
    huge = _long(2**62)
    for what, shape in {
        "negative": b"J\xff\xff\xff\xffJ\xfe\xff\xff\xff\x86",
        "huge": huge + huge + b"\x86",
        "overflowing": _long(2**63 + 2) + b"\x85",
        "bool": b"\x88\x85",
        "float": b"G\x40\x00\0\0\0\0\0\0\x85",
        "text": _text(b"12"),
        "of many dimensions": b"(" + b"K\x01" * 70000 + b"t",
        "empty and huge": huge + b"K\x00\x86",
        "of numbers too large": b"(" + _long(2**2000) * 5000 + b"t",
    }.items():
        found[f"a shape that is {what}"] = _array_of(_FLOAT, shape, b"A" * 8)
    nested = {
        "lists in lists": b"]" * 200000 + b"a" * 199999,
        "tuples in tuples": b")" + b"\x85" * 200000,
        "dicts in dicts": b"".join(b"}" + _text(b"a") for _ in range(30000)) + b"N" + b"s" * 30000,
        "a list in itself": b"]\x94h\x00a",
        "a dict in itself": b"}q\x05" + _text(b"a") + b"h\x05s",
        "doubled lists": b"]" + b"".join(b"q" + bytes([n]) + b"]h" + bytes([n]) + b"ah" + bytes([n]) + b"a" for n in range(60)),
        "doubled lists, not deep": b"]"
        + b"".join(b"q" + bytes([n]) + b"]h" + bytes([n]) + b"ah" + bytes([n]) + b"a" for n in range(40)),
        "doubled tuples": b")" + b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(60)),
        "doubled keys": b"}" + b")" + b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(60)) + b"Ns",
        "a long text many times": _text(b"x" * 100000) + b"q\x01]r\x02\0\0\0(" + b"h\x01" * 100000 + b"e",
        "a list many times": b"](" + b"K\x01" * 60000 + b"eq\x01](" + b"h\x01" * 60000 + b"e",
    }
    found.update(nested)
    found["memo far away"] = b"]r\xff\xff\xff\x7f"
    found["memo farther"] = b"]r\x00\x00\x00\xff"
    found["a number in digits"] = b"L" + b"9" * 3000000 + b"L\n"
    found["a number in many digits"] = b"I" + b"9" * 3000000 + b"\n"
    found["a name without end"] = b"c" + b"a" * 3000000
    found["colliding keys"] = b"}(" + b"".join(_long(number * (2**61 - 1)) + b"N" for number in range(1, 40000)) + b"u"
    for what, operations in {
        "BINBYTES8": b"\x8e" + struct.pack("<Q", 2**40),
        "BYTEARRAY8": b"\x96" + struct.pack("<Q", 2**33),
        "LONG4": b"\x8b\xff\xff\xff\x7f",
        "BINUNICODE8": b"\x8d" + struct.pack("<Q", 2**63),
        "BINBYTES": b"B\xff\xff\xff\xff",
        "BINSTRING": b"T\xff\xff\xff\xff",
        "FRAME": b"\x95" + struct.pack("<Q", 2**40),
        "EXT1": b"\x82\x01",
        "EXT4": b"\x84\1\0\0\0",
        "INST": b"(" + _text(b"id") + b"iposix\nsystem\n",
        "OBJ": b"(" + _name(b"posix", b"system") + _text(b"id") + b"o",
        "PERSID": b"P0\n",
        "DUP": b"]" + b"2" * 50 + b"a" * 50,
        "READONLY_BUFFER": b"\x97\x98",
        "MARKS": b"(" * 100000,
        "EMPTY DICTS": b"}\x94" * 1000000,
        "POPS": b"0" * 100,
    }.items():
        found[what] = operations
    for what, operations in {
        "attributes of a name": _RECONSTRUCT + b"}" + _text(b"value") + b"K\x05sb",
        "attributes of a type": _FLOAT[:-1] + b"}" + _text(b"build") + b"Nsb",
        "state of another kind": _EMPTY + b"}" + _text(b"__class__") + b"Nsb",
        "a state too short": _EMPTY + b"K\x01\x85b",
        "an array in an array": _EMPTY + b"q\x01(K\x01K\x02\x85" + _FLOAT + b"\x89h\x01tb",
        "a type that is an array": _EMPTY + b"q\x01(K\x01)h\x01\x89C\x00tb",
        "a new object": _name(b"collections", b"OrderedDict") + b")\x81",
        "a dict of pairs": _called(b"collections", b"OrderedDict", b"]](K\x01K\x02K\x03ea\x85"),
        "a tuple of a dict": _called(b"builtins", b"tuple", b"}\x85"),
        "a tuple of text": _called(b"builtins", b"tuple", _text(b"x" * 9) + b"\x85"),
        "an encoding": _called(b"_codecs", b"encode", _text(b"x") + _text(b"unicode_escape") + b"\x86"),
        "a scalar of no type": _called(b"numpy.core.multiarray", b"scalar", b"NC\x08AAAAAAAA\x86"),
        "too many arguments": _called(b"builtins", b"tuple", b"(" + b"N" * 99 + b"t"),
        "arguments of no tuple": _called(b"collections", b"OrderedDict", b"K\x05"),
        "another kind in itself": _weights(b"N"),
        "lone surrogates": _text(b"\xed\xa0\x80"),
        "lines in a name": _called(b"a\x1b[31m\rb", b"c" * 9999),
    }.items():
        found[what] = operations
    return found


def _torch_tensors():
    """Returns {what: (operations of a tensor, of its storage's count in a stream)}, of a storage "0" of four floats."""
    one, four, none = b"K\x01\x85", b"K\x04", b"K\x00"
    big = _long(2**40)
    return {
        "expanded": _tensor_of(four, none, big + b"\x85", b"K\x00\x85"),
        "expanded twice": _tensor_of(four, none, big + big + b"\x86", b"K\x00K\x00\x86"),
        "expanded often": b"](" + _tensor_of(four, none, b"J\x00\x00\x01\x00\x85", b"K\x00\x85") * 300 + b"e",
        "the same often": _tensor_of(four, none, b"J\x00\x00\x01\x00\x85", b"K\x00\x85") + b"q\x01](" + b"h\x01" * 9999 + b"e",
        "negative strides": _tensor_of(four, b"K\x03", b"K\x04\x85", b"J\xff\xff\xff\xff\x85"),
        "strides that wrap": _tensor_of(four, none, b"K\x05\x85", _long(2**62) + b"\x85"),
        "sizes that wrap": _tensor_of(four, none, _long(2**63) + b"K\x02\x86", b"K\x00K\x00\x86"),
        "an offset beyond": _tensor_of(four, _long(2**61), one, one),
        "a negative offset": _tensor_of(four, b"J\xf0\xff\xff\xff", one, one),
        "bool sizes": _tensor_of(four, b"\x88", b"\x88\x85", b"\x88\x85"),
        "fewer strides": _tensor_of(four, none, b"K\x04K\x01\x86", one),
        "empty, with huge dimensions": _tensor_of(four, none, _long(2**62) + none + b"\x86", b"K\x01K\x01\x86"),
        "a storage too large": _tensor_of(_long(2**34), none, one, one),
        "a storage of negative size": _tensor_of(b"J\xff\xff\xff\xff", none, one, one),
        "another storage": _tensor_of(four, none, one, one, key=b"../../../etc/passwd"),
        "a size of one number": _tensor_of(four, none, b"K\x04", b"K\x01"),
    }


def _paddle():
    return {
        **{what: _weights(value) for what, value in _pickles().items()},
        "keys that are no text": b"\x80\x04}K\x01Ns.",
        "a pair without array": _weights(b"K\x01\x85"),
        "lists in a parameter's place": _weights(b"](K\x01](K\x02K\x03ee"),
    }


_NESTED = (
    "lists in lists",
    "tuples in tuples",
    "a list in itself",
    "doubled lists",
    "doubled lists, not deep",
    "doubled tuples",
    "a long text many times",
    "a list many times",
)


def _torch():
    values, zeros = np.ones(4, "f4").tobytes(), bytes(130000000)
    tensor = _weights(_tensor_of(b"K\x04", b"K\x00", b"K\x04\x85", b"K\x01\x85"))
    whole = _archive(tensor, _0=values)
    directory, beyond = whole.index(b"PK\x01\x02"), struct.pack("<I", 0x7FFFFFF0)
    described = b"\x80\x02}(" + _text(b"w") + tensor[9:-2] + _text(b"meta") + b"}" + _text(b"a")
    return {
        **{f"{what} beside weights": _archive(described + b"(" + _pickles()[what] + b"lsu.", _0=values) for what in _NESTED},
        **{what: _archive(_weights(value)) for what, value in _pickles().items()},
        **{what: _archive(_weights(value), _0=values) for what, value in _torch_tensors().items()},
        "a compressed storage": _archive(tensor, zipfile.ZIP_DEFLATED, _0=zeros),
        "a compressed pickle": _archive(_weights(b"N") + zeros, zipfile.ZIP_DEFLATED),
        "a storage under many names": _overlapping(zeros[:300000], 1000),
        "a compressed size beyond the file": _replaced(whole, directory + 20, beyond),  # of the first entry
        "a size beyond the file": _replaced(whole, directory + 24, beyond),
        "sizes beyond the file": _replaced(whole, directory + 20, beyond * 2),
    }


def _old_torch():
    end = struct.pack("<q", 4) + np.ones(4, "f4").tobytes()
    no_view = {what: value.replace(b"tQ", b"NtQ") for what, value in _torch_tensors().items()}
    return {
        **{what: _stream(_weights(value)) for what, value in _pickles().items()},
        **{what: _stream(_weights(value), b"]" + _text(b"0") + b"a.") + end for what, value in no_view.items()},
        "keys without storages": _stream(_weights(b"N"), b"]]a."),
        "keys that are a text": _stream(_weights(b"N"), _text(b"0" * 9) + b"."),
    }


def _checkpoints():
    return {
        "negative dimensions": _mindspore(b"w", b"Float32", (-1, -2), b"\0" * 8),
        "a product that wraps": _mindspore(b"w", b"Float32", (2**62, 4, 2), b""),
        "a product that wraps to two": _mindspore(b"w", b"Float32", (2**63 + 1, 2), b"\0" * 8),
        "many dimensions": _mindspore(b"w", b"Float32", (1,) * 60, b"\0" * 4),
        "dimensions without end": _mindspore(b"w", b"Float32", (1,) * 300000, b"\0" * 4),
        "empty values": b"\x0a\x00" * 1000000,
        "values without end": _mindspore(b"w", b"Float32", (1,), b"\0" * 4) * 100000,
        "tensors without end": b"".join(_mindspore(b"%d" % n, b"Bool", (), b"\0") for n in range(400000)),
        "another length": b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        "lines in a name": _mindspore(b"a\n\x1b[31mb", b"Float32", (3,), b"\0" * 4),
        "no type": b"\x0a\x05\x0a\x01w\x12\x00",
        "a number in a message's place": b"\x08\x05",
        "a checksum of blanks": b"crc_num" + b" " * 10,
    }


def _safe():
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    return {
        "a header beyond the file": struct.pack("<Q", 2**60),
        "nested": struct.pack("<Q", 200000) + b"[" * 200000,
        "a huge header": struct.pack("<Q", 9000000) + b'{"a":' + b" " * 8999994 + b"}",
        "many tensors": _safetensors(
            **{f"t{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(100000)}
        ),
        "a huge shape": _safetensors(w={**entry, "shape": [2**62, 4]}) + b"\0" * 8,
        "an empty huge shape": _safetensors(w={**entry, "shape": [2**62, 0], "data_offsets": [0, 0]}),
        "offsets beyond": _safetensors(w={**entry, "data_offsets": [0, 2**40]}) + b"\0" * 8,
        "overlapping": _safetensors(w=entry, v=entry) + b"\0" * 8,
        "many dimensions": _safetensors(w={**entry, "shape": [1] * 70 + [2]}) + b"\0" * 8,
        "F8": _safetensors(w={"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}) + b"\0" * 8,
        "lines in a name": _safetensors(**{"a\n\x1b[31m": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}})
        + b"\0" * 8,
    }


def _configs():
    return {
        "attributes": b"x = a" + b".a" * 100000,
        "signs": b"x = " + b"-" * 200000 + b"1",
        "sums": b"x = 1" + b"+1" * 100000,
        "calls": b"x = a" + b"()" * 100000,
        "after a carriage return": b"# \rx = a" + b".a" * 100000,
        "in a string": b"x = f'{a" + b".a" * 100000 + b"}'",
        "indices": b"x = a" + b"[0]" * 80000,
        "not": b"x = " + b"not " * 60000 + b"1",
        "conditions": b"x = " + b"1 if 1 else " * 20000 + b"1",
        "lambda": b"x = " + b"lambda:" * 30000 + b"1",
        "brackets": b"x = " + b"[" * 199 + b"]" * 199,
        "dicts": b"x = " + b"dict(a=" * 190 + b"1" + b")" * 190,
        "elif": b"if a:\n pass\n" + b"elif a:\n pass\n" * 9999,
        "digits": b"x = " + b"9" * 200000,
        "powers": b"x = " + b"9**" * 9999 + b"9",
        "list keys": b"x = {[1]: 2}",
        "tuple keys": b"x = {(1, 2): 3}",
        "null": b"x = '\0'",
        "sets of lists": b"x = {1, [2]}",
        "many items": b"x = [" + b"1," * 120000 + b"]",
        "doubled": b"a = [1]\n" + b"a = [a, a]\n" * 60,
        "long": b"x = '" + b"a" * 10000000 + b"'",
        "many references": b"y = [" + b"1," * 60000 + b"]\n" + b"x = [y, y]\n" * 9999,
        "doubled in dicts": b"a = dict()\n" + b"a = dict(b=a, c=a)\n" * 60,
        "colliding keys": b"x = {" + b",".join(b"%d: 1" % (number * (2**61 - 1)) for number in range(10000)) + b"}",
        "quotes": b"'" * 200000,
        "escapes": b'"""' + b"\\" * 200000,
    }


def _notes():
    return {
        "nested": b"[" * 100000,
        "nested objects": b'{"a":' * 100000,
        "digits": b'{"weights_sha256": ' + b"9" * 1000000 + b"}",
        "long": b'{"a": "' + b"a" * 3000000 + b'"}',
        "many": b'{"a": [' + b"[]," * 9000000 + b"[]]}",
        "lines": b"\n" * 20000000,
    }


def _npy():
    npy = valid()["npy"][0]
    return {
        "a large header": npy[:6] + b"\2\0\xf0\xff\xff\xff" + npy[10:],
        "a huge shape": npy.replace(b"(9, 13, 3), }", b"(99999999999,)"),
        "objects": npy.replace(b"'|u1'", b"'|O' "),
        "nested": npy[:10] + b"(" * 118,
        "negative": npy.replace(b"(9, 13, 3)", b"(-9,-13, 3"),
        "a large shape": npy.replace(b"(9, 13, 3), }", b"(9999999, 999)}"),
    }


def _deploy():
    aliases = "a0: &a0 [x, x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
    merged = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 60))
    wide = "a: &a [" + "0," * 30000 + "]\nb: &b [" + "*a," * 20000 + "]\n"
    texts = {
        "brackets": "[" * 100000,
        "mappings": "{" * 100000,
        "blocks": "- " * 100000,
        "keys": "? " * 100000,
        "quotes": "'" * 99999,
        "an alias of itself": "Deploy: &a {model: *a, params: *a}",
        "aliases": aliases + DEPLOY.replace("argmax", "*a59"),
        "aliases in transforms": aliases + DEPLOY.replace("0.5", "*a59"),
        "aliases in views": aliases + DEPLOY.replace("1.5", "*a59"),
        "wide transforms": wide + DEPLOY.replace("[0.5, 0.5, 0.5]", "*b"),
        "wide names": wide + DEPLOY.replace("[road, car]", "*b"),
        "merged": merged + "Deploy: *a59",
        "digits": DEPLOY.replace("255", "9" * 99999),
        "hexadecimal digits": DEPLOY.replace("255", "0x" + "9" * 99999),
        "sexagesimal digits": DEPLOY.replace("255", "1" + ":59" * 40000),
        "a long float": DEPLOY.replace("255", "1" * 99999 + ".5"),
        "a binary": DEPLOY.replace("255", "!!binary " + "A" * 99999),
        "a set": DEPLOY.replace("255", "!!set {" + "".join(f"? {n}\n" for n in range(9999)) + "}"),
        "pairs": DEPLOY.replace("255", "!!pairs [" + "a: 1," * 20000 + "]"),
        "many documents": "---\n" * 30000,
        "python": DEPLOY.replace("255", "!!python/object/apply:os.system [true]"),
        "evaluates": DEPLOY.replace("Normalize", "eval"),
        "long": "# " + "x" * 30000000,
        "many names": DEPLOY.replace("[road, car]", "[" + "a," * 60000 + "]"),
        "colliding keys": "{" + ",".join(f"{n * (2**61 - 1)}: 1" for n in range(5000)) + "}",
        "a date": DEPLOY.replace("255", "2001-99-99"),
        "a control character": DEPLOY.replace("argmax", '"\\e[31m\\n"'),
        "a date and time": DEPLOY.replace("255", "0001-01-01 00:00:00+99:99"),
    }
    return {what: text.encode() for what, text in texts.items()}


def _annotations():
    content = _labelme(Image.new("L", (13, 9)))
    large = _encoded("PNG", Image.new("L", (13, 9)))
    large = base64.b64encode(large[:16] + struct.pack(">II", 2**30, 2**30) + large[24:]).decode()
    polygon = {"label": "car", "points": [[0, 0], [1e300, 5], [5, -1e300]]}
    shapes = {
        "a name that clears the terminal": [{"label": "car\x1b[2J", "points": None}],
        "far": [polygon],
        "not finite": [{**polygon, "points": [[float("nan"), 0], [float("inf"), 1], [2, 2]]}],
        "a large circle": [{"label": "car", "shape_type": "circle", "points": [[1, 2**32 - 1], [8, 6]]}],
        "a huge circle": [{"label": "car", "shape_type": "circle", "points": [[0, 0], [1e308, 1e308]]}],
        "a long line": [{"label": "car", "shape_type": "line", "points": [[-1e9, 0], [1e9, 1e9]]}],
        "a huge line": [{"label": "car", "shape_type": "linestrip", "points": [[-1e300, 0], [1e300, 1e300]]}],
        "many points": [{**polygon, "points": [[n % 13, n % 9] for n in range(100000)]}],
        "many shapes": [{**polygon, "points": [[0, 0], [9, 9], [0, 9]]}] * 30000,
        "a huge mask": [{**content["shapes"][-1], "mask": large}],
        "a mask far away": [{**content["shapes"][-1], "points": [[-1e9, -1e9], [1e9, 1e9]]}],
        "a point far away": [{"label": "car", "shape_type": "point", "points": [[1e30, -1e30]]}],
    }
    texts = {what: json.dumps({**content, "shapes": found}) for what, found in shapes.items()}
    texts["nested"] = "[" * 1000000
    texts["digits"] = json.dumps(content).replace("13", "9" * 1000000)
    texts["a huge image"] = json.dumps({**content, "imageWidth": None, "imageData": large})
    texts["huge sizes"] = json.dumps({**content, "imageWidth": 1e308, "imageHeight": 1e308})
    texts["a large image"] = json.dumps({**content, "imageWidth": 2**15, "imageHeight": 2**14})
    texts["an image elsewhere"] = json.dumps(
        {**content, "imageWidth": None, "imageData": None, "imagePath": "../\n/etc/passwd"}
    )
    texts["many"] = '{"shapes": [' + "[]," * 1000000 + "[]]}"
    return {what: text.encode() for what, text in texts.items()}


def _city():
    content, polygon = _polygons(), {"label": "car", "polygon": [[0, 0], [1e300, 5], [5, -1e300]]}
    objects = {
        "far": [polygon],
        "not finite": [{**polygon, "polygon": [[float("nan"), 0], [float("inf"), 1], [2, 2]]}],
        "high": [{**polygon, "polygon": [[0, -1e9], [9, 1e9], [3, 1e9]]}],
        "many points": [{**polygon, "polygon": [[n % 13, n % 9] for n in range(100000)]}],
        "texts": [{**polygon, "polygon": ["ab", "cd", "ef"]}],
    }
    texts = {what: json.dumps({**content, "objects": found}) for what, found in objects.items()}
    texts["a long name"] = json.dumps({**content, "objects": [{**polygon, "label": "\x1b[31m\n" * 10000}]})
    return {what: text.encode() for what, text in texts.items()}


def _images():
    png = valid()["image"][0]
    return {"large sizes": png[:16] + struct.pack(">II", 30000, 30000) + png[24:]}


_HOSTILE = {
    "pdparams": _paddle,
    "pth": _torch,
    "stream": _old_torch,
    "ckpt": _checkpoints,
    "safetensors": _safe,
    "config": _configs,
    "note": _notes,
    "npy": _npy,
    "image": _images,
    "deploy": _deploy,
    "labelme": _annotations,
    "polygons": _city,
}


@functools.lru_cache(maxsize=1)
def hostile(kind):
    """Returns {what: bytes} of a format."""
    return _HOSTILE.get(kind, dict)()


def _overlapping(values, number):
    """Returns an archive whose directory has the same bytes under many names, each of them a storage of a tensor."""
    tensors = b"".join(
        _text(b"t%d" % n) + _tensor_of(b"K\x04", b"K\x00", b"K\x04\x85", b"K\x01\x85", key=b"%04d" % n) for n in range(number)
    )
    whole = _archive(b"\x80\x02}(" + tensors + b"u.", _0000=values)
    end = whole.index(b"PK\x05\x06")
    directory = whole.index(b"PK\x01\x02")
    second = whole.index(b"PK\x01\x02", directory + 4)
    entries = whole[directory:second] + b"".join(
        whole[second:end].replace(b"a/data/0000", b"a/data/%04d" % n) for n in range(number)
    )
    counts = struct.pack("<HHII", number + 1, number + 1, len(entries), directory)
    return whole[:directory] + entries + whole[end : end + 8] + counts + whole[end + 20 :]


def _replaced(content, place, value):
    return content[:place] + value + content[place + len(value) :]
