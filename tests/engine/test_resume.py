"""A run that was interrupted and resumed ends like one that was not, to the bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import paddle
import pytest

from paddleseg_psp.config import Config
from paddleseg_psp.engine.interruption import Interrupted
from paddleseg_psp.errors import UserError
from paddleseg_psp.models.weights import read_weights
from tests.helpers import ROOT, TINY, checkpoint_arrays, run_python, run_training

EVERYTHING = {"num_workers": 2, "precision": "fp16", "ema_decay": 0.9}
AUGMENTED = [
    {"type": "ResizeStepScaling", "min_scale_factor": 0.5, "max_scale_factor": 2.0, "scale_step_size": 0.25},
    {"type": "RandomPaddingCrop", "crop_size": [64, 48]},
    {"type": "RandomHorizontalFlip"},
    {"type": "RandomDistort"},
    {"type": "Normalize"},
]


class KillingLoss(paddle.nn.Layer):
    """A loss that sends a signal to its own process when it is called for the n-th time."""

    def __init__(self, loss, signum, call):
        super().__init__()
        self.loss, self.signum, self.call = loss, signum, call

    def forward(self, logits, label):
        self.call -= 1
        if self.call == 0:
            os.kill(os.getpid(), self.signum)
        return self.loss(logits, label)


@pytest.fixture
def config(write_config):
    """A configuration with random transforms and dropout, two batches an iteration."""
    path = write_config("PSANet", iters=5, accumulate=2, batch_size=1)
    return Config(path, [f"train_dataset.transforms={AUGMENTED}", "model.dropout=0.3", TINY])


@pytest.mark.parametrize(
    "options, iteration, signum",
    [({}, 3, signal.SIGINT), (EVERYTHING, 1, signal.SIGTERM), (EVERYTHING, 4, signal.SIGTERM)],
)
def test_an_interrupted_run_ends_like_a_whole_one(config, tmp_path, options, iteration, signum):
    run_training(config, tmp_path / "whole", **options)
    losses = config.build_losses()
    losses[0] = (1, KillingLoss(losses[0][1], signum, call=2 * iteration))
    with pytest.raises(Interrupted, match=f"iter_{iteration} is saved; --resume_model auto") as caught:
        run_training(config, tmp_path / "resumed", losses=losses, **options)
    assert caught.value.signum == signum
    run_training(config, tmp_path / "resumed", resume_model="auto", **options)
    whole, resumed = (checkpoint_arrays(tmp_path / name / "iter_5") for name in ("whole", "resumed"))
    assert whole == resumed
    assert ("average.pdparams/backbone.stages.0._conv.weight" in whole[0]) == ("ema_decay" in options)
    best = [read_weights(str(tmp_path / name / "best_model" / "model.pdparams")) for name in ("whole", "resumed")]
    for name, value in best[0].items():
        np.testing.assert_array_equal(value, best[1][name], err_msg=name)


def test_reading_processes_change_nothing(config, tmp_path):
    for workers in (0, 1, 2):
        run_training(config, tmp_path / str(workers), with_evaluation=False, num_workers=workers)
    contents = [checkpoint_arrays(tmp_path / str(workers) / "iter_5") for workers in (0, 1, 2)]
    assert contents[0] == contents[1] == contents[2]


def test_another_seed_is_another_run(config, tmp_path):
    for seed in (0, 1):
        run_training(config, tmp_path / str(seed), with_evaluation=False, seed=seed)
    assert checkpoint_arrays(tmp_path / "0" / "iter_5")[0] != checkpoint_arrays(tmp_path / "1" / "iter_5")[0]


class KillingDataset:
    """A data set that sends a signal to the process when a sample of its second evaluation is read."""

    def __init__(self, dataset):
        self._dataset, self._left = dataset, 3 + 3 + 1  # three images and three pictures in the first evaluation
        self.img_channels = dataset.transforms.img_channels

    def __getattr__(self, name):
        return getattr(self._dataset, name)

    @property
    def transforms(self):
        return self

    def __call__(self, sample):
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return self._dataset.transforms(sample)


def test_an_interrupted_evaluation_is_made_up_for(write_config, tmp_path, monkeypatch, capsys):
    config = Config(write_config(), [TINY])
    whole, _ = run_training(config, tmp_path / "whole")
    built = config.build_dataset

    def build(key):
        return KillingDataset(built(key)) if key == "val_dataset" else built(key)

    monkeypatch.setattr(config, "build_dataset", build)
    with pytest.raises(Interrupted):
        run_training(config, tmp_path / "resumed")
    assert json.loads((tmp_path / "resumed" / "iter_4" / "state.json").read_text())["evaluated"] == 2
    monkeypatch.undo()
    capsys.readouterr()
    assert run_training(config, tmp_path / "resumed", resume_model="auto")[0] == whole
    assert "[TRAIN]" not in capsys.readouterr().out
    assert checkpoint_arrays(tmp_path / "whole" / "iter_4") == checkpoint_arrays(tmp_path / "resumed" / "iter_4")


@pytest.mark.parametrize("signum, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_ends_the_command(write_config, tmp_path, signum, code):
    command = ["train.py", "--config", write_config(iters=10000), "--save_dir", tmp_path / "out", "--device", "cpu"]
    command = [sys.executable, *map(str, command), "--num_workers", "1", "--log_iters", "1"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    for line in process.stdout:
        if "iter: 2/" in line:
            break
    os.killpg(process.pid, signum)  # to the readers as well, as Ctrl-C does
    begun = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code and time.monotonic() - begun < 30
    last = errors.strip().splitlines()[-1]
    assert last.startswith(f"Error: ended by {signal.Signals(signum).name}: ") and "--resume_model auto" in last
    assert "Traceback" not in errors
    assert [name for name in os.listdir(tmp_path / "out") if name.startswith("iter_")]


@pytest.mark.slow
def test_killed_and_resumed_runs_lose_nothing(write_config, tmp_path):
    """dev/kill_and_resume.py with few kills; by hand it takes many."""
    config = write_config("PSANet", iters=20)
    arguments = ["--config", config, "--save_interval", 2, "--log_iters", 5, "--num_workers", 1, "--use_ema"]
    process = run_python(
        ["dev/kill_and_resume.py", "--kills", 3, "--work_dir", tmp_path / "work", "--", *arguments], timeout=400
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "3 kills in" in process.stdout and "same bits" in process.stdout


# What becomes of an earlier run.


def test_a_new_run_moves_an_earlier_one_aside(write_config, tmp_path, capsys):
    config = Config(write_config(iters=2), [TINY])
    run_training(config, tmp_path / "out")
    before = checkpoint_arrays(tmp_path / "out" / "iter_2")
    run_training(config, tmp_path / "out", seed=1, with_evaluation=False)
    assert "Moved what an earlier run had left" in capsys.readouterr().out
    assert checkpoint_arrays(tmp_path / "out" / "previous_1" / "iter_2") == before
    assert {"best_model", "metrics.jsonl", "config.yml"} < set(os.listdir(tmp_path / "out" / "previous_1"))
    assert not (tmp_path / "out" / "best_model").exists()
    assert checkpoint_arrays(tmp_path / "out" / "iter_2") != before


def test_resuming_from_an_older_checkpoint_moves_newer_ones_aside(write_config, tmp_path):
    config = Config(write_config(), [TINY])
    run_training(config, tmp_path / "out", with_evaluation=False, save_interval=1)
    run_training(config, tmp_path / "out", with_evaluation=False, resume_model=str(tmp_path / "out" / "iter_2"))
    assert {"iter_3", "iter_4"} == set(os.listdir(tmp_path / "out" / "previous_1"))
    assert {"iter_1", "iter_2", "iter_4"} == {name for name in os.listdir(tmp_path / "out") if name.startswith("iter")}
    records = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [record["iteration"] for record in records] == [1, 2, 3, 4]


def test_resuming_elsewhere_takes_the_best_model_along(write_config, tmp_path):
    config = Config(write_config(), [TINY])
    run_training(config, tmp_path / "out")
    run_training(config, tmp_path / "other", resume_model=str(tmp_path / "out" / "iter_4"))
    assert (tmp_path / "other" / "best_model" / "model.pdparams").exists()


def test_automatic_resuming_starts_where_there_is_nothing(write_config, tmp_path, capsys):
    run_training(Config(write_config(), [TINY]), tmp_path / "out", with_evaluation=False, resume_model="auto")
    assert "There is no checkpoint in" in capsys.readouterr().out


def test_a_changed_configuration_is_told(write_config, tmp_path, capsys):
    config = Config(write_config(iters=2), [TINY])
    run_training(config, tmp_path / "out", with_evaluation=False)
    config = Config(write_config(iters=4), ["optimizer.momentum=0.8", TINY])
    run_training(config, tmp_path / "out", with_evaluation=False, resume_model="auto")
    assert "The configuration differs from the checkpoint's: iters, optimizer.momentum" in capsys.readouterr().out


def test_averaged_weights_must_go_on(write_config, tmp_path):
    config = Config(write_config(iters=2), [TINY])
    run_training(config, tmp_path / "out", with_evaluation=False)
    with pytest.raises(UserError, match="trained without --use_ema"):
        run_training(config, tmp_path / "out", with_evaluation=False, ema_decay=0.9, resume_model="auto")


def test_a_run_killed_before_its_first_checkpoint_starts_again_in_its_place(write_config, tmp_path):
    config = Config(write_config(iters=2), [TINY])
    run_training(config, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "iter_2")
    (tmp_path / "out" / ".123.iter_2").mkdir()
    run_training(config, tmp_path / "out", resume_model="auto")
    assert {"iter_2", "best_model"} < set(os.listdir(tmp_path / "out"))
    assert not {"previous_1", ".123.iter_2"} & set(os.listdir(tmp_path / "out"))
    records = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [record["iteration"] for record in records] == [1, 2, 2]
