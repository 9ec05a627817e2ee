"""What is used of Paddle's undocumented parts is there in the version that requirements.txt pins, and does what is said."""

import re

import paddle
import pytest

from paddleseg_psp import paddle_internals
from tests.helpers import ROOT, run_python


def test_the_version_is_the_one_that_was_looked_at():
    """Another one may have other internals: read paddle_internals.py anew, then change this."""
    assert paddle.__version__ == "3.3.1"
    with open(f"{ROOT}/requirements.txt") as file:
        assert f"paddlepaddle=={paddle.__version__}" in file.read().splitlines()


def test_nothing_else_of_the_package_uses_them():
    process = run_python(["-c", SEARCH])
    assert process.returncode == 0, process.stderr
    assert re.findall(r"\S+", process.stdout) == ["paddleseg_psp/paddle_internals.py"] * 6


SEARCH = """
import glob, re
names = r"\\._learning_rate|_try_shutdown_all|_SIGCHLD_handler_set = True|_C_ops|OpProtoHolder|register_op\\("
for path in glob.glob("paddleseg_psp/**/*.py", recursive=True):
    with open(path) as file:
        for name in set(re.findall(names, file.read())):
            print(path)
"""


def test_the_schedule_of_an_optimizer():
    layer = paddle.nn.Linear(1, 1)
    schedule = paddle.optimizer.lr.StepDecay(0.1, 2)
    assert paddle_internals.schedule_of(paddle.optimizer.SGD(schedule, layer.parameters())) is schedule
    assert paddle_internals.schedule_of(paddle.optimizer.SGD(0.1, layer.parameters())) is None


def test_unknown_operators_are_not_registered():
    assert not paddle_internals.is_registered("paddleseg_no_such_operator")


@pytest.mark.parametrize("count", [1, 2])
def test_threads(count):
    """Paddle has no way to ask; OpenMP, whose library it brings, does."""
    script = "import ctypes, glob, os, paddle\nfrom paddleseg_psp import paddle_internals\n"
    script += f"paddle_internals.set_threads({count})\n"
    script += "(path,) = glob.glob(os.path.join(os.path.dirname(paddle.__file__), 'libs', 'libiomp5.so'))\n"
    script += "print(ctypes.CDLL(path).omp_get_max_threads())"
    process = run_python(["-c", script])
    assert process.stdout.split() == [str(count)], process.stderr
