"""What pyproject.toml cannot say: PSANet's operator is compiled, and the configurations come along."""

import os
import shutil
import subprocess
import sys

from setuptools import setup
from setuptools.command.build_py import build_py


class Build(build_py):
    def run(self):
        super().run()
        if self.editable_mode:
            return
        target = os.path.join(self.build_lib, "paddleseg_psp", "_configs")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree("configs", target)
        # Compiled where the environment has paddle; elsewhere it will be on first use. pip builds in an isolated environment,
        # which PYTHONPATH makes so; paddle is in the one that is installed to.
        environment = {**os.environ, "PYTHONPATH": os.path.abspath(self.build_lib)}
        command = [sys.executable, "-m", "paddleseg_psp.ops.build"]
        if subprocess.run(command, cwd=self.build_lib, env=environment).returncode:
            print("The operator was not compiled now; it will be on first use")


setup(cmdclass={"build_py": Build})
