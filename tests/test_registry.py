import pytest
from paddleseg.cvlibs import manager

from paddleseg_psp import models, registry
from paddleseg_psp.errors import UserError


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
