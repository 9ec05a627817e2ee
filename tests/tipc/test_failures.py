"""Every step of every mode, made to fail: the chain says so and exits with 1, and goes on when it is repeated."""

import contextlib
import glob
import io
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests.helpers import ROOT
from tests.tipc_chains import MODE, chain_file

pytestmark = pytest.mark.slow

# Runs Python, but kills a script that the file `killed` names once that has written something, and itself.
INTERPRETER = """#!{python}
import os, signal, subprocess, sys
if not os.path.exists({killed!r}) or open({killed!r}).read() not in " ".join(sys.argv):
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
script = subprocess.Popen([{python!r}, *sys.argv[1:]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
sys.stdout.buffer.write(script.stdout.readline())
sys.stdout.flush()
script.kill()
os.kill(os.getpid(), signal.SIGKILL)
"""
SCRIPTS = {
    "train": "train.py", "evaluate": "val.py", "export": "export.py", "infer": "infer.py", "serve": "serving.py",
    "compare": "compare_results.py",
}  # fmt: skip
TRAINING = ["train", "evaluate", "export", "infer", "compare"]
STEPS = {
    "lite_train_lite_infer": TRAINING,
    "lite_train_whole_infer": TRAINING,
    "whole_train_whole_infer": TRAINING,
    "whole_infer": TRAINING[1:],
    "paddle2onnx_infer": TRAINING[1:],
    "serving_infer": ["evaluate", "export", "serve", "compare"],
    "benchmark_train": ["train"],
}
FAULTS = {
    "train": ["killed", "bad_pretrained", "wrong_training_label"],
    "evaluate": ["killed", "bad_weights", "wrong_validation_label"],
    "export": ["killed", "bad_weights"],
    "infer": ["killed", "bad_graph", "bad_image"],
    "serve": ["killed", "bad_graph", "bad_image"],
    "compare": ["killed", "wrong_validation_label", "missing_map"],
}


