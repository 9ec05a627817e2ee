"""PaddleSeg's other networks by the four commands; docs/extending.md lists what was tried by hand."""

import pytest
import yaml
from helpers import run_python

# name -> options, outputs in training
NETWORKS = {
    "DeepLabV3P": ({"backbone": {"type": "ResNet18_vd", "output_stride": 8}, "backbone_indices": [0, 3]}, 1),
    "OCRNet": ({"backbone": {"type": "HRNet_W18"}, "backbone_indices": [0]}, 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_training_evaluation_prediction_and_export(name, tiny_data, tmp_path, write_config):
    options, outputs = NETWORKS[name]
    path = write_config(loss={"types": [{"type": "CrossEntropyLoss"}], "coef": [1.0] * outputs})
    with open(path, encoding="utf-8") as file:
        data = {**yaml.safe_load(file), "model": {"type": name, **options}}
    with open(path, "w", encoding="utf-8") as file:
        yaml.safe_dump(data, file)
    weights = ["--model_path", tmp_path / "out" / "best_model" / "model.pdparams"]
    for command in (
        ["train.py", "--do_eval", "--iters", 1, "--save_dir", tmp_path / "out"],
        ["val.py", *weights],
        ["predict.py", *weights, "--image_path", tiny_data / "leftImg8bit" / "val", "--save_dir", tmp_path / "pictures"],
        ["export.py", *weights, "--save_dir", tmp_path / "bundle", "--input_shape", 1, 3, 48, 64],
    ):
        process = run_python([*command, "--config", path, "--device", "cpu"])
        assert process.returncode == 0, process.stderr
    assert len(list((tmp_path / "pictures" / "pseudo_color_prediction").rglob("*.png"))) == 3
    assert "Verified in Paddle Inference, oneDNN on" in process.stdout
