"""Checkpoints are whole or not there, and hold nothing that runs."""

import dataclasses
import json
import os
import pickle
import resource
import shutil
import subprocess

import numpy as np
import paddle
import pytest

from paddleseg_psp.engine.checkpoint import Checkpoints, Progress, damage, find_checkpoints, newest_checkpoint
from paddleseg_psp.engine.precision import LossScaler
from paddleseg_psp.engine.weight_average import WeightAverage
from paddleseg_psp.errors import UserError
from paddleseg_psp.models.weights import read_weights
from tests.helpers import checkpoint_arrays, write_sums


def checkpoints(save_dir, keep=0, size=64):
    """Returns the checkpoints of a small network, with state in every part of it."""
    model = paddle.nn.Sequential(paddle.nn.Linear(size, size), paddle.nn.BatchNorm1D(size))
    schedule = paddle.optimizer.lr.LinearWarmup(paddle.optimizer.lr.PolynomialDecay(0.1, 10), 3, 0.0, 0.1)
    optimizer = paddle.optimizer.Adam(schedule, parameters=model.parameters())
    average, scaler = WeightAverage(model, 0.9), LossScaler(True)
    model(paddle.randn([4, size])).sum().backward()
    optimizer.step()
    schedule.step()
    average.update(1)
    return Checkpoints(str(save_dir), keep, model, optimizer, scaler, average), model, optimizer, scaler, average


@pytest.fixture
def saved(tmp_path):
    """A folder with the checkpoints iter_1, iter_2 and iter_3."""
    store = checkpoints(tmp_path)[0]
    for iteration in (1, 2, 3):
        store.save(Progress(7, iteration, best_miou=0.5, best_iteration=1))
    return tmp_path


def test_everything_comes_back(saved):
    store, model, optimizer, scaler, average = checkpoints(saved.parent / "other")
    scaler.set_state_dict({"scale": 1.0, "good_steps": 3})
    progress = store.load(str(saved / "iter_2"))
    assert progress == Progress(7, 2, best_miou=0.5, best_iteration=1)
    assert scaler.state_dict() == {"scale": 2.0**15, "good_steps": 0}
    assert store.save(progress) == str(saved.parent / "other" / "iter_2")
    assert checkpoint_arrays(saved / "iter_2") == checkpoint_arrays(saved.parent / "other" / "iter_2")
    keys = checkpoint_arrays(saved / "iter_2")[0]
    for name in ("0.weight|_moment1_0", "0.bias|_moment2_0", "1.weight|_beta1_pow_acc_0", "LR_Scheduler"):
        assert f"model.pdopt/{name}" in keys
    assert "average.pdparams/1._variance" in keys


def test_parameters_are_plain(saved):
    """What paddle.load and PaddleSeg read."""
    weights = paddle.load(str(saved / "iter_1" / "model.pdparams"))
    paddle.nn.Sequential(paddle.nn.Linear(64, 64), paddle.nn.BatchNorm1D(64)).set_state_dict(weights)
    assert list(weights["0.weight"].shape) == [64, 64]


def test_checksums_are_those_of_sha256sum(saved):
    process = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=saved / "iter_3", capture_output=True, text=True)
    assert process.returncode == 0
    assert process.stdout.count(": OK") == 4


