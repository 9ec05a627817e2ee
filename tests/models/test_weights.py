import json
import os
import pickle
import struct
import subprocess

import numpy as np
import paddle
import pytest
import safetensors.numpy
from paddle import nn

from paddleseg_psp.errors import UserError
from paddleseg_psp.models.weights import load_weights, read_weights, write_weights


@pytest.fixture
def saved(tmp_path):
    layer = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1D(4), nn.Linear(4, 2))
    path = str(tmp_path / "model.pdparams")
    paddle.save(layer.state_dict(), path)
    return layer, path


def test_files_of_paddle_save_are_read(saved):
    layer, path = saved
    weights = read_weights(path)
    assert set(weights) == set(layer.state_dict())
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(weights[name], value.numpy())


def test_loading(saved):
    layer, path = saved
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1D(4), nn.Linear(4, 2))
    load_weights(other, path, strict=True)
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name].numpy(), value.numpy())


def test_weights_of_another_network_are_refused(saved):
    _, path = saved
    with pytest.raises(UserError, match=r"0.weight \[3, 4\] where the network has \[3, 5\]"):
        load_weights(nn.Sequential(nn.Linear(3, 5)), path, strict=True)
    with pytest.raises(UserError, match="2 are missing, e.g. weight, bias"):
        load_weights(nn.Linear(3, 4), path)


def test_a_backbone_loads_without_what_the_file_lacks(saved, capsys):
    _, path = saved
    larger = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1D(4), nn.Linear(4, 2), nn.Linear(2, 2))
    load_weights(larger, path)
    assert "2 parameters are missing in the file and keep their values: 3.weight, 3.bias" in capsys.readouterr().out
    with pytest.raises(UserError):
        load_weights(larger, path, strict=True)
    load_weights(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1D(4)), path)
    assert "2 parameters of the file are not in the network: 2.weight, 2.bias" in capsys.readouterr().out


class Hostile:
    """Pickled, it makes a file when loaded."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


def test_code_in_a_file_does_not_run(tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "hostile.pdparams"
    path.write_bytes(pickle.dumps({"weight": Hostile(trace)}))
    with pytest.raises(UserError, match="refers to (posix|nt|os).system"):
        read_weights(str(path))
    assert not trace.exists()
    pickle.loads(path.read_bytes())
    assert trace.exists()  # it would have run


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps({"a": np.zeros(100)})[:60], pickle.dumps([1, 2])])
def test_damaged_and_foreign_files_are_refused(tmp_path, content):
    path = tmp_path / "model.pdparams"
    path.write_bytes(content)
    with pytest.raises(UserError, match="model.pdparams"):
        read_weights(str(path))


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        read_weights(str(tmp_path / "gone.pdparams"))
    with pytest.raises(UserError, match="is a folder; name the file in it"):
        read_weights(str(tmp_path))


def flip_a_bit(path):
    """In the middle of the numbers."""
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x40]))


def digest(path):
    return subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[0]


def note_sums(path, options=()):
    folder, name = os.path.split(path)
    sums = subprocess.run(["sha256sum", *options, name], cwd=folder, capture_output=True, text=True, check=True).stdout
    with open(os.path.join(folder, "SHA256SUMS"), "w") as file:
        file.write(f"{'0' * 64}  other.pdparams\n{sums}")
    return "SHA256SUMS"


def note_metrics(path):
    with open(os.path.join(os.path.dirname(path), "metrics.json"), "w") as file:
        json.dump({"weights_sha256": digest(path), "mIoU": 0.5}, file)
    return "metrics.json"


def note_conversion(path):
    with open(os.path.splitext(path)[0] + ".json", "w") as file:
        json.dump({"weights_sha256": digest(path)}, file)
    return "model.json"


@pytest.mark.parametrize("note", [note_sums, lambda path: note_sums(path, ["--binary"]), note_metrics, note_conversion])
@pytest.mark.parametrize("ending", [".pdparams", ".safetensors"])
def test_weights_that_are_not_those_of_the_checksum_beside_them_are_refused(saved, note, ending):
    layer, path = saved
    if ending == ".safetensors" and note is not note_metrics:  # a training writes model.pdparams
        path = path.replace(".pdparams", ending)
        write_weights(path, {name: value.numpy() for name, value in layer.state_dict().items()})
    beside = note(path)
    read_weights(path)
    load_weights(layer, path, strict=True)
    flip_a_bit(path)
    for read in (read_weights, lambda path: load_weights(layer, path)):
        with pytest.raises(UserError, match=f"{path} was not loaded: it is damaged.* SHA-256 is not that in .*{beside}"):
            read(path)
    write_weights(path, {name: value.numpy() + 1 for name, value in layer.state_dict().items()})
    with pytest.raises(UserError, match="or not the file that belongs there"):
        read_weights(path)
    os.unlink(os.path.join(os.path.dirname(path), beside))
    read_weights(path)  # nothing says that it is another


@pytest.mark.parametrize("name", ["SHA256SUMS", "metrics.json", "model.json"])
@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe\0", b"[1]", b'{"weights_sha256": 5}', b'{"weights_sha256": ', b"abc  model.pdparams\n"]
)
def test_files_beside_weights_that_say_nothing_of_them(saved, name, content):
    _, path = saved
    with open(os.path.join(os.path.dirname(path), name), "wb") as file:
        file.write(content)
    read_weights(path)


def test_weights_that_are_not_finite_are_told(saved, capsys):
    layer, path = saved
    weights = {name: value.copy() for name, value in read_weights(path).items()}
    assert "finite" not in capsys.readouterr().out
    weights["0.weight"][1, 2], weights["2.bias"][0] = np.nan, np.inf
    write_weights(path, weights)
    load_weights(layer, path)
    said = [line for line in capsys.readouterr().out.splitlines() if "not finite" in line]
    assert len(said) == 1 and path in said[0] and said[0].endswith("in 2 parameters: 0.weight, 2.bias")


def write_safetensors(path, **tensors):
    """By the format: the header's length, the header in JSON, the numbers."""
    header, content = {}, b""
    for name, (kind, shape, data) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(content), len(content) + len(data)]}
        content += data
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + content)


