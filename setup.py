"""Compiles PSANet's operator into the package where the environment has paddle; elsewhere it is compiled on first use."""

import os
import subprocess
import sys

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithOperator(build_py):
    def run(self):
        super().run()
        if self.editable_mode:
            return
        # pip builds in an isolated environment, which PYTHONPATH makes so; paddle is in the one that is installed to
        environment = {**os.environ, "PYTHONPATH": os.path.abspath(self.build_lib)}
        command = [sys.executable, "-m", "paddleseg_psp.ops.build"]
        if subprocess.run(command, cwd=self.build_lib, env=environment).returncode:
            print("The operator was not compiled now; it will be on first use")


setup(cmdclass={"build_py": BuildWithOperator})