class Sabotage:
    """What can be wrong with the files that a step reads.

    Each method returns a file, the content that it is to have, and what the step's log must then say.

    Args:
        folder (pathlib.Path): of the test, with the configuration and a copy of the data in `data`.
        output (str): of the chain.
    """

    def __init__(self, folder, output):
        self.folder, self.output = folder, output

    def killed(self, step):
        return self.folder / "killed", SCRIPTS[step].encode(), ""

    def bad_pretrained(self, step):
        return self._half(self.folder.glob("given.pdparams"))

    def bad_weights(self, step):
        return self._half(glob.glob(f"{self.output}/*/best_model/*.pdparams") or self.folder.glob("given.pdparams"))

    def bad_graph(self, step):
        path, content, _ = self._half(glob.glob(f"{self.output}/*/model.onnx") or glob.glob(f"{self.output}/*/*.pdiparams"))
        return path, content, "is damaged or was replaced"

    def bad_image(self, step):
        return self._half(self.folder.glob("data/leftImg8bit/val/*/*"))

    def missing_map(self, step):
        path = glob.glob(f"{self.output}/*_results/*/*.png")[0]
        return path, None, os.path.basename(path)

    def wrong_training_label(self, step):
        return self._label("train")

    def wrong_validation_label(self, step):
        return self._label("val")

    def _half(self, paths):
        path = next(iter(paths))
        content = pathlib.Path(path).read_bytes()
        return path, content[: len(content) // 2], os.path.basename(path)

    def _label(self, split):
        path = next(self.folder.glob(f"data/gtFine/{split}/*/*labelTrainIds.png"))
        label = np.array(Image.open(path))
        label[0, 0] = 77  # there are 19 classes
        content = io.BytesIO()
        Image.fromarray(label).save(content, "png")
        return path, content.getvalue(), path.name


@contextlib.contextmanager
def replaced(path, content):
    """A file has another content for a while, or is not there (None)."""
    path = pathlib.Path(path)
    before = path.read_bytes() if path.exists() else None

    def write(content):
        path.unlink() if content is None else path.write_bytes(content)

    write(content)
    yield
    write(before)


@pytest.mark.parametrize("mode", STEPS)
def test_every_step_that_fails_fails_the_chain(run_chain, tmp_path, tiny_data, trained, mode):
    shutil.copytree(tiny_data, tmp_path / "data")
    weights = shutil.copy(trained[1], tmp_path / "given.pdparams")
    interpreter = tmp_path / "interpreter"
    interpreter.write_text(INTERPRETER.format(python=sys.executable, killed=str(tmp_path / "killed")))
    interpreter.chmod(0o755)
    lines = {
        "line_3": f"python:{interpreter}",
        "line_16": f"norm_train:train.py --config {tmp_path}/config.yml --do_eval --opts model.pretrained={weights}",
        "line_37": f"infer_model:{weights}",
        "line_42": "--enable_mkldnn:False",
        "line_52": "--model_name:x\n=train_benchmark_params=\nbatch_size:2\nfp_items:fp32\niters:2",
    }

    def run():
        process, output = run_chain(mode=mode, data=tmp_path / "data", **lines)
        return process, output, re.findall(r"(?m)^(\w+) +[\d.]+  (ok|earlier|FAILED) +(\S+)", process.stdout)

    output = ""
    for done, step in enumerate(STEPS[mode]):
        # two modes of training have the steps of the first, with other numbers of iterations
        for number, fault in enumerate(["killed"] if "train_whole" in mode else FAULTS[step]):
            path, content, text = getattr(Sabotage(tmp_path, output), fault)(step)
            with replaced(path, content):
                process, output, rows = run()
            # the step before succeeds just once, all before it earlier
            before = ["earlier"] * done if number else ["earlier"] * (done - 1) + ["ok"] * bool(done)
            assert [row[:2] for row in rows] == list(zip(STEPS[mode], [*before, "FAILED"])), f"{fault}:\n{process.stdout}"
            assert process.returncode == 1
            assert process.stdout.strip().splitlines()[-1] == "Error: a step failed; its log is in the table above"
            with open(os.path.join(ROOT, rows[-1][2])) as log, open(os.path.join(output, "results_python.log")) as status:
                assert text in log.read(), f"{fault}:\n{process.stdout}"
                assert "Run failed with command" in status.read().splitlines()[-1]
    process, _, rows = run()
    assert process.returncode == 0, process.stdout
    assert [row[0] for row in rows] == STEPS[mode] and [row[1] for row in rows].count("ok") == 1
    assert not os.path.exists(os.path.join(output, "unfinished.json"))  # the next run starts afresh


def test_a_killed_worker_of_two_fails_the_chain(run_chain, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import os, runpy, sys\n"
        "if os.environ['PADDLE_TRAINER_ID'] == '1':\n"
        "    os.kill(os.getpid(), 9)\n"
        "runpy.run_path('train.py', run_name='__main__')\n"
    )
    process, _ = run_chain(line_4="gpu_list:-1,-1", line_16=f"norm_train:{script} --config {tmp_path}/config.yml")
    assert process.returncode == 1, process.stdout
    assert re.findall(r"(?m)^(\w+) +[\d.]+  (ok|FAILED) ", process.stdout) == [("train", "FAILED")]


def test_a_terminated_chain_ends_its_step(tmp_path):
    """Nothing goes on in the background when CI cancels a chain."""
    step = tmp_path / "train.py"
    pid = tmp_path / "pid"
    step.write_text(
        f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\nprint('on', flush=True)\ntime.sleep(600)\n"
    )
    path, output = chain_file(tmp_path, tmp_path, line_16=f"norm_train:{step}")
    chain = subprocess.Popen(
        [sys.executable, "test_tipc/tipc.py", "test", path, MODE], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert any(line == "on\n" for line in chain.stdout)
    chain.terminate()
    assert chain.wait(20) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        for _ in range(100):
            os.kill(int(pid.read_text()), 0)
            time.sleep(0.1)
    shutil.rmtree(output)