@pytest.mark.parametrize("extension", ["pdparams", "safetensors"])
@pytest.mark.parametrize("kind", ["float16", "float64", "bfloat16"])
def test_numbers_of_other_types(tmp_path, capsys, kind, extension):
    """They are used as float32; those of Paddle's bfloat16, which it saves as integers, too."""
    expected, path = np.random.randn(3, 4).astype(np.float32), str(tmp_path / f"model.{extension}")
    if kind == "bfloat16":
        expected = (expected.view(np.uint32) & 0xFFFF0000).view(np.float32)  # what it can hold
    else:
        expected = expected.astype(kind).astype(np.float32)
    values = {"weight": expected.astype(kind) if kind != "bfloat16" else expected, "bias": np.zeros(4, np.float32)}
    if extension == "pdparams":
        paddle.save({name: paddle.to_tensor(value).astype(kind) for name, value in values.items()}, path)
    elif kind == "bfloat16":
        halves = (expected.view(np.uint32) >> 16).astype("<u2").tobytes()
        write_safetensors(path, weight=("BF16", [3, 4], halves), bias=("F32", [4], bytes(16)))
    else:
        safetensors.numpy.save_file(values, path)
    layer = nn.Linear(3, 4)
    load_weights(layer, path, strict=True)
    np.testing.assert_array_equal(layer.weight.numpy(), expected)
    assert layer.weight.dtype == paddle.float32
    said = capsys.readouterr().out
    assert kind == "bfloat16" or f"were converted from {kind} to float32" in said


@pytest.mark.parametrize("value", [np.zeros((3, 4), np.int64), np.zeros((3, 4), bool), "a text", {"a": 1}, None])
def test_what_is_no_weight(tmp_path, value):
    path = str(tmp_path / "model.pdparams")
    with open(path, "wb") as file:
        pickle.dump({"weight": value, "bias": np.zeros(4, np.float32)}, file)
    with pytest.raises(
        UserError,
        match=r"model.pdparams(: weight has values of the type \w+ that the network's float32 does not hold| does not fit)",
    ):
        load_weights(nn.Linear(3, 4), path, strict=True)


def test_types_of_safetensors_that_no_network_here_has(tmp_path):
    path = str(tmp_path / "model.safetensors")
    write_safetensors(path, weight=("F8_E4M3", [3, 4], bytes(12)))
    with pytest.raises(UserError, match="weight has the type F8_E4M3, which is not read"):
        read_weights(path)


def test_pipes_are_not_waited_for(saved, tmp_path):
    _, path = saved
    for name in ("SHA256SUMS", "model.json", "pipe.pdparams"):
        os.mkfifo(tmp_path / name)
    assert read_weights(path)
    with pytest.raises(UserError, match="pipe.pdparams is no regular file"):
        read_weights(str(tmp_path / "pipe.pdparams"))


def test_records_nested_without_end_say_nothing(saved, tmp_path):
    (tmp_path / "model.json").write_text("[" * 10**6)
    assert read_weights(saved[1])
