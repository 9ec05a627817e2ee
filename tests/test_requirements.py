"""requirements.txt names what the code imports, so that an environment holds it for that reason and not by chance."""

import ast
import glob
import os
import re
import sys

import numpy as np
import pytest

from tests.helpers import ROOT

PACKAGES = {
    "cv2": "opencv-python",
    "yaml": "pyyaml",
    "PIL": "pillow",
    "paddle": "paddlepaddle",
    "prometheus_client": "prometheus-client",
}  # where import and name differ
OWN = {"paddleseg_psp", "input_pipeline", "service", "torch_pspnet"}
OPTIONAL = {"torch", "mmseg", "mmengine", "openvino"}  # compared with in dev/, or chosen by the user, where they are installed


def imported(pattern):
    names = set()
    for path in glob.glob(os.path.join(ROOT, pattern), recursive=True):
        with open(path, encoding="utf-8") as file:
            tree = ast.parse(file.read())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.split(".")[0])
    return names - set(sys.builtin_module_names) - STANDARD - OWN


STANDARD = set(getattr(sys, "stdlib_module_names", ())) | {"__future__"}


def required(path="requirements.txt"):
    with open(os.path.join(ROOT, path)) as file:
        return {re.split(r"[<>=\[]", line)[0].strip() for line in file if line.strip() and not line.startswith("#")}


@pytest.mark.skipif(sys.version_info < (3, 10), reason="Python 3.9 cannot tell its own modules")
@pytest.mark.parametrize(
    "pattern", ["*.py", "paddleseg_psp/**/*.py", "tools/**/*.py", "deploy/**/*.py", "test_tipc/*.py", "dev/**/*.py"]
)
def test_imports_are_required(pattern):
    names = {PACKAGES.get(name, name) for name in imported(pattern) - OPTIONAL}
    more = {"paddleseg_psp/**/*.py": "deploy/serving/requirements.txt", "dev/**/*.py": "requirements-dev.txt"}.get(pattern)
    assert names <= required() | (required(more) if more else set())


def test_numpy_is_what_opencv_was_compiled_for():
    """paddleseg pins an OpenCV whose wheel crashes with numpy 2."""
    assert int(np.__version__.split(".")[0]) < 2
