import os
import shutil
import subprocess
import sys

import pytest

from tests.helpers import ROOT
from tests.tipc_chains import MODE, chain_file


@pytest.fixture
def run_chain(tmp_path, tiny_data):
    """Returns a function that runs a chain as the documented command does, and gives the process and its output folder."""
    outputs = []

    def run(model="pspnet", mode=MODE, data=tiny_data, **replaced):
        path, output = chain_file(tmp_path, data, model, **replaced)
        outputs.append(output)
        command = ["bash", "test_tipc/test_train_inference_python.sh", path, mode]
        environment = {**os.environ, "PYTHON": sys.executable}
        process = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return process, os.path.join(output, mode)

    yield run
    for output in outputs:
        shutil.rmtree(output, ignore_errors=True)