@pytest.mark.parametrize("name", ["model.pdparams", "model.pdopt", "average.pdparams", "state.json"])
@pytest.mark.parametrize("harm", ["a flipped bit", "truncated", "missing"])
def test_damage_is_seen_and_the_checkpoint_before_is_used(saved, capsys, name, harm):
    path = saved / "iter_3" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(content[: len(content) // 2] if harm == "truncated" else content)
    assert name in damage(str(saved / "iter_3"))
    assert newest_checkpoint(str(saved)) == str(saved / "iter_2")
    said = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(said) == 1 and "iter_3 is passed over" in said[0] and name in said[0]
    with pytest.raises(UserError, match=f"--resume_model .*iter_3: .*{name}.*. Resume from another checkpoint, or from auto"):
        checkpoints(saved)[0].load(str(saved / "iter_3"))


def test_a_partial_list_of_checksums(saved):
    sums = saved / "iter_3" / "SHA256SUMS"
    lines = sums.read_text().splitlines(keepends=True)
    for text in ("", lines[0], "".join(lines)[:-20], "nonsense"):
        sums.write_text(text)
        assert damage(str(saved / "iter_3"))
    sums.unlink()
    assert damage(str(saved / "iter_3")) == "it has no SHA256SUMS"
    assert damage(str(saved / "iter_4")) == "there is no such folder"


STATE = dataclasses.asdict(Progress(7, 3))
SCALER = {"scale": 1.0, "good_steps": 0}
FORGED = {  # file: what it holds, or what replaces a part of it
    "state.json": [
        "[" * 10**6, "5", "{}", {}, {**STATE, "scaler": 5}, {**STATE, "scaler": SCALER, "other": 1},
        {**STATE, "scaler": SCALER, "iteration": "9"}, {**STATE, "scaler": SCALER, "seed": -1},
        {**STATE, "scaler": SCALER, "best_miou": []}, {**STATE, "scaler": {"scale": "x", "good_steps": 0}},
        {**STATE, "scaler": SCALER, "config": ["a"]},
    ],
    "model.pdopt": [
        {"nobody|_moment1_0": np.zeros(3)}, {"0.weight|_moment1_0": np.zeros((3, 3))}, {"0.weight|_moment1_0": "a text"},
        {"LR_Scheduler": 5}, {"LR_Scheduler": {"last_epoch": 1}}, {"master_weights": 5}, {"master_weights": {"nobody": 1}},
        {5: np.zeros(3)},
    ],
    "average.pdparams": [{"0.weight": np.zeros(1)}, {"0.bias": "a text"}, {"0.bias": {}}],
}  # fmt: skip


@pytest.mark.parametrize("name, content", [(name, content) for name, contents in FORGED.items() for content in contents])
def test_forged_checkpoints(saved, name, content):
    """Of somebody who adapts the checksums: refused in a line that names the file."""
    path = saved / "iter_3" / name
    if name == "state.json":
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    else:
        paddle.save({**read_weights(str(path)), **content}, str(path))
    write_sums(saved / "iter_3")
    with pytest.raises(UserError, match=f"{name}( is no state of|: |.* was not loaded| holds a dict, not a dict of named)"):
        checkpoints(saved)[0].load(str(saved / "iter_3"))


@pytest.mark.parametrize("name", ["../iter_2/model.pdparams", "/dev/zero", "missing.bin"])
def test_checksums_of_other_files(saved, name):
    """Nothing outside a checkpoint is read, /dev/zero for ever."""
    with open(saved / "iter_3" / "SHA256SUMS", "a") as file:
        file.write(f"{'0' * 64}  {name}\n")
    assert damage(str(saved / "iter_3")) == f"it has no file {name}, which SHA256SUMS lists"


def test_nothing_whole(tmp_path):
    assert newest_checkpoint(str(tmp_path / "nowhere")) is None
    (tmp_path / "iter_1").mkdir()
    (tmp_path / "iter_2").write_text("a file")
    assert newest_checkpoint(str(tmp_path)) is None


def test_the_newest_are_kept(tmp_path):
    store = checkpoints(tmp_path, keep=2)[0]
    for iteration in (8, 9, 10):
        store.save(Progress(0, iteration))
    assert [os.path.basename(path) for path in find_checkpoints(str(tmp_path))] == ["iter_10", "iter_9"]


def test_a_checkpoint_is_replaced(saved):
    store = checkpoints(saved)[0]
    before = checkpoint_arrays(saved / "iter_3")
    store.save(Progress(8, 3))
    assert checkpoint_arrays(saved / "iter_3") != before and damage(str(saved / "iter_3")) is None
    assert sorted(os.listdir(saved)) == ["iter_1", "iter_2", "iter_3"]


def test_a_kill_while_a_checkpoint_is_replaced(saved):
    """The old one is out of the way for a moment, and found there."""
    os.rename(saved / "iter_3", saved / "iter_3.old")
    assert newest_checkpoint(str(saved)) == str(saved / "iter_3.old")
    checkpoints(saved)[0].save(Progress(8, 3))
    assert newest_checkpoint(str(saved)) == str(saved / "iter_3")


@pytest.fixture(params=["limit", "file system"])
def full_disk(request, tmp_path):
    """A folder where a large checkpoint does not fit."""
    if request.param == "limit":
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
        yield tmp_path
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        return
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small file system takes root")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_leaves_earlier_checkpoints(full_disk):
    checkpoints(full_disk)[0].save(Progress(0, 1))
    before = checkpoint_arrays(full_disk / "iter_1")
    store = checkpoints(full_disk, keep=1, size=512)[0]
    with pytest.raises(UserError, match="iter_2 could not be written: .*. Earlier ones are as they were"):
        store.save(Progress(0, 2))
    assert os.listdir(full_disk) == ["iter_1"]
    assert damage(str(full_disk / "iter_1")) is None and checkpoint_arrays(full_disk / "iter_1") == before
    with pytest.raises(UserError, match="best_model/model.pdparams could not be written"):
        store.save_best({})
    assert os.listdir(full_disk / "best_model") == []


class _Command:
    """What a pickle of this runs when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("name", ["model.pdparams", "model.pdopt", "average.pdparams"])
def test_hostile_files_only_fail(saved, name):
    """Even with checksums that are right."""
    folder = shutil.copytree(saved / "iter_3", saved / "hostile")
    with open(folder / name, "rb") as file:
        content = pickle.load(file)
    with open(folder / name, "wb") as file:
        pickle.dump({**content, "more": _Command(saved / "harm")}, file)
    write_sums(folder)
    assert damage(str(folder)) is None
    with pytest.raises(UserError, match=f"{name} was not loaded: it refers to posix.system"):
        checkpoints(saved)[0].load(str(folder))
    assert not (saved / "harm").exists()
    with open(folder / name, "rb") as file:
        pickle.load(file)
    assert (saved / "harm").exists()  # the file was hostile indeed


def test_weights_of_another_network(saved):
    store = checkpoints(saved, size=32)[0]
    with pytest.raises(UserError, match=r"4 have another shape|have another shape, e.g. 0.weight \[64, 64\]"):
        store.load(str(saved / "iter_3"))


def test_averages_equal_the_recurrence(tmp_path):
    model = paddle.nn.Linear(3, 2)
    average, expected = WeightAverage(model, 0.9), model.weight.numpy().astype(np.float64)
    for iteration in range(1, 30):
        model.weight.set_value(paddle.randn([3, 2]))
        average.update(iteration)
        decay = min(0.9, iteration / (iteration + 1))
        expected = decay * expected + (1 - decay) * model.weight.numpy()
    own = model.weight.numpy().copy()
    with average.applied():
        np.testing.assert_allclose(model.weight.numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(model.weight.numpy(), own)
    without = WeightAverage(model, None)
    without.update(1)
    with without.applied():
        np.testing.assert_array_equal(model.weight.numpy(), own)
    assert not without.enabled and without.state_dict() == {}
