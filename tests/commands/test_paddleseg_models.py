"""PaddleSeg's other networks by the four commands; docs/extending.md lists what was tried by hand."""

import inspect
import os
import pickle

import numpy as np
import paddle
import pytest
import yaml
from paddleseg.cvlibs import manager

from paddleseg_psp import registry
from paddleseg_psp.config import Config
from paddleseg_psp.config.build import build
from paddleseg_psp.errors import UserError
from tests.helpers import run_python

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


class Command:
    """Pickled, it makes a folder when loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def components_with_weights():
    """Yields (where, name) of paddleseg's networks and backbones that take a file of weights."""
    for where, components in (("model", manager.MODELS.components_dict), ("backbone", manager.BACKBONES.components_dict)):
        for name, component in components.items():
            if "pretrained" in inspect.signature(component).parameters and name not in registry.own_components():
                yield where, name


def test_hostile_weights_of_every_component(tmp_path, write_config, monkeypatch):
    """The package's reader refuses them before the component is built, whatever it is."""
    monkeypatch.setattr(paddle, "load", lambda *_, **__: pytest.fail("paddle.load was called"))
    hostile, found = str(tmp_path / "hostile.pdparams"), list(components_with_weights())
    with open(hostile, "wb") as file:
        pickle.dump({"weight": Command(str(tmp_path / "trace"))}, file)
    assert len(found) > 60
    for where, name in found:
        part = {"type": name, "pretrained": hostile}
        model = part if where == "model" else {"type": "FCN", "backbone": part, "backbone_indices": [0]}
        with pytest.raises(UserError, match="pretrained: .*hostile.pdparams was not loaded: it refers to posix.mkdir"):
            Config(write_config(), [f"model={model}"]).build_model()
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "name, options, other",
    [
        ("STDC1", {}, {}),
        ("HRNet_W18", {}, {}),
        ("ResNet18_vd", {}, {}),
        ("MixVisionTransformer_B0", {}, {}),
        ("VisionTransformer", {"depth": 1, "embed_dim": 16, "num_heads": 2, "img_size": 64}, {"img_size": 96}),
    ],
)
def test_weights_load_as_paddleseg_loads_them(name, options, other, tmp_path):
    """Positions of another image size are resized, as paddleseg does."""
    component, path = manager.BACKBONES[name], str(tmp_path / "model.pdparams")
    paddle.seed(1)
    paddle.save({"nothing": paddle.zeros([1])}, path)
    trained = component(**options, pretrained=path)  # VisionTransformer cannot do without
    for value in trained.state_dict().values():
        value.set_value(paddle.rand(value.shape))
    paddle.save(trained.state_dict(), path)
    expected = component(**{**options, **other, "pretrained": path}).state_dict()
    found = build({"type": name, **options, **other, "pretrained": path}, "backbone").state_dict()
    assert set(found) == set(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key].numpy(), value.numpy(), key)
