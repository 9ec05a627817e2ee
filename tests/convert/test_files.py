"""Reading and writing checkpoint files of other frameworks."""

import binascii
import os
import pickle
import pickletools
import zipfile

import numpy as np
import pytest

from paddleseg_psp.convert.mindspore_files import read_mindspore
from paddleseg_psp.convert.torch_files import MAGIC, read_torch, write_torch
from paddleseg_psp.errors import UserError
from tests.helpers import GOLDEN, mindspore_checkpoint

ARCHIVE, STREAM = (os.path.join(GOLDEN, f"torch_{kind}.pth") for kind in ("archive", "stream"))


@pytest.fixture(scope="module")
def tensors():
    with np.load(os.path.join(GOLDEN, "torch_tensors.npz")) as file:
        return dict(file)


@pytest.mark.parametrize("path", [ARCHIVE, STREAM])
def test_files_of_pytorch_are_read_to_the_bit(path, tensors):
    content = read_torch(path)
    assert set(content["state_dict"]) == set(tensors)
    for name, expected in tensors.items():
        found = content["state_dict"][name]
        assert (found.dtype, found.shape, found.tobytes()) == (expected.dtype, expected.shape, expected.tobytes()), name
    assert content["meta"]["cfg"] == 'model = dict(type="X")' and content["meta"]["seed"] == 3


def test_written_files_are_read_again(tmp_path, tensors):
    path = str(tmp_path / "model.pth")
    write_torch(path, tensors, meta={"a": [1, "b"]})
    content = read_torch(path)
    assert content["meta"] == {"a": [1, "b"]}
    for name, expected in tensors.items():
        assert content["state_dict"][name].tobytes() == expected.tobytes(), name


def test_written_files_refer_to_what_pytorchs_own_refer_to(tmp_path, tensors):
    path = str(tmp_path / "model.pth")
    write_torch(path, {"plain": tensors["plain"], "scalar": tensors["scalar"], "half": tensors["half"]})
    seen = {file: globals_of(file) for file in (path, ARCHIVE)}
    assert "torch._utils _rebuild_tensor_v2" in seen[path]
    assert seen[path] <= seen[ARCHIVE]


def globals_of(path):
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
        return {argument for operation, argument, _ in pickletools.genops(archive.read(name)) if operation.name == "GLOBAL"}


def test_pytorch_reads_written_files(tmp_path, tensors):
    torch = pytest.importorskip("torch")
    path = str(tmp_path / "model.pth")
    write_torch(path, tensors)
    state = torch.load(path, weights_only=True)["state_dict"]
    for name, expected in tensors.items():
        assert state[name].numpy().tobytes() == expected.tobytes(), name


class Hostile:
    """Pickled, it makes a folder when loaded."""

    def __init__(self, path, function):
        self.call = (function, (path,))

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.mkdir, eval, exec, __import__])
@pytest.mark.parametrize("kind", ["archive", "stream"])
def test_files_that_would_run_code_are_refused(tmp_path, kind, function):
    trace, path = tmp_path / "trace", str(tmp_path / "model.pth")
    argument = str(trace) if function is os.mkdir else f"__import__('os').mkdir({str(trace)!r})"
    pickled = pickle.dumps({"state_dict": Hostile(argument, function)}, protocol=2)
    if kind == "archive":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickled)
    else:
        with open(path, "wb") as file:
            file.write(MAGIC + pickle.dumps(1001, 2) + pickle.dumps({}, 2) + pickled)
    with pytest.raises(UserError, match="which no file of weights needs: do not trust it"):
        read_torch(path)
    assert not trace.exists()


@pytest.mark.parametrize("path", [ARCHIVE, STREAM])
def test_truncated_files_of_pytorch_are_refused(tmp_path, path):
    with open(path, "rb") as file:
        whole = file.read()
    short = tmp_path / "short.pth"
    for length in [0, 3, 20, *range(100, len(whole), 397), len(whole) - 1]:
        short.write_bytes(whole[:length])
        with pytest.raises(UserError, match="is no complete PyTorch file"):
            read_torch(str(short))


