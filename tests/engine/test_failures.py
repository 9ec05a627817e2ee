"""A training loses nothing, whatever fails at the end of an interval."""

import errno
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from paddleseg_psp.config import Config
from paddleseg_psp.data import TrainingSampler
from paddleseg_psp.engine import checkpoint, validation
from paddleseg_psp.engine.checkpoint import damage, metrics_of, newest_checkpoint
from paddleseg_psp.engine.training_log import read_records
from paddleseg_psp.errors import UserError
from tests.helpers import TINY, checkpoint_arrays, run_training


def raising(error):
    def function(*_, **__):
        raise error

    return function


@pytest.fixture
def config(write_config, tiny_data, tmp_path):
    """A configuration whose data may be changed."""
    shutil.copytree(tiny_data, tmp_path / "data")
    return Config(write_config(data=tmp_path / "data"), [TINY])


@pytest.mark.parametrize("failure", ["data", "network"])
def test_a_failing_evaluation_keeps_the_training(config, tmp_path, monkeypatch, failure):
    run_training(config, tmp_path / "whole")
    label = next((tmp_path / "data" / "gtFine" / "val").rglob("*_labelTrainIds.png"))
    right = label.read_bytes()
    if failure == "data":
        cv2.imwrite(str(label), np.full_like(cv2.imread(str(label), -1), 77))
    else:
        monkeypatch.setattr(validation, "evaluate", raising(AttributeError("by a test")))
    where = f"The training is saved in {tmp_path / 'out' / 'iter_2'}: --resume_model auto resumes from there$"
    reason = f"{label} has the value.* 77" if failure == "data" else "AttributeError: by a test"
    with pytest.raises(UserError, match=f"{reason}.*{where}"):
        run_training(config, tmp_path / "out")
    assert damage(str(tmp_path / "out" / "iter_2")) is None
    label.write_bytes(right)
    monkeypatch.undo()
    run_training(config, tmp_path / "out", resume_model="auto")
    assert checkpoint_arrays(tmp_path / "whole" / "iter_4") == checkpoint_arrays(tmp_path / "out" / "iter_4")
    whole, resumed = (read_records(str(tmp_path / name / "metrics.jsonl")) for name in ("whole", "out"))
    assert [record["iteration"] for record in whole] == [record["iteration"] for record in resumed] == [1, 2, 2, 3, 4, 4]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_wrong_file_in_the_middle_of_an_interval_keeps_what_is_done(config, tmp_path, num_workers):
    """Once the file is mended the run ends as if nothing had happened."""
    options = {"save_interval": 4, "num_workers": num_workers, "seed": 3}
    run_training(config, tmp_path / "whole", **options)
    dataset = config.build_dataset("train_dataset")
    sampler = TrainingSampler(len(dataset), config.batch_size, range(1, 5), 3)
    early = {*sampler.indices(1, 0), *sampler.indices(2, 0)}
    label = Path(dataset.file_list[next(index for index in sampler.indices(3, 0) if index not in early)][1])
    right = label.read_bytes()
    label.write_bytes(right[: len(right) // 2])
    with pytest.raises(
        UserError, match=f"{label} cannot be read.*The training is saved in .*iter_2: --resume_model auto resumes"
    ):
        run_training(config, tmp_path / "out", **options)
    assert damage(str(tmp_path / "out" / "iter_2")) is None
    label.write_bytes(right)
    run_training(config, tmp_path / "out", resume_model="auto", **options)
    assert checkpoint_arrays(tmp_path / "whole" / "iter_4") == checkpoint_arrays(tmp_path / "out" / "iter_4")


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device", "/disk")


@pytest.mark.parametrize(
    "where, what, failing",
    [
        ("validation.draw_comparison", "a validation picture", raising(ZeroDivisionError("by a test"))),
        ("validation.atomic_path", "a validation picture", full),
        ("training_log.draw_curves", "curves.png", raising(MemoryError("by a test"))),
        ("training_log.append", "metrics.jsonl", full),
        ("visualdl_log.append", "VisualDL's log", full),
        ("visualdl_log.atomic_path", "VisualDL's log", full),
    ],
)
def test_what_a_training_can_do_without_is_told_once(write_config, tmp_path, monkeypatch, capsys, where, what, failing):
    import paddleseg_psp.engine.visualdl_log  # noqa: F401 (which trainings without VisualDL leave out)

    config = Config(write_config(), [TINY])
    monkeypatch.setattr(f"paddleseg_psp.engine.{where}", failing)
    best, _ = run_training(config, tmp_path / "out", use_vdl=True)
    said = [line for line in capsys.readouterr().out.splitlines() if "the training continues" in line]
    assert len(said) == 1 and f"[WARNING]\t{what} could not be written" in said[0]
    state = checkpoint_arrays(tmp_path / "out" / "iter_4")[1]
    assert damage(str(tmp_path / "out" / "iter_4")) is None
    assert (state["evaluated"], state["best_miou"]) == (4, best)


def test_an_evaluation_that_cannot_be_noted_is_repeated(write_config, tmp_path, monkeypatch, capsys):
    config = Config(write_config(iters=2), [TINY])
    best, _ = run_training(config, tmp_path / "whole")
    monkeypatch.setattr(checkpoint, "link_or_copy", full)
    run_training(config, tmp_path / "out")
    assert "iter_2 does not have its evaluation (No space left on device)" in capsys.readouterr().out
    assert checkpoint_arrays(tmp_path / "out" / "iter_2")[1]["evaluated"] == 0
    monkeypatch.undo()
    assert run_training(config, tmp_path / "out", resume_model="auto")[0] == best
    assert checkpoint_arrays(tmp_path / "whole" / "iter_2") == checkpoint_arrays(tmp_path / "out" / "iter_2")


def test_a_kill_at_any_moment_leaves_what_can_be_used(write_config, tmp_path, monkeypatch):
    """Looked at before and after each change of a name in the folder, which is where a kill may come."""
    config, out = Config(write_config(), [TINY]), tmp_path / "out"
    seen, best = [], out / "best_model" / "model.pdparams"

    def look():
        newest = newest_checkpoint(str(out))
        seen.append(int(json.loads(open(os.path.join(newest, "state.json")).read())["iteration"]) if newest else 0)
        if os.path.exists(best.parent / "metrics.json"):
            assert metrics_of(str(best))

    def watched(function):
        def call(*args, **options):
            look()
            try:
                return function(*args, **options)
            finally:
                look()

        return call

    for name in ("rename", "replace", "remove", "unlink", "link", "rmdir"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    run_training(config, out)
    assert seen == sorted(seen) and set(seen) == {0, 2, 4}


def test_records_of_visualdl_go_on_in_one_file(write_config, tmp_path):
    """VisualDL reads one file of a folder; LogReader is its own reader."""
    from visualdl import LogReader, LogWriter

    config, out = Config(write_config(iters=6), [TINY]), tmp_path / "out"
    run_training(config, out, use_vdl=True)
    with LogWriter(str(out), file_name="vdlrecords.1.log") as earlier:  # as versions before left one a start
        for step in (0, 3, 5):
            earlier.add_scalar("Train/loss", 7.0, step)
    with open(next(path for path in out.glob("vdlrecords.*") if path.name != "vdlrecords.1.log"), "ab") as file:
        file.write(b"\x50\0\0\0\0\0\0\0cut off")
    run_training(config, out, use_vdl=True, resume_model=str(out / "iter_4"))
    (path,) = out.glob("vdlrecords.*")
    reader = LogReader(file_path=str(path))
    assert [item.id for item in reader.get_data("scalar", "Train/loss")] == [0, 3, 1, 2, 3, 4, 5, 6]
    assert [item.id for item in reader.get_data("scalar", "Evaluate/mIoU")] == [2, 4, 6]
    assert [item.id for item in reader.get_data("image", "Validation/2")] == [2, 4, 6]
    values = [item.value for item in reader.get_data("scalar", "Train/loss")][2:]
    records = [record["loss"] for record in read_records(str(out / "metrics.jsonl")) if record["group"] == "Train"]
    np.testing.assert_allclose(values, records, rtol=1e-6)


def test_a_finished_run_says_so(write_config, tmp_path, capsys):
    config = Config(write_config(iters=2), [TINY])
    run_training(config, tmp_path / "out", with_evaluation=False)
    for iters in (2, 1):
        run_training(
            config.replaced({**config.data, "iters": iters}), tmp_path / "out", with_evaluation=False, resume_model="auto"
        )
        said = f"Nothing is left to train: 2 of {iters} iterations are done; --iters takes more"
        assert said in capsys.readouterr().out
