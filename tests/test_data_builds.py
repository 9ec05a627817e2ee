"""What is built from data (bundles' transforms): transforms of plain values, and nothing that evaluates, opens or imports."""

import ast
import inspect
import sys
import textwrap

import pytest
from paddleseg.cvlibs import manager

from paddleseg_psp import data, losses, models, registry
from paddleseg_psp.errors import UserError

assert data and losses and models  # which register their components

# What runs text, code or programs, or opens what a text names.
FORBIDDEN = {
    "eval", "exec", "compile", "__import__", "import_module", "open", "system", "popen", "Popen", "check_output", "call",
    "load", "loads", "imread", "fromfile", "memmap", "globals", "load_pretrained_model", "load_entire_model",
    "download_pretrained_model", "run_path", "do_compose", "spec_from_file_location",
}  # fmt: skip
REGISTRIES = {name: item.components_dict for name, item in vars(manager).items() if isinstance(item, manager.ComponentManager)}


def called_names(component):
    """Returns the names of all that a class or function calls, with its bases and the functions of its package that it uses."""
    seen, left, names = set(), [component], set()
    while left:
        item = left.pop()
        if item in seen or not getattr(item, "__module__", "").startswith(("paddleseg.", "paddleseg_psp.")):
            continue
        seen.add(item)
        left += getattr(item, "__bases__", ())
        module = sys.modules[item.__module__]
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(item)))):
            if isinstance(node, ast.Call):
                function = node.func
                names.add(getattr(function, "id", getattr(function, "attr", "")))
            if isinstance(node, ast.Name) and callable(found := getattr(module, node.id, None)):
                left.append(found)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                found = getattr(getattr(module, node.value.id, None), node.attr, None)
                if inspect.isfunction(found) or inspect.isclass(found):
                    left.append(found)
    return names


def test_the_search_finds_what_evaluates():
    """paddleseg's components that do: found by the same search that finds nothing in transforms."""
    found = {name for components in REGISTRIES.values() for name, item in components.items() if called_names(item) & FORBIDDEN}
    assert {"VisionTransformer", "PPLiteSeg", "MobileSeg", "STDC1", "PSSLDataset", "ResNet50_vd"} <= found


def test_no_component_that_evaluates_is_reachable_from_data():
    reachable = registry.transforms()
    assert len(reachable) > 25 and {"Normalize", "Padding", "Resize", "SwapRedAndBlue"} <= set(reachable)
    for name, component in reachable.items():
        assert not called_names(component) & FORBIDDEN, name
    others = {name for key, components in REGISTRIES.items() if key != "TRANSFORMS" for name in components}
    for name in (others | set(registry.own_components())) - set(reachable):
        with pytest.raises(UserError, match=f"transforms.0.type: there is no transform '{name}'"):
            registry.build_transform({"type": name}, "transforms.0")


def test_transforms_are_built():
    assert registry.build_transform({"type": "Normalize", "mean": [0.5] * 3, "std": [0.5] * 3}, "here").mean is not None
    assert registry.build_transform({"type": "Padding", "target_size": [300, 200]}, "here").target_size == [300, 200]


EVIL = {"type": "VisionTransformer", "norm_layer": "print('run')"}


@pytest.mark.parametrize(
    "spec, words",
    [
        ("Normalize", "here: expected a mapping with the key 'type', found 'Normalize'"),
        ({"mean": 1}, "here: expected a mapping with the key 'type'"),
        ({"type": ["Normalize"]}, "here: expected a mapping with the key 'type'"),
        (
            {"type": "Normalize", "mean": EVIL},
            "here.mean: expected texts, numbers up to 65536, or lists of them, found {'type'",
        ),
        ({"type": "Normalize", "mean": [EVIL]}, "here.mean: expected texts"),
        ({"type": "Normalize", "mean": [[EVIL]]}, "here.mean: expected texts"),
        ({"type": "Compose", "transforms": [EVIL]}, "here.type: there is no transform 'Compose'"),
        ({"type": "Normalize", "mean": [float("nan")] * 3}, "here.mean: expected texts"),
        ({"type": "Normalize", "mean": [0.5] * 10**6}, "here.mean: expected a list of at most 1000, found 1000000"),
        ({"type": "Padding", "target_size": [10**9, 1]}, "here.target_size: expected texts, numbers up to 65536"),
        (
            {"type": "Padding", "target_size": [65536, 65536]},
            "here.target_size: 65536 x 65536 is more than the 268435456 pixels",
        ),
        ({"type": "Resize", "interp": "x" * 10**6}, "here.interp: expected texts"),
        ({"type": "Normalize", "maen": 1}, "here.maen: Normalize has no such argument; did you mean mean"),
    ],
)
def test_what_data_may_not_say(spec, words):
    with pytest.raises(UserError) as refusal:
        registry.build_transform(spec, "here")
    assert words in str(refusal.value) and len(str(refusal.value)) < 2000
