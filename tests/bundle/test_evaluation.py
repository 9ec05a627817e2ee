"""Bundles measured: their metrics, an int8 version, and their speed."""

import csv
import os
import re

import numpy as np
import onnx
import pytest
import yaml

from paddleseg_psp.bundle import export_bundle, load_predictor, quantization
from paddleseg_psp.bundle.quantization import quantize_bundle
from paddleseg_psp.bundle.scoring import evaluate_bundle
from paddleseg_psp.bundle.timing import Stopwatch, product_rate
from paddleseg_psp.commands import val
from paddleseg_psp.config import Config
from paddleseg_psp.data import CheckedDataset
from paddleseg_psp.engine import evaluate
from paddleseg_psp.errors import UserError
from paddleseg_psp.models.weights import load_weights
from tests.helpers import run_tool


@pytest.fixture
def exported(trained, tmp_path):
    """A configuration, the network that was trained with it, and its bundle."""
    config, weights, _ = trained
    config = Config(config)
    model = config.build_model()
    load_weights(model, weights, strict=True)
    transforms = config.data["val_dataset"]["transforms"]
    export_bundle(model, str(tmp_path / "bundle"), transforms, onnx=True, verify=False)
    return config, model, str(tmp_path / "bundle")


@pytest.mark.parametrize("backend", ["paddle", "onnxruntime"])
def test_metrics_are_the_networks_with_any_batch_size(exported, backend):
    config, model, bundle = exported
    expected = evaluate(model, config.build_dataset("val_dataset"), print_detail=False).counts
    for batch_size in (1, 2, 5):
        matrix = evaluate_bundle(load_predictor(bundle, backend), config.build_dataset("val_dataset"), batch_size)
        assert np.abs(matrix.counts - expected).sum() <= 2e-4 * expected.sum()


def test_command_prints_what_val_prints(exported, trained, capfd):
    _, _, bundle = exported
    config, weights, _ = trained
    val.main(["--config", config, "--model_path", weights, "--device", "cpu"])
    expected = re.search(r"\[EVAL\] #Images.*", capfd.readouterr().out)[0]
    arguments = [f"--config={bundle}/deploy.yaml", f"--dataset={config}", "--batch_size=2"]
    process = run_tool("deploy/python/evaluate.py", arguments, capfd)
    assert process.returncode == 0, process.stderr
    assert expected in process.stdout
    process = run_tool("deploy/python/evaluate.py", [*arguments, "--batch_size=0"], capfd)
    assert process.returncode == 1 and "--batch_size" in process.stderr.splitlines()[-1]


def sets(config):
    return config.build_dataset("train_dataset"), config.build_dataset("val_dataset")


def test_int8(exported, trained, monkeypatch, capfd):
    """Computes in 8 bits, near to float32, from a quarter of the space."""
    config, _, bundle = exported
    monkeypatch.setattr(quantization, "_images_per_second", lambda *_: (1.0, 2.0))  # how fast this machine is, is not tested
    arguments = [f"--config={bundle}/deploy.yaml", f"--dataset={trained[0]}", "--images=4"]
    process = run_tool("deploy/quantize.py", arguments, capfd)
    assert process.returncode == 0, process.stderr
    told = re.search(r"MB +([\d.]+) +([\d.]+)\n.*\nmIoU +([\d.]+) +([\d.]+)\n", process.stdout).groups()
    assert sorted(os.listdir(bundle)) == sorted(
        ["MODEL_CARD.md", "deploy.yaml", "model.json", "model.onnx", "model.pdiparams", "model_int8.onnx"]
    )
    assert float(told[1]) < 0.4 * float(told[0])
    model = onnx.load(os.path.join(bundle, "model_int8.onnx"))
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) > 5
    whole, int8 = load_predictor(bundle, "onnxruntime"), load_predictor(bundle, "onnxruntime", precision="int8")
    counts = [evaluate_bundle(item, config.build_dataset("val_dataset")) for item in (whole, int8)]
    assert told[2:] == tuple(f"{item.mean_iou():.4f}" for item in counts)
    images = [path for path, _ in config.build_dataset("val_dataset").file_list]
    assert np.mean([np.mean(a == b) for a, b in zip(whole.predict(images), int8.predict(images))]) > 0.8
    with pytest.raises(UserError, match="no precision 'int8'"):
        load_predictor(bundle, "paddle", precision="int8")


def test_int8_that_is_slower_is_refused(exported, monkeypatch):
    config, _, bundle = exported
    monkeypatch.setattr(quantization, "_images_per_second", lambda *_: (2.0, 1.9))
    before = sorted(os.listdir(bundle)), open(os.path.join(bundle, "deploy.yaml")).read()
    with pytest.raises(UserError, match="int8 is not faster here: 1.90 images a second, float32 2.00"):
        quantize_bundle(bundle, *sets(config), images=2)
    assert (sorted(os.listdir(bundle)), open(os.path.join(bundle, "deploy.yaml")).read()) == before
    with pytest.raises(UserError, match="run deploy/quantize.py first"):
        load_predictor(bundle, "onnxruntime", precision="int8")


def test_speeds_are_measured(exported):
    config, _, bundle = exported
    pair = load_predictor(bundle, "onnxruntime"), load_predictor(bundle, "paddle")
    assert all(rate > 1 for rate in quantization._images_per_second(pair, CheckedDataset(sets(config)[1]), rounds=1))
    assert 1e8 < product_rate(1, 256) < 1e13


def test_benchmark_of_a_bundle(exported, tmp_path, capfd, monkeypatch):
    _, _, bundle = exported
    arguments = [f"--config={bundle}/deploy.yaml", "--size", "64", "48", "--batch_sizes", "1", "3", "--rounds=1"]
    arguments += ["--backends", "paddle", "onnxruntime", "--threads", "1", f"--save_dir={tmp_path}/speed"]
    process = run_tool("deploy/benchmark.py", arguments, capfd)
    assert process.returncode == 0, process.stderr
    with open(tmp_path / "speed" / "throughput.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["backend"], row["batch"]) for row in rows] == [
        ("paddle", "1"), ("paddle", "3"), ("onnxruntime", "1"), ("onnxruntime", "3")
    ]  # fmt: skip
    with open(os.path.join(bundle, "deploy.yaml")) as file:
        cost = yaml.safe_load(file)["Deploy"]["multiply_adds_per_pixel"]
    for row in rows:
        seconds = float(row["ms a batch"]) / 1e3
        assert float(row["images/s"]) == pytest.approx(int(row["batch"]) / seconds)
        assert float(row["GFLOP/s"]) == pytest.approx(2 * cost * 64 * 48 * int(row["batch"]) / seconds / 1e9)
    assert (tmp_path / "speed" / "throughput.png").stat().st_size > 1000
    assert "a matrix product with 1 threads" in process.stdout
    assert run_tool("deploy/benchmark.py", [*arguments, "--rounds=0"], capfd).returncode == 1


def test_stopwatch():
    watch = Stopwatch()
    watch.seconds.update(prepare=[9.0, 0.1, 0.3], run=[9.0, 0.2, 0.4])
    lines = watch.table(images=5, batch_size=2).splitlines()
    assert lines[1].split() == ["prepare", "200.0", "200.0", "280.0", "290.0", "298.0"]
    assert lines[3].split()[:3] == ["together", "500.0", "500.0"]
    assert lines[4] == "3.00 images/s, batch 2"  # (5 - 2) images in 0.3 + 0.7 seconds; the first batch warmed up
