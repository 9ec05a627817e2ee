"""Trainings as processes: terminals that go, second trainings, kills."""

import fcntl
import functools
import json
import os
import pty
import signal
import subprocess
import sys

import pytest

from paddleseg_psp.config import Config
from paddleseg_psp.engine.checkpoint import find_checkpoints
from paddleseg_psp.errors import UserError
from tests.helpers import ROOT, TINY, own_mounts, run_python, run_training


def command(config, save_dir, *more):
    arguments = ["train.py", "--config", config, "--save_dir", save_dir, "--device", "cpu", "--log_iters", 1, "--seed", 0]
    return [sys.executable, *map(str, [*arguments, *more])]


def start(*arguments, before=(), **options):
    """Starts a training as the leader of a session; its output is text in a pipe unless `options` say otherwise."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **options}
    hears_the_terminal = functools.partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)  # if these tests run under nohup
    return subprocess.Popen(
        [*before, *command(*arguments)], cwd=ROOT, text=True, start_new_session=True, preexec_fn=hears_the_terminal, **options
    )


def read_until(process, words):
    """Reads output to a line with these words, and returns that line."""
    return next(line for line in process.stdout if words in line)


def end(process):
    """Returns the exit code and the lines that were left to read."""
    output, _ = process.communicate(timeout=100)
    return process.returncode, output.splitlines()


def test_the_terminals_end_saves(write_config, tmp_path):
    """SIGHUP to all processes, as a terminal that closes sends it."""
    process = start(write_config(iters=10000), tmp_path / "out", "--num_workers", 1)
    read_until(process, "iter: 2/")
    os.killpg(process.pid, signal.SIGHUP)
    code, lines = end(process)
    assert code == 128 + signal.SIGHUP and lines[-1].startswith("Error: ended by SIGHUP: ")
    assert "is saved; --resume_model auto resumes from there" in lines[-1]
    assert find_checkpoints(str(tmp_path / "out"))


def test_nohup_goes_on(write_config, tmp_path):
    process = start(write_config(iters=12), tmp_path / "out", "--num_workers", 1, before=["nohup"], stdin=subprocess.DEVNULL)
    read_until(process, "iter: 2/")
    os.killpg(process.pid, signal.SIGHUP)
    assert end(process)[0] == 0
    assert [os.path.basename(path) for path in find_checkpoints(str(tmp_path / "out"))] == ["iter_12"]


def test_a_terminal_that_is_gone(write_config, tmp_path):
    """Writing to it is an error of input and output."""
    ours, theirs = pty.openpty()
    ignoring = ["bash", "-c", "trap '' HUP; exec \"$@\"", "-"]
    process = start(write_config(iters=4), tmp_path / "out", before=ignoring, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b""
    while b"iter: 1/" not in seen:
        seen += os.read(ours, 1000)
    os.close(ours)
    assert process.wait(100) == 0
    assert [os.path.basename(path) for path in find_checkpoints(str(tmp_path / "out"))] == ["iter_4"]


def test_a_second_training_is_refused(write_config, tmp_path):
    config, out = write_config(iters=40), tmp_path / "out"
    first = start(config, out, "--save_interval", 20)
    read_until(first, "iter: 2/")
    second = run_python(command(config, out, "--resume_model", "auto")[1:])
    last = second.stderr.splitlines()[-1]
    assert second.returncode == 1 and last.startswith("Error: another training is running in --save_dir ")
    assert f"process {first.pid} on {os.uname().nodename} since 20" in last
    with pytest.raises(UserError, match=f"another training is running .* process {first.pid}"):
        run_training(Config(config, [TINY]), out)
    assert end(first)[0] == 0
    steps = [json.loads(line)["iteration"] for line in open(out / "metrics.jsonl")]
    assert steps == list(range(1, 41)) and not (out / "previous_1").exists()


def test_a_killed_training_goes_on_at_once(write_config, tmp_path):
    """Its reading processes, which take seconds to notice, do not keep its place."""
    config, out = write_config(iters=8), tmp_path / "out"
    first = start(config, out, "--num_workers", 2, "--save_interval", 2)
    read_until(first, "iter: 4/")
    first.kill()
    first.wait()
    second = run_python(command(config, out, "--num_workers", 2, "--save_interval", 2, "--resume_model", "auto")[1:])
    assert second.returncode == 0, second.stderr
    assert find_checkpoints(str(out))[0] == str(out / "iter_8")


def test_a_folder_without_locks(write_config, tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    run_training(Config(write_config(iters=2), [TINY]), tmp_path / "out", with_evaluation=False)
    said = [line for line in capsys.readouterr().out.splitlines() if "cannot be locked" in line]
    assert len(said) == 1 and "Function not implemented" in said[0]


SMALL = "mount -t tmpfs -o size={} none /dev/shm"
NONE = """mount -t tmpfs none new && for f in null zero urandom random full; do touch new/$f; mount --bind /dev/$f new/$f; done
ln -s /proc/self/fd new/fd; mount --rbind new /dev && [ ! -e /dev/shm ]"""


@pytest.mark.parametrize("mount", [SMALL.format("4k"), SMALL.format("256k"), NONE], ids=["4k", "256k", "none"])
def test_reading_processes_without_shared_memory(write_config, tmp_path, mount):
    """What has no room for batches has some for semaphores; without room for those the main process reads."""
    (tmp_path / "new").mkdir()
    training = command(write_config(iters=2), tmp_path / "out", "--num_workers", 2, "--do_eval")
    shell = ["bash", "-c", f'{mount} && cd {ROOT} && exec "$@"', "-", *training]
    process = subprocess.run([*own_mounts(), *shell], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert process.returncode == 0, process.stdout + process.stderr
    said = [line for line in process.stdout.splitlines() if "/dev/shm" in line]
    assert len(said) == 1
    assert ("batches go through pipes" if "256k" in mount else "the main process reads, more slowly") in said[0]
    assert (tmp_path / "out" / "iter_2").exists()
