"""Two processes on one machine, by paddle's launcher and Gloo."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from paddleseg_psp.commands import val
from paddleseg_psp.config import Config
from paddleseg_psp.losses import CrossEntropyLoss
from paddleseg_psp.models.weights import read_weights
from tests.conftest import tiny_config
from tests.helpers import ROOT, TINY, relative_error, run_training

SCRIPT = os.path.join(ROOT, "tests", "engine", "two_processes.py")


def launch(folder, *command):
    """Starts two processes; their logs go to <folder>/workerlog.<rank>, the launcher's and the first one's to <folder>/log."""
    folder.mkdir()
    launcher = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--backend", "gloo"]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    environment["PYTHONPATH"] = os.pathsep.join((ROOT, os.environ.get("PYTHONPATH", "")))  # for the script's own imports
    with open(folder / "log", "w") as log:
        return subprocess.Popen(
            [*launcher, "--log_dir", str(folder), *map(str, command)], stdout=log, stderr=log, cwd=ROOT, env=environment
        )


@pytest.fixture(scope="module")
def runs(tiny_data, tmp_path_factory):
    """Three trainings side by side: one goes well, in one a loss is not a number, in one a process is killed."""
    root = tmp_path_factory.mktemp("distributed")
    (root / "config.yml").write_text(
        yaml.safe_dump(tiny_config(tiny_data, iters=5, batch_size=1, accumulate=2, freeze_batch_norm="all"))
    )
    names = ("nothing", "nan", "killed")
    begun = time.monotonic()
    started = [launch(root / name, SCRIPT, root / "config.yml", root / name / "out", name) for name in names]
    codes = {name: process.wait(timeout=180) for name, process in zip(names, started)}
    return root, codes, time.monotonic() - begun


def test_two_processes_equal_one_with_a_larger_batch(runs, tmp_path):
    """To float32 rounding, without batch normalization: two processes with two batches of one, and one with four."""
    root, codes, _ = runs
    assert codes["nothing"] == 0
    for rank, log in enumerate(("log", "workerlog.1")):
        assert f"process {rank} has ended well" in (root / "nothing" / log).read_text()
    config = Config(str(root / "config.yml"), [TINY, "model.dropout=0"], batch_size=4, accumulate=1)
    losses = [(weight, CrossEntropyLoss(avg_non_ignore=False)) for weight in (1, 0.4)]
    start = {name: value.numpy().copy() for name, value in seeded(config).state_dict().items()}
    _, model = run_training(config, tmp_path / "out", with_evaluation=False, losses=losses, save_interval=5, seed=4)
    together = read_weights(str(root / "nothing" / "out" / "iter_5" / "model.pdparams"))
    for name, value in model.state_dict().items():
        moved = value.numpy() - start[name]
        if np.linalg.norm(moved) > 1e-6:
            assert relative_error(together[name] - start[name], moved) < 1e-4, name
    losses = [
        [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (tmp_path / "out", root / "nothing" / "out")
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def seeded(config):
    import paddle

    paddle.seed(0)
    return config.build_model()


def test_both_stop_at_a_loss_that_is_not_finite(runs):
    """And tell the images of the process that had it."""
    root, codes, _ = runs
    assert codes["nan"] == 1
    said = [
        re.search(r"Error: the loss is nan at iteration 2.*", (root / "nan" / log).read_text())
        for log in ("log", "workerlog.1")
    ]
    assert said[0][0] == said[1][0]
    assert "Traceback" not in (root / "nan" / "log").read_text()


def test_a_killed_process_ends_the_others(runs):
    root, codes, seconds = runs
    assert codes["killed"] == 1 and seconds < 120
    assert re.search(r"the trainer process with rank=\[.*1.*\] was aborted", (root / "killed" / "log").read_text())
    assert "has ended well" not in (root / "killed" / "log").read_text()
    assert not _alive(root / "killed")


def test_a_terminated_launcher_ends_all_after_saving(runs, tmp_path):
    root, _, _ = runs
    config = yaml.safe_load((root / "config.yml").read_text())
    (tmp_path / "config.yml").write_text(yaml.safe_dump({**config, "iters": 100000}))
    process = launch(tmp_path / "log", SCRIPT, tmp_path / "config.yml", tmp_path / "out", "nothing")
    _until(lambda: (tmp_path / "out" / "iter_10").exists())
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    _until(lambda: not _alive(tmp_path))
    said = re.search(r"Error: ended by SIGTERM: (.*iter_\d+) is saved", (tmp_path / "log" / "workerlog.1").read_text())
    assert os.path.isfile(os.path.join(said[1], "SHA256SUMS"))


def _until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _alive(folder):
    """Returns the processes that have the folder among their arguments."""
    return subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, text=True).stdout.split()


def test_evaluation_and_early_stop_are_shared(tiny_data, tmp_path, capsys):
    """With running statistics that batches of their own change in each process: the first one's are evaluated and saved."""
    config = tiny_config(tiny_data, iters=50, batch_size=1)
    config["lr_scheduler"] = {"type": "PolynomialDecay", "learning_rate": 0.0, "end_lr": 0.0}
    (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
    options = ["--do_eval", "--save_interval", "1", "--early_stop_intervals", "2", "--keep_checkpoint_max", "2", "--seed", "0"]
    command = [
        "train.py",
        "--config",
        tmp_path / "config.yml",
        "--save_dir",
        tmp_path / "out",
        "--device",
        "cpu",
        "--log_iters",
        "1",
    ]
    assert launch(tmp_path / "log", *command, *options).wait(timeout=120) == 0
    log = (tmp_path / "log" / "log").read_text()
    last = int(re.search(r"Stopped early: no better mIoU in 2 evaluations up to (\d+)", log)[1])
    assert f"threads={max(1, len(os.sched_getaffinity(0)) // 2)}" in log  # they share the cores
    assert {f"iter_{last - 1}", f"iter_{last}", "best_model"} < set(os.listdir(tmp_path / "out"))
    records = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [(record["group"], record["iteration"]) for record in records] == [
        (group, iteration) for iteration in range(1, last + 1) for group in ("Train", "Evaluate")
    ]
    weights = tmp_path / "out" / "best_model" / "model.pdparams"
    val.main(["--config", str(tmp_path / "config.yml"), "--model_path", str(weights), "--device", "cpu"])
    metrics = r"\[EVAL\] #Images: 3 mIoU: [\d.]+ Acc: [\d.]+ Kappa: -?[\d.]+ Dice: [\d.]+"
    assert re.search(metrics, capsys.readouterr().out)[0] == re.findall(metrics, log)[last - 3]
