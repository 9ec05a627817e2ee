"""Finding the components that a configuration names, and building them from mappings."""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from paddleseg.cvlibs import manager

from paddleseg_psp.errors import UserError, suggestion

_own: dict[str, Callable] = {}
_transforms: dict[str, Callable] = {}
MOST_PIXELS = 2**28  # that a transform of a bundle may make: 16384 x 16384
_LARGEST, _LONGEST = 2**16, 1000  # values of 16 bits; channels of an image
_PADDLESEG = (
    manager.MODELS,
    manager.BACKBONES,
    manager.DATASETS,
    manager.TRANSFORMS,
    manager.LOSSES,
    manager.OPTIMIZERS,
)


def register(component: Callable) -> Callable:
    """Makes a class or function of this package known by its name; a decorator.

    Raises:
        KeyError: the name is taken by another component of this package.
    """
    if component.__name__ in _own:
        raise KeyError(f"a component {component.__name__} is registered already")
    _own[component.__name__] = component
    return component


def register_transform(component: Callable) -> Callable:
    """Registers a transform, which bundles may name too; a decorator."""
    _transforms[component.__name__] = register(component)
    return component


def transforms() -> dict[str, Callable]:
    """Returns the components that data may name: the transforms of this package, of paddleseg, and of users."""
    known = {**manager.TRANSFORMS.components_dict, **_transforms}
    del known["Compose"]  # a list of them, which opens images
    return known


def find(name: str, where: str) -> Callable:
    """Returns the component of that name: this package's, or else paddleseg's (including those that users added).

    Raises:
        UserError: there is none; the message, headed by `where`, has the nearest names.
    """
    for components in (_own, *(registry.components_dict for registry in _PADDLESEG)):
        if isinstance(name, str) and name in components:
            return components[name]
    known = {*_own, *(known for registry in _PADDLESEG for known in registry.components_dict)}
    raise UserError(f"{where}: there is no component {name!r}{suggestion(name, known)}")


def own_components() -> dict[str, Callable]:
    """Returns this package's components, {name: class or function}."""
    return dict(_own)


def load_plugin(path: str, where: str) -> None:
    """Runs a user's Python file once; its classes register themselves by `register` or paddleseg's manager.

    Raises:
        UserError: no such file, or an exception in it.
    """
    name = "paddleseg_psp_plugin_" + os.path.abspath(path).replace(os.sep, "_").replace(".", "_")
    if name in sys.modules:
        return
    if not os.path.isfile(path):
        raise UserError(f"{where}: there is no file {path}")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader  # as for any .py
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where pickle looks for its classes
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UserError(f"{where}: {path} failed: {type(error).__name__}: {' '.join(str(error).split())}") from error


def components(spec: object, where: str) -> Iterator[tuple[str, dict, Callable]]:
    """Yields (where, mapping, component) of each mapping with `type` in nested mappings and lists, the outer ones first.

    Raises:
        UserError: an unknown type.
    """
    if isinstance(spec, dict):
        if "type" in spec:
            yield where, spec, find(spec["type"], f"{where}.type")
        for key, value in list(spec.items()):
            yield from components(value, f"{where}.{key}")
    elif isinstance(spec, list):
        for index, item in enumerate(spec):
            yield from components(item, f"{where}.{index}")


def set_defaults(spec: dict, component: Callable, **defaults: object) -> None:
    """Adds default arguments to a component's mapping, if they are not None, not given, and accepted by the component."""
    for name, value in defaults.items():
        if value is not None and name in inspect.signature(component).parameters:
            spec.setdefault(name, value)


def build(spec: dict, where: str, **defaults: object) -> Any:
    """Builds the component that a mapping with `type` describes, and those nested in it.

    Args:
        spec: `type` and the component's arguments.
        where: the key in the configuration, for messages.
        defaults: arguments used where spec does not give them and the component takes them.

    Raises:
        UserError: unknown type, an argument the component does not take, or the component's own refusal.
    """
    if not isinstance(spec, dict) or "type" not in spec:
        raise UserError(f"{where}: expected a mapping with the key 'type', found {spec!r}")
    component = find(spec["type"], f"{where}.type")
    arguments = {key: _build_nested(value, f"{where}.{key}") for key, value in spec.items() if key != "type"}
    return _built(component, arguments, where, defaults)


def build_transform(spec: object, where: str) -> Any:
    """Builds a transform from data, such as a bundle's deploy.yaml: only from plain values (docs/security.md).

    Raises:
        UserError: another component than a transform, a value that is not plain, or what `build` refuses.
    """
    if not isinstance(spec, dict) or not isinstance(spec.get("type"), str):
        raise UserError(f"{where}: expected a mapping with the key 'type', found {spec!r:.80}")
    known = transforms()
    if spec["type"] not in known:
        raise UserError(f"{where}.type: there is no transform {spec['type']!r:.80}{suggestion(spec['type'], known)}")
    arguments = {key: value for key, value in spec.items() if key != "type"}
    for key, value in arguments.items():
        _require_plain(value, f"{where}.{key!s:.80}")
    return _built(known[spec["type"]], arguments, where, {})


def _require_plain(value, where):
    """Raises UserError unless a value from data is what transforms take: texts, numbers, lists of them, an image's size."""
    rows = value if isinstance(value, list) else [value]
    items = [item for row in rows for item in (row if isinstance(row, list) else [row])]
    for item in items[:_LONGEST]:
        number = isinstance(item, (int, float)) and -_LARGEST <= item <= _LARGEST
        if not number and not (isinstance(item, str) and len(item) <= _LONGEST) and item is not None:
            raise UserError(f"{where}: expected texts, numbers up to {_LARGEST}, or lists of them, found {item!r:.80}")
    if len(items) > _LONGEST:
        raise UserError(f"{where}: expected a list of at most {_LONGEST}, found {len(items)}")
    if len(items) == 2 and not any(isinstance(item, str) or item is None for item in items):
        if items[0] * items[1] > MOST_PIXELS:
            raise UserError(f"{where}: {items[0]} x {items[1]} is more than the {MOST_PIXELS} pixels of the largest image")


def _built(component, arguments, where, defaults):
    """Builds a component from its arguments, and from the defaults that it accepts."""
    accepted = check_arguments(component, arguments, where)
    arguments.update({key: value for key, value in defaults.items() if key in accepted and key not in arguments})
    try:
        return component(**arguments)
    except UserError as error:
        raise UserError(f"{where}: {error}")
    except Exception as error:
        name = getattr(component, "__name__", component)
        raise UserError(f"{where}: {name} could not be built: {' '.join(str(error).split())}") from error


def check_arguments(component: Callable, names: Iterable[str], where: str) -> list[str]:
    """Returns the argument names that a component lists.

    Raises:
        UserError: one of `names` is not among them (a component with **arguments checks its own).
    """
    parameters = inspect.signature(component).parameters
    accepted = [name for name in parameters if name != "self"]
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        for name in names:
            if name not in accepted:
                title = getattr(component, "__name__", component)
                raise UserError(f"{where}.{name}: {title} has no such argument{suggestion(name, accepted)}")
    return accepted


def _build_nested(value, where):
    if isinstance(value, dict) and "type" in value:
        return build(value, where)
    if isinstance(value, list):
        return [_build_nested(item, f"{where}.{index}") for index, item in enumerate(value)]
    return value
