import os
import subprocess
import sys

import pytest
from helpers import ROOT


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]])
def test_ruff_has_nothing_to_say(arguments):
    environment = {**os.environ, "RUFF_NO_CACHE": "true"}
    process = subprocess.run(
        [sys.executable, "-m", "ruff", *arguments, "."], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert process.returncode == 0, process.stdout + process.stderr
