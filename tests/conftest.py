import numpy as np
import paddle
import pytest
import yaml

import paddleseg_psp  # noqa: F401 (makes paddle fast on the CPU)
from tests.helpers import run_python

TINY_SIZE = (64, 48)  # width, height


@pytest.fixture(autouse=True)
def fixed_seed():
    paddle.seed(0)
    np.random.seed(0)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A small data set in Cityscapes' layout, as tools/make_demo_data.py makes it; tests that change it copy it."""
    root = tmp_path_factory.mktemp("data") / "cityscapes"
    process = run_python(["tools/make_demo_data.py", "--save_dir", root, "--train", 6, "--val", 3, "--size", *TINY_SIZE])
    assert process.returncode == 0, process.stderr
    return root


def tiny_config(data, model="PSPNet", **changes):
    """Returns a configuration of a tiny network on a data set."""
    networks = {
        "PSPNet": {"type": "PSPNet", "pp_out_channels": 16},
        "PSANet": {"type": "PSANet", "mid_channels": 8, "head_channels": 16, "aux_channels": 8},
    }
    dataset = {"type": "Cityscapes", "dataset_root": str(data), "transforms": [{"type": "Normalize"}]}
    crop = {"type": "RandomPaddingCrop", "crop_size": list(TINY_SIZE)}
    return {
        "batch_size": 2,
        "iters": 4,
        "train_dataset": {**dataset, "mode": "train", "transforms": [crop, {"type": "Normalize"}]},
        "val_dataset": {**dataset, "mode": "val"},
        "optimizer": {"type": "SGD", "momentum": 0.9, "weight_decay": 4.0e-5},
        "lr_scheduler": {"type": "PolynomialDecay", "learning_rate": 0.01, "end_lr": 1.0e-5, "power": 0.9},
        "loss": {"types": [{"type": "CrossEntropyLoss"}], "coef": [1, 0.4]},
        "model": {**networks[model], "backbone": {"type": "ResNet18_vd", "output_stride": 8}},
        **changes,
    }


@pytest.fixture
def write_config(tmp_path, tiny_data):
    """Returns a function that writes a configuration of a tiny network: model "PSPNet" or "PSANet", and changes to it."""

    def write(model="PSPNet", data=tiny_data, **changes):
        path = tmp_path / "config.yml"
        path.write_text(yaml.safe_dump(tiny_config(data, model, **changes), sort_keys=False))
        return str(path)

    return write


@pytest.fixture(scope="session")
def trained(tiny_data, tmp_path_factory):
    """A configuration, the weights of a short training with it, and the training's output."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "config.yml").write_text(yaml.safe_dump(tiny_config(tiny_data), sort_keys=False))
    arguments = ["--config", folder / "config.yml", "--do_eval", "--iters", 2, "--save_dir", folder / "out", "--device", "cpu"]
    arguments += ["--seed", 0]  # else each run has another network, with other pixels between two classes
    process = run_python(["train.py", *arguments])
    assert process.returncode == 0, process.stderr
    return str(folder / "config.yml"), str(folder / "out" / "best_model" / "model.pdparams"), process.stdout
