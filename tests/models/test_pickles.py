"""Hostile pickles, written operation by operation: nothing in them is imported, called or believed."""

import pickle
import struct
import sys
import zipfile

import numpy as np
import pytest

from paddleseg_psp.convert.torch_files import MAGIC, read_torch
from paddleseg_psp.errors import UserError
from paddleseg_psp.models.pickles import Inert
from paddleseg_psp.models.weights import read_weights
from tests.helpers import run_python

P = pickle


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def text(value):
    return P.BINUNICODE + struct.pack("<I", len(value)) + value.encode()


def number(value):
    return P.LONG1 + bytes([len(data := value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))]) + data


def tuple_of(*items):
    return P.MARK + b"".join(items) + P.TUPLE


def bytes_of(data):
    return P.BINBYTES + struct.pack("<I", len(data)) + data


def dtype(code="f4"):
    return name("numpy", "dtype") + tuple_of(text(code), P.NEWFALSE, P.NEWTRUE) + P.REDUCE


def array(shape, data, code="f4", fortran=P.NEWFALSE, start=None):
    start = start or name("numpy.core.multiarray", "_reconstruct")
    made = start + tuple_of(name("numpy", "ndarray"), tuple_of(number(0)), bytes_of(b"b")) + P.REDUCE
    return made + tuple_of(number(1), shape, dtype(code), fortran, data) + P.BUILD


def storage(kind=b"FloatStorage", key="0", count=2):
    return tuple_of(text("storage"), b"ctorch\n" + kind + b"\n", text(key), text("cpu"), number(count)) + P.BINPERSID


def tensor(size, stride, offset=0, values=None):
    arguments = (values or storage(), number(offset), tuple_of(*map(number, size)), tuple_of(*map(number, stride)))
    return name("torch._utils", "_rebuild_tensor_v2") + tuple_of(*arguments, P.NEWFALSE, P.NONE) + P.REDUCE


def pickled(value):
    return b"\x80\x04}" + text("w") + value + b"s."


def paddle_file(folder, value):
    (folder / "a.pdparams").write_bytes(pickled(value))
    return str(folder / "a.pdparams")


