import re

import pytest
import yaml
from paddleseg.cvlibs import manager

from paddleseg_psp import models, registry
from paddleseg_psp.config import Config
from paddleseg_psp.errors import UserError
from tests.helpers import ROOT, run_python


def test_own_components_come_before_those_of_paddleseg():
    assert registry.find("PSPNet", "model") is models.PSPNet
    assert registry.find("ResNet50_vd", "backbone") is manager.BACKBONES["ResNet50_vd"]


def test_components_that_users_add_to_paddleseg_are_found():
    @manager.LOSSES.add_component
    class AddedByATest:
        pass

    assert registry.find("AddedByATest", "loss") is AddedByATest


def test_unknown_component_names_the_nearest():
    with pytest.raises(UserError, match=r"model.type: there is no component 'PSPnett'; did you mean PSPNet"):
        registry.find("PSPnett", "model.type")


def test_registering_a_name_twice_is_an_error():
    with pytest.raises(KeyError, match="PSPNet"):
        registry.register(type("PSPNet", (), {}))


def test_misspelt_argument_names_the_nearest():
    spec = {"type": "PSPNet", "num_classes": 2, "bin_size": [1], "backbone": {"type": "ResNet18_vd"}}
    with pytest.raises(UserError, match=r"model.bin_size: PSPNet has no such argument; did you mean bin_sizes"):
        registry.build(spec, "model")


def test_misspelt_argument_of_a_backbone_is_refused():
    with pytest.raises(UserError, match="output_strid"):
        registry.build({"type": "ResNet18_vd", "output_strid": 8}, "model.backbone")


def test_missing_type_is_refused():
    with pytest.raises(UserError, match="model: expected a mapping with the key 'type'"):
        registry.build({"num_classes": 2}, "model")


PLUGIN = """
from paddle import nn
from paddleseg.cvlibs import manager
from paddleseg_psp.registry import register

@manager.BACKBONES.add_component
class BackboneOfAPlugin(nn.Layer):
    feat_channels = [4] * 4

    def __init__(self, width=4):
        super().__init__()
        self.stem = nn.Conv2D(3, width, 3, stride=8, padding=1)

    def forward(self, x):
        return [self.stem(x)] * 4

@register
class LossOfAPlugin(nn.Layer):
    def forward(self, logits, label):
        return logits.square().mean()
"""


def test_components_in_a_file_of_the_users(tmp_path, write_config):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "parts.py").write_text(PLUGIN)
    changes = {"plugins": ["own/parts.py"], "loss": {"types": [{"type": "LossOfAPlugin"}], "coef": [1, 0.4]}}
    overrides = ["model.backbone={'type': 'BackboneOfAPlugin'}"]
    for _ in range(2):  # it runs once
        config = Config(write_config(**changes), overrides)
    assert config.data["plugins"] == [str(tmp_path / "own" / "parts.py")]
    assert type(config.build_model().backbone).__name__ == "BackboneOfAPlugin"
    assert type(config.build_losses()[0][1]).__name__ == "LossOfAPlugin"


@pytest.mark.parametrize(
    "plugins, message",
    [
        (["gone.py"], "plugins: there is no file .*gone.py"),
        (["broken.py"], "plugins: .*broken.py failed: ZeroDivisionError: division by zero"),
        ("broken.py", "plugins: expected a list of Python files"),
        ([1], "plugins: expected a list of Python files"),
    ],
)
def test_plugins_that_do_not_load(plugins, message, tmp_path, write_config):
    (tmp_path / "broken.py").write_text("1 / 0\n")
    for _ in range(2):
        with pytest.raises(UserError, match=message):
            Config(write_config(plugins=plugins))


def test_the_documented_plugin_trains_evaluates_and_exports(tmp_path, write_config):
    """By the commands, in processes of their own, reading processes included."""
    with open(f"{ROOT}/docs/extending.md", encoding="utf-8") as file:
        settings, code = re.findall(r"```(?:yaml|python)\n(.*?)```", file.read(), re.DOTALL)[:2]
    (tmp_path / "parts.py").write_text(code)
    path = write_config()
    with open(path, encoding="utf-8") as file:
        data = {**yaml.safe_load(file), **yaml.safe_load(settings)}
    with open(path, "w", encoding="utf-8") as file:
        yaml.safe_dump(data, file)
    common, weights = ["--config", path, "--device", "cpu"], tmp_path / "out" / "best_model" / "model.pdparams"
    for command in (
        ["train.py", "--do_eval", "--iters", 2, "--save_dir", tmp_path / "out", "--num_workers", 1],
        ["val.py", "--model_path", weights],
        ["export.py", "--model_path", weights, "--save_dir", tmp_path / "bundle"],
    ):
        process = run_python([*command, *common])
        assert process.returncode == 0, process.stderr
    assert (tmp_path / "bundle" / "deploy.yaml").exists()
    process = run_python(["val.py", "--model_path", weights, "--config", tmp_path / "out" / "config.yml", "--device", "cpu"])
    assert process.returncode == 0, process.stderr  # the configuration that the training left names the file, too