def test_tensors_that_reach_beyond_their_values_are_refused(tmp_path):
    path, changed = str(tmp_path / "model.pth"), str(tmp_path / "changed.pth")
    write_torch(path, {"a": np.zeros((3, 7), np.float32)})
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(changed, "w") as other:
        for name in archive.namelist():
            content = archive.read(name)
            if name.endswith("data.pkl"):
                content = content.replace(b"K\x03K\x07\x86", b"K\x09K\x07\x86")  # a size of (9, 7) on 21 values
            other.writestr(name, content)
    with pytest.raises(UserError, match="reaches beyond its values"):
        read_torch(changed)


def test_missing_values_are_noticed(tmp_path):
    path, changed = str(tmp_path / "model.pth"), str(tmp_path / "changed.pth")
    write_torch(path, {"a": np.zeros((3, 7), np.float32)})
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(changed, "w") as other:
        for name in archive.namelist():
            other.writestr(name, archive.read(name)[: 40 if "/data/" in name else None])
    with pytest.raises(UserError, match="values of a storage are missing: 21 of FloatStorage"):
        read_torch(changed)


def test_files_of_mindspore_are_read(tmp_path):
    arrays = {
        "a.weight": np.random.randn(3, 4).astype(np.float32),
        "b": np.random.randn(5).astype(np.float16),
        "step": np.array(7, np.int32),
    }
    path = tmp_path / "model.ckpt"
    path.write_bytes(mindspore_checkpoint(**arrays).SerializeToString())
    found = read_mindspore(str(path))
    assert set(found) == set(arrays)
    for name, expected in arrays.items():
        assert (found[name].shape, found[name].tobytes()) == (expected.shape, expected.tobytes())


def test_the_format_of_mindspore_by_hand(tmp_path):
    """Field numbers and wire types as in MindSpore's checkpoint.proto."""
    tensor = b"\x08\x02" + b"\x12\x07Float32" + b"\x1a\x08" + np.float32([1, -2]).tobytes()
    value = b"\x0a\x01w" + b"\x12" + bytes([len(tensor)]) + tensor
    (tmp_path / "model.ckpt").write_bytes(b"\x0a" + bytes([len(value)]) + value)
    np.testing.assert_array_equal(read_mindspore(str(tmp_path / "model.ckpt"))["w"], [1, -2])


def test_parts_of_a_large_tensor_of_mindspore_are_joined(tmp_path):
    whole = np.arange(12, dtype=np.float32).reshape(3, 4)
    message = mindspore_checkpoint(w=whole)
    message.value[0].tensor.content = whole.tobytes()[:20]
    rest = message.value.add(tag="w").tensor
    rest.dims.extend(whole.shape)
    rest.type, rest.content = "Float32", whole.tobytes()[20:]
    (tmp_path / "model.ckpt").write_bytes(message.SerializeToString())
    np.testing.assert_array_equal(read_mindspore(str(tmp_path / "model.ckpt"))["w"], whole)


def test_the_checksum_of_mindspore(tmp_path):
    content, path = mindspore_checkpoint(w=np.ones(3, np.float32)).SerializeToString(), tmp_path / "model.ckpt"
    path.write_bytes(content + b"crc_num" + str(binascii.crc32(content)).rjust(10).encode())
    assert read_mindspore(str(path))["w"].sum() == 3
    path.write_bytes(content[:-1] + b"\x00" + b"crc_num" + str(binascii.crc32(content)).rjust(10).encode())
    with pytest.raises(UserError, match="its checksum is wrong"):
        read_mindspore(str(path))


def test_damaged_files_of_mindspore_are_refused(tmp_path):
    whole, path = (
        mindspore_checkpoint(w=np.ones((3, 4), np.float32), v=np.ones(2, np.float32)).SerializeToString(),
        tmp_path / "a.ckpt",
    )
    first = whole.index(b"\x0a", 3)
    for content in (b"", b"no checkpoint at all", whole[:-1], whole[: first // 2], b"\xff" * 40):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is no complete MindSpore checkpoint"):
            read_mindspore(str(path))
    message = mindspore_checkpoint(w=np.ones(4, np.float32))
    message.value[0].tensor.dims[0] = 5
    path.write_bytes(message.SerializeToString())
    with pytest.raises(UserError, match=r"w has 4 values for the shape \[5\]"):
        read_mindspore(str(path))


@pytest.mark.parametrize("read", [read_torch, read_mindspore])
def test_files_that_are_not_there(read, tmp_path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read(str(tmp_path / "gone"))