def torch_file(folder, value, kind="archive", data=bytes(8)):
    path = folder / f"{kind}.pth"
    if kind == "archive":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", pickled(value))
            archive.writestr("a/data/0", data)
    else:
        keys = P.dumps(["0"] if b"_rebuild_tensor" in value else [], 2)
        head = MAGIC + P.dumps(1001, 2) + P.dumps({}, 2)
        path.write_bytes(head + pickled(value) + keys + struct.pack("<q", len(data) // 4) + data)
    return str(path)


def readers(folder, value):
    """Yields a call for each kind of file that has a pickle."""
    yield lambda: read_weights(paddle_file(folder, value))
    yield lambda: read_torch(torch_file(folder, value))
    yield lambda: read_torch(torch_file(folder, value, "stream"))


def test_what_the_operations_here_write_is_read(tmp_path):
    """So that the hostile variants fail for what is hostile in them."""
    expected = np.float32([[1, 2]])
    for start in (None, name("numpy._core.multiarray", "_reconstruct")):
        value = array(tuple_of(number(1), number(2)), bytes_of(expected.tobytes()), start=start)
        for read in readers(tmp_path, value):
            np.testing.assert_array_equal(read()["w"], expected)
    for kind in ("archive", "stream"):
        path = torch_file(tmp_path, tensor((1, 2), (2, 1)), kind, expected.tobytes())
        np.testing.assert_array_equal(read_torch(path)["w"], expected)


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_every_protocol(tmp_path, protocol):
    arrays = {
        "float32": np.random.randn(3, 4).astype(np.float32), "fortran": np.asfortranarray(np.random.randn(3, 4)),
        "swapped": np.arange(6, dtype=">i4"), "scalar": np.float64(0.5), "bool": np.array([True, False]),
        "empty": np.zeros((0, 3)),
    }  # fmt: skip
    (tmp_path / "a.pdparams").write_bytes(pickle.dumps(arrays, protocol))
    found = read_weights(str(tmp_path / "a.pdparams"))
    for key, expected in arrays.items():
        np.testing.assert_array_equal(found[key], expected, key)
        assert found[key].dtype == expected.dtype.newbyteorder("=")


HOSTILE = {
    "a command": name("posix", "system") + tuple_of(text("touch {trace}")) + P.REDUCE,
    "a command by its stack": text("os") + text("system") + P.STACK_GLOBAL + tuple_of(text("touch {trace}")) + P.REDUCE,
    "a command by INST": P.MARK + text("touch {trace}") + P.INST + b"posix\nsystem\n",
    "a command by OBJ": P.MARK + name("posix", "system") + text("touch {trace}") + P.OBJ,
    "an extension": P.EXT1 + b"\x01",
    "a persistent id": P.PERSID + b"whatever\n",
    "an array of any address": name("numpy", "ndarray")
    + tuple_of(tuple_of(number(1)), dtype("O"), bytes_of(b"A" * 8))
    + P.REDUCE,
    "an array that is called": name("numpy", "ndarray") + tuple_of(tuple_of(number(1)), dtype(), bytes_of(b"A" * 4)) + P.REDUCE,
    "objects": array(tuple_of(number(1)), bytes_of(b"A" * 8), "O"),
    "records": array(tuple_of(number(1)), bytes_of(b"A" * 8), "V8"),
    "a type with a field": array(tuple_of(number(1)), bytes_of(b"A" * 8), "f4,O"),
    "a list of objects": array(tuple_of(number(1)), P.EMPTY_LIST + text("x") + P.APPEND),
    "a negative size": array(tuple_of(number(-1)), bytes_of(b"A" * 4)),
    "a size that overflows": array(tuple_of(number(2**62), number(4)), bytes_of(b"")),
    "a size of fractions": array(tuple_of(P.BINFLOAT + struct.pack(">d", 1.0)), bytes_of(b"A" * 4)),
    "a size that is true": array(tuple_of(P.NEWTRUE), bytes_of(b"A" * 4)),
    "too few values": array(tuple_of(number(2)), bytes_of(b"A" * 4)),
    "a scalar of an object": name("numpy.core.multiarray", "scalar") + tuple_of(dtype("O"), bytes_of(b"A" * 8)) + P.REDUCE,
    "attributes of a function": name("numpy.core.multiarray", "scalar") + P.EMPTY_DICT + P.BUILD,
    "bytes in another encoding": name("_codecs", "encode") + tuple_of(text("a" * 9), text("zip")) + P.REDUCE,
    "a tuple of a text": name("builtins", "tuple") + tuple_of(text("abc")) + P.REDUCE,
    "a text as long as the memory": P.BINUNICODE8 + struct.pack("<Q", 2**50) + b"abc",
    "bytes as long as the memory": P.BYTEARRAY8 + struct.pack("<Q", 2**62) + b"abc",
    "a memo as long as the memory": P.EMPTY_LIST + P.PUT + b"99999999999999999999\n",
    "keys that hash alike": P.EMPTY_DICT + number(2**61 - 1) + P.NONE + P.SETITEM,
    "a key that is a tuple": P.EMPTY_DICT + P.EMPTY_TUPLE + P.NONE + P.SETITEM,
    "nesting": P.EMPTY_LIST * 10**6 + P.APPEND * (10**6 - 1),
    "nested tuples": P.EMPTY_TUPLE + P.TUPLE1 * 10**6,
    "more entries than a network has": (P.NONE + P.POP) * 10**6 + P.NONE,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_pickles(tmp_path, kind):
    trace = tmp_path / "trace"
    value = HOSTILE[kind].replace(struct.pack("<I", len("touch {trace}")) + b"touch {trace}", text(f"touch {trace}")[1:])
    modules = set(sys.modules)
    for read in readers(tmp_path, value):
        with pytest.raises(UserError) as refusal:
            read()
        assert len(str(refusal.value)) < 500 and "\n" not in str(refusal.value)
    assert not trace.exists() and set(sys.modules) == modules


def test_a_memo_of_any_number_takes_no_memory(tmp_path):
    """Python's own unpickler takes 16 GB for this."""
    value = P.EMPTY_LIST + P.LONG_BINPUT + struct.pack("<I", 2**31 - 1)
    for read in readers(tmp_path, value):
        assert read() == {"w": []}


SHARED = P.MARK + P.EMPTY_LIST + P.MEMOIZE
SHARED += b"".join(P.EMPTY_LIST + P.MEMOIZE + (P.BINGET + bytes([depth]) + P.APPEND) * 9 for depth in range(40))
SHARED += P.POP_MARK + P.BINGET + bytes([40])  # 9 ** 40 values, if each were visited as often as it occurs
CIRCLE = P.EMPTY_LIST + P.BINPUT + b"\x07" + P.BINGET + b"\x07" + P.APPEND


@pytest.mark.parametrize("value", [SHARED, CIRCLE])
def test_values_that_occur_without_end(tmp_path, value):
    for read in readers(tmp_path, value):
        with pytest.raises(UserError, match="much larger than the file|nested more than 50 times"):
            read()


TENSORS = {
    "a negative offset": tensor((1,), (1,), offset=-1),
    "a negative stride": tensor((2,), (-1,)),
    "an offset beyond": tensor((1,), (1,), offset=2),
    "a stride beyond": tensor((2,), (2**62,)),
    "a size beyond": tensor((3,), (1,)),
    "a size that overflows": tensor((2**32, 2**32), (0, 0)),
    "one value repeated without end": tensor((10**12,), (0,)),
    "fewer strides than sizes": tensor((1, 2), (1,)),
    "more sizes than NumPy has": tensor((1,) * 70, (1,) * 70),
    "values of no type": tensor((2,), (1,), values=storage(b"StringStorage")),
    "a persistent id of another form": tensor((2,), (1,), values=tuple_of(text("storage")) + P.BINPERSID),
    "a persistent id that is a list": tensor((2,), (1,), values=P.EMPTY_LIST + P.BINPERSID),
    "fewer values than are told": tensor((2,), (1,), values=storage(count=10**12)),
    "no values": tensor((2,), (1,), values=P.NONE),
    "a storage of two types": tuple_of(tensor((2,), (1,)), tensor((2,), (1,), values=storage(b"HalfStorage"))),
}


@pytest.mark.parametrize("layout", ["archive", "stream"])
@pytest.mark.parametrize("kind", TENSORS)
def test_hostile_tensors(tmp_path, kind, layout):
    with pytest.raises(UserError, match=r"\.pth is no complete PyTorch file"):
        read_torch(torch_file(tmp_path, TENSORS[kind], layout))


@pytest.mark.parametrize("layout", ["archive", "stream"])
def test_tensors_that_share_values(tmp_path, layout):
    """Tied weights do; what would be a thousand times the file is refused."""
    one, data = tensor((10**5,), (1,), values=storage(count=10**5)), bytes(4 * 10**5)
    assert len(read_torch(torch_file(tmp_path, tuple_of(one, one), layout, data))["w"]) == 2
    with pytest.raises(UserError, match="its values together are much larger than the file"):
        read_torch(torch_file(tmp_path, tuple_of(*[one] * 1000), layout, data))


STAND_INS = {
    "a dotted name": name("numpy", "core.multiarray.os.system") + tuple_of(text("touch {trace}")) + P.REDUCE,
    "a name below a known one": name("numpy.core.multiarray", "fromfile") + tuple_of(text("{trace}")) + P.REDUCE,
    "PyTorch's own": name("torch.hub", "load") + tuple_of(text("{trace}")) + P.REDUCE + P.EMPTY_DICT + P.BUILD,
    "a builtin": name("builtins", "getattr") + tuple_of(name("torch", "nn"), text("x")) + P.REDUCE + P.EMPTY_TUPLE + P.REDUCE,
}


@pytest.mark.parametrize("kind", STAND_INS)
def test_what_checkpoints_hold_besides_tensors_is_not_made(tmp_path, kind):
    """In .pth files something inert is in its place; .pdparams files hold nothing of the kind."""
    modules = set(sys.modules)
    value = STAND_INS[kind].replace(text("touch {trace}"), text(f"touch {tmp_path}/trace"))
    weights, *torch = readers(tmp_path, value)
    for read in torch:
        assert type(read()["w"]) is Inert
    with pytest.raises(UserError, match="which no file of weights needs"):
        weights()
    assert set(sys.modules) == modules and not (tmp_path / "trace").exists()


def test_archives_that_are_larger_inside(tmp_path):
    path = str(tmp_path / "bomb.pth")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickled(tensor((2**26,), (1,), values=storage(count=2**26))))
        archive.writestr("a/data/0", bytes(2**28))
    with pytest.raises(UserError, match="the archive is compressed"):
        read_torch(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled(tensor((2,), (1,))))
        archive.writestr("a/data/0", bytes(8))
        with pytest.warns(UserWarning):
            archive.writestr("a/data/0", bytes(8))
    with pytest.raises(UserError, match="the archive's files overlap"):
        read_torch(path)
    content = bytearray(open(path, "rb").read())
    at = content.rfind(b"PK\x01\x02")
    content[at + 20 : at + 28] = struct.pack("<II", 2**31, 2**31)  # sizes in the directory
    with open(path, "wb") as file:
        file.write(content)
    with pytest.raises(UserError, match="overlap"):
        read_torch(path)


def test_large_claims_take_no_memory(tmp_path):
    """In a process that may take 100 MB more than it has."""
    (tmp_path / "long.pdparams").write_bytes(pickled(P.BINBYTES8 + struct.pack("<Q", 2**33)))
    paths = [
        str(tmp_path / "long.pdparams"),
        torch_file(tmp_path, tensor((2,), (1,), values=storage(count=2**33)), "stream"),
        torch_file(tmp_path, tensor((2**33,), (0,))),
    ]
    code = f"""
import resource
from paddleseg_psp.convert.torch_files import read_torch
from paddleseg_psp.errors import UserError
from paddleseg_psp.models.pickles import Inert
from paddleseg_psp.models.weights import read_weights
taken = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (taken + 100 * 2**20,) * 2)
for path in {paths!r}:
    try:
        (read_torch if path.endswith(".pth") else read_weights)(path)
    except UserError as error:
        print("REFUSED", error)
"""
    process = run_python(["-c", code])
    assert process.stdout.count("REFUSED") == 3 and "Memory" not in process.stdout, process.stdout + process.stderr


def test_the_operations_are_those_of_python(tmp_path):
    """What pickle writes of plain values is read as pickle reads it, in every protocol."""
    value = {
        "numbers": [0, 1, -1, 255, 65536, 2**40, -(2**70), 0.5, float("inf")], "texts": ["", "ä", "x" * 300, "\udce4"],
        "bytes": b"\x00\xff", "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)), "set": {1, 2}, "none": None, "true": True,
        "nested": {1: {"a": [[]]}}, 5: "five",
    }  # fmt: skip
    value["again"] = value["nested"]
    for protocol in range(6):
        expected = value if protocol > 3 else {key: item for key, item in value.items() if key != "set"}
        torch = {key: item for key, item in expected.items()}
        with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
            archive.writestr("a/data.pkl", pickle.dumps(torch, protocol))
        found = read_torch(str(tmp_path / "a.pth"))
        assert found == expected
