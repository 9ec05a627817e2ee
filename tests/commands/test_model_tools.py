"""Tools around networks and trainings: cost, configuration, logs, averages, releases."""

import hashlib
import json
import os
import re

import cv2
import numpy as np
import paddle
import pytest
import safetensors.numpy
import yaml

from paddleseg_psp.config import Config
from paddleseg_psp.models.weights import load_weights, read_weights
from tests.helpers import TINY, run_tool

PSPNET = "configs/pspnet/pspnet_resnet50_cityscapes_512x1024_80k_mmseg.yml"


def test_the_cost_of_pspnet_is_that_of_mmsegmentations(capfd):
    """48,975,494 parameters, and 356.59 G multiply-adds of convolutions at 512x1024, as counted on its own network."""
    process = run_tool("tools/analyse_model.py", ["--config", PSPNET], capfd)
    assert process.returncode == 0, process.stderr
    rows = {
        line.split()[0]: line.split()[1:] for line in process.stdout.splitlines() if re.match(r"[a-z_.0-9]+ +[\d,]+ ", line)
    }
    assert rows["total"][0] == "48,975,494"
    assert sum(int(row[0].replace(",", "")) for name, row in rows.items() if name != "total") == 48975494
    assert {"backbone.layer4", "head.psp_module", "head.auxlayer"} <= set(rows)
    assert process.stdout.strip().endswith("279.58 G multiply-adds, 356.59 G as published")


def test_a_small_network_by_parts(write_config, capfd):
    process = run_tool(
        "tools/analyse_model.py", ["--config", write_config("PSANet"), "--depth", 1, "--size", 64, 48, "--opts", TINY], capfd
    )
    assert process.returncode == 0, process.stderr
    names = [line.split()[0] for line in process.stdout.splitlines() if " G " in line and "," in line]
    assert {"backbone", "psa", "head", "aux_head"} & set(process.stdout.split()) == {"backbone", "psa", "head", "aux_head"}, (
        names
    )


def test_the_resolved_configuration_is_printed(capfd):
    process = run_tool("tools/print_config.py", ["--config", PSPNET, "--opts", "model.dropout=0.2"], capfd)
    data = yaml.safe_load(process.stdout)
    assert (data["model"]["dropout"], data["iters"], data["batch_size"]) == (0.2, 80000, 2)
    assert data["model"]["pp_out_channels"] == 512 and "_base_" not in data
    process = run_tool("tools/print_config.py", ["--config", "configs/gone.yml"], capfd)
    assert process.returncode == 1 and "there is no file configs/gone.yml" in process.stderr


LOG = """2026-01-01 10:00:00 [INFO]\t[TRAIN] epoch: 1, iter: 10/30, loss: 2.0000, lr: 0.009, ips: 2.0 samples/sec
2026-01-01 10:00:01 [INFO]\t[TRAIN] epoch: 1, iter: 20/30, loss: 1.5000, lr: 1.0e-3, ips: 2.0 samples/sec
2026-01-01 10:00:02 [INFO]\t[EVAL] #Images: 3 mIoU: 0.2500 Acc: 0.5000 Kappa: 0.1 Dice: 0.2
2026-01-01 10:00:03 [INFO]\t[TRAIN] epoch: 1, iter: 30/30, loss: 1.0000, lr: 0.001, ips: 2.0 samples/sec
2026-01-01 10:00:04 [INFO]\t[EVAL] #Images: 3 mIoU: 0.2000 Acc: 0.5000 Kappa: 0.1 Dice: 0.2
"""


def test_runs_are_compared(trained, tmp_path, capfd):
    folder = os.path.dirname(os.path.dirname(trained[1]))
    (tmp_path / "paddleseg.log").write_text(LOG)
    picture = tmp_path / "comparison.png"
    process = run_tool("tools/compare_logs.py", [folder, tmp_path / "paddleseg.log", "--save_path", picture], capfd)
    assert process.returncode == 0, process.stderr
    first, second = (line.split() for line in process.stdout.splitlines()[1:3])
    assert second[1:] == ["30", "1.0000", "0.2500", "20"]
    with open(os.path.join(folder, "metrics.jsonl"), encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    assert first[1] == "2" and first[3] == f"{max(item['mIoU'] for item in records if item['group'] == 'Evaluate'):.4f}"
    drawn = cv2.imread(str(picture))
    assert drawn.shape[1] > 1000 and (drawn != 255).any()
    (tmp_path / "empty.log").write_text("nothing\n")
    for path, words in (
        (tmp_path / "empty.log", "has no line of a training"),
        (tmp_path / "gone", "expected the folder of a training"),
    ):
        process = run_tool("tools/compare_logs.py", [path], capfd)
        assert process.returncode == 1 and words in process.stderr


@pytest.mark.parametrize("extension", [".pdparams", ".safetensors"])
def test_checkpoints_are_averaged(tmp_path, capfd, extension):
    weights = []
    for number in range(3):
        folder = tmp_path / f"iter_{number}"
        folder.mkdir()
        weights.append({"a": paddle.randn([3, 4]), "b": paddle.randn([2])})
        paddle.save(weights[-1], str(folder / "model.pdparams"))
    target = tmp_path / f"mean{extension}"
    process = run_tool(
        "tools/average_checkpoints.py", [*(tmp_path / f"iter_{n}" for n in range(3)), "--save_path", target], capfd
    )
    assert process.returncode == 0, process.stderr
    for name, value in read_weights(str(target)).items():
        expected = np.mean([item[name].numpy().astype(np.float64) for item in weights], axis=0)
        np.testing.assert_array_equal(value, expected.astype(np.float32))
    paddle.save({"a": paddle.randn([3, 5]), "b": paddle.randn([2])}, str(tmp_path / "other.pdparams"))
    process = run_tool(
        "tools/average_checkpoints.py", [tmp_path / "iter_0", tmp_path / "other.pdparams", "--save_path", target], capfd
    )
    assert process.returncode == 1 and "are of different networks: a differ" in process.stderr
    process = run_tool("tools/average_checkpoints.py", [tmp_path / "iter_0", "--save_path", target], capfd)
    assert process.returncode == 1 and "at least two" in process.stderr


@pytest.mark.parametrize("options", [[], ["--format", "safetensors", "--keep_auxiliary"]])
def test_a_release(trained, tmp_path, capfd, options):
    config, weights, _ = trained
    arguments = ["--config", config, "--model_path", weights, "--save_dir", tmp_path / "release", *options]
    process = run_tool("tools/release.py", arguments, capfd)
    assert process.returncode == 0, process.stderr
    (released,) = [name for name in os.listdir(tmp_path / "release") if name.startswith("config-")]
    content = (tmp_path / "release" / released).read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    assert re.fullmatch(rf"config-{digest[:8]}\.(pdparams|safetensors)", released)
    card = (tmp_path / "release" / "README.md").read_text()
    assert digest in card and "mIoU: 0." in card and "| 0 | road | 128, 64, 128 |" in card
    network = Config(str(tmp_path / "release" / "config.yml")).build_model()
    load_weights(network, str(tmp_path / "release" / released), strict=True)
    assert (network.head.auxlayer is not None) == bool(options)
    trained_weights = read_weights(weights)
    for name, value in network.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), trained_weights[name])
    if options:
        assert set(safetensors.numpy.load_file(tmp_path / "release" / released)) == set(trained_weights)
