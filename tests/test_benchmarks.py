"""The benchmarks still run, on next to nothing; their figures are looked at by people."""

import re

import pytest

from tests.helpers import run_python

pytestmark = pytest.mark.slow

# What each is given, and the figure that it prints.
SMALL = {
    "input_pipeline": ("--size 256 128 --crop 128 64 --images 2 --rounds 1 --workers 1", r"this package +[1-9]"),
    "evaluation": ("--size 128 64 --images 1 --backbone ResNet18_vd", r"\d ms"),
    "inference": ("--size 64 64 --runs 1", r"times as long as bundle, onnxruntime"),
    "psa": ("--maps 8x8 --masks 5 --threads 1 --channels 16", r"unfused +\d+\.\d \( *\d+\.\d\d\) +\d+ GFLOP/s"),
    "service": ("--config BUNDLE --backend paddle --clients 2 --seconds 3", r"[1-9]\d*\.\d images a second"),
    "train_step": ("--size 65 --batch 1 --steps 1", r"times as long as Paddle as installed"),
}


@pytest.mark.parametrize("name", SMALL)
def test_benchmark(tmp_path, trained, name):
    arguments, figure = SMALL[name]
    if "BUNDLE" in arguments:
        config, weights, _ = trained
        process = run_python(["export.py", "--config", config, "--model_path", weights, "--save_dir", tmp_path / "bundle"])
        assert process.returncode == 0, process.stderr
        arguments = arguments.replace("BUNDLE", str(tmp_path / "bundle" / "deploy.yaml"))
    process = run_python([f"dev/benchmarks/{name}.py", *arguments.split()])
    assert process.returncode == 0, process.stdout + process.stderr
    assert re.search(figure, process.stdout), process.stdout
