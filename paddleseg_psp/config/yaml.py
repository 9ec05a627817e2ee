"""Reading configurations: YAML files that inherit from each other, overrides on the command line, and numbers."""

from __future__ import annotations

import ast
import itertools
import math
import os
import re
from collections.abc import Sequence
from typing import IO

import yaml

from paddleseg_psp.config.shipped import configurations
from paddleseg_psp.errors import UserError, suggestion
from paddleseg_psp.log import logger

MOST_VALUES = 10**6  # a configuration has hundreds
LENGTH = ("iters", "epochs")  # a configuration has one of them
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """Reads 1e-5 and 010 as 0.00001 and 10 (in YAML 1.1 they are a text and 8); 1:30 and dates stay texts.

    A key that is given two values is refused.
    """

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        first = {}
        for key, value in node.value:
            if key.tag == _TAG + "merge" or not isinstance(key, yaml.ScalarNode):
                continue
            earlier, other = first.setdefault(key.value, (key, value))
            if earlier is not key:
                _tell_double(self, key, earlier.start_mark.line + 1, yaml.serialize(value) == yaml.serialize(other))
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes texts that _Loader, or YAML 1.1, would take for numbers."""


def _tell_double(loader, key, earlier, same):
    """Raises UserError for a repeated key with another value; only warns if it is the same, as in some PaddleSeg files."""
    file = loader.stream is not None
    where = f"{loader.name}, line {key.start_mark.line + 1}" if file else loader.name
    message = f"{where}: the key {key.value!r} is given twice{f', in line {earlier} first' if file else ''}"
    if not same:
        raise UserError(f"{message}, with different values: leave one")
    logger.warning(f"{message}, with the same value")


def _whole_number(loader, node):
    digits = node.value.replace("_", "")
    return int(digits, 0 if digits.lstrip("+-")[:2] in ("0x", "0b") else 10)


_Loader.yaml_implicit_resolvers = {
    first: [item for item in items if item[0] not in (f"{_TAG}int", f"{_TAG}float", f"{_TAG}timestamp")]
    for first, items in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_INT = re.compile(r"[-+]?(0b[01][01_]*|0x[0-9a-fA-F][0-9a-fA-F_]*|[0-9][0-9_]*)$")
_FLOAT = re.compile(
    r"[-+]?(([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(inf|Inf|INF))$|\.(nan|NaN|NAN)$"
)
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(f"{_TAG}int", _INT, list("-+0123456789"))
    _kind.add_implicit_resolver(f"{_TAG}float", _FLOAT, list("-+.0123456789"))
_Loader.add_constructor(f"{_TAG}int", _whole_number)


def parse_yaml(source: str | IO[bytes], name: str) -> object:
    """Returns the content of a YAML text or file. Aliases become copies, so that each can be changed separately.

    Raises:
        UserError: invalid YAML, a key with two values, or more than MOST_VALUES values, which a few lines of aliases can mean.
    """
    try:
        loader = _Loader(source)
        loader.name = name
        return _unshared(loader.get_single_data())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        advice = "; save it as UTF-8" if isinstance(error, yaml.reader.ReaderError) else ""
        raise UserError(f"{name} is no valid YAML: {' '.join(str(error).split())}{advice}")


def dump(data: dict) -> str:
    """Returns a configuration as YAML that means the same to `read_yaml` and to other readers."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False)


def _unshared(value, counter=None):
    counter = counter or itertools.count(1)
    if next(counter) > MOST_VALUES:
        raise ValueError(f"it has more than {MOST_VALUES} values")
    if isinstance(value, dict):
        return {key: _unshared(item, counter) for key, item in value.items()}
    return [_unshared(item, counter) for item in value] if isinstance(value, (list, tuple)) else value


def resolve_path(path: str) -> str:
    """Returns the file for a `--config` argument.

    A path written for Windows is taken with `/`, and one whose backslashes an unquoting shell has eaten is looked for below
    configs/. A path below configs/ that is not in the current folder is one of those that come with the package.

    Raises:
        UserError: no such file; the message has the nearest ones.
    """
    if path is None:
        raise UserError("--config is missing: name a YAML file, e.g. --config configs/pspnet/pspnet_resnet18_demo.yml")
    for candidate in (path, path.replace("\\", "/")):
        if os.path.isfile(candidate):
            return candidate
    root = configurations()
    known = {
        os.path.join("configs", os.path.relpath(os.path.join(folder, name), root)): os.path.join(folder, name)
        for folder, _, names in os.walk(root)
        for name in names
        if name.endswith(".yml")
    }
    for name, candidate in known.items():
        if path.replace("\\", "/") == name or path == name.replace(os.sep, ""):
            return candidate
    raise UserError(f"--config: there is no file {path}{suggestion(path, known) if known else ''}")


def read_yaml(path: str, seen: tuple[str, ...] = ()) -> dict:
    """Returns the mapping in a YAML file, merged over those in `_base_`, which are relative to the file or below configs/.

    `_inherited_: false` in a mapping drops what it would inherit, as in PaddleSeg.

    Raises:
        UserError: no such file, invalid YAML, a key with two values, no mapping, or files that inherit from each other in a
            circle.
    """
    if path in seen:
        raise UserError(f"{path}: _base_ leads back to this file ({' -> '.join(seen)})")
    try:
        with open(path, "rb") as file:  # PyYAML goes by the byte order mark
            content = parse_yaml(file, path)
    except OSError as error:
        raise UserError(f"{path}{f' (named in {seen[-1]})' if seen else ''} cannot be read: {error.strerror}")
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping of keys to values at the top")
    bases = content.pop("_base_", None) or []
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise UserError(f"{path}: _base_: expected a file or a list of files, found {bases!r}")
    if content.get("plugins") is not None:
        content["plugins"] = [
            os.path.abspath(os.path.join(os.path.dirname(path), plugin)) for plugin in _plugin_list(content, path)
        ]
    for base in bases:
        inherited = read_yaml(_base_path(path, base), (*seen, path))
        if any(key in content for key in LENGTH):  # one of them replaces the other
            inherited = {key: value for key, value in inherited.items() if key not in LENGTH}
        content = _merge(content, inherited)
    return content


def _base_path(path, base):
    """Returns the file that a configuration inherits from: beside it or, below configs/, one that comes with the package."""
    beside = os.path.join(os.path.dirname(path), base)
    below, _, rest = base.partition("/")
    own = os.path.join(configurations(), rest)
    return own if below == "configs" and not os.path.isfile(beside) and os.path.isfile(own) else beside


def _plugin_list(content, path):
    plugins = content["plugins"]
    if not isinstance(plugins, list) or not all(isinstance(plugin, str) for plugin in plugins):
        raise UserError(f"{path}: plugins: expected a list of Python files, found {plugins!r}")
    return plugins


def _merge(new, base):
    if not new.get("_inherited_", True):
        return {key: value for key, value in new.items() if key != "_inherited_"}
    merged = dict(base)
    for key, value in new.items():
        nested = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge(value, base[key]) if nested else value
    return merged


def _parse_value(text, where):
    """Returns the value of a text in Python syntax or, if that fails, in YAML."""
    try:
        tree = ast.parse(text.strip(), mode="eval")
        value = ast.literal_eval(tree)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return parse_yaml(text, where)
    for node in ast.walk(tree):
        keys = [ast.unparse(key) for key in getattr(node, "keys", ())]
        for double in {key for key in keys if keys.count(key) > 1}:
            raise UserError(f"{where}: the key {double} is given twice: leave one")
    return _unshared(value)  # lists for tuples


def apply_overrides(data: dict, overrides: Sequence[str] | None) -> None:
    """Sets `key.subkey=value` items in nested data; a number steps into a list.

    Raises:
        UserError: no '=', a key whose parent is not there, or a value that is neither Python nor YAML.
    """
    for item in overrides or ():
        key, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"--opts takes KEY=VALUE items such as batch_size=1, not {item!r}")
        *parents, last = key.split(".")
        target = data
        for depth, name in enumerate([*parents, last]):
            where = ".".join(key.split(".")[:depth])
            if isinstance(target, list):
                if not name.isdecimal() or int(name) >= len(target):
                    raise UserError(f"--opts {key}: {where} is a list of {len(target)}: give an index into it, not {name!r}")
                name = int(name)
            elif not isinstance(target, dict):
                raise UserError(f"--opts {key}: {where} is a single value and has no keys")
            elif depth < len(parents) and name not in target:
                raise UserError(f"--opts {key}: there is no key {name!r}{suggestion(name, target)}")
            if depth == len(parents):
                target[name] = _parse_value(value, f"--opts {key}")
            else:
                target = target[name]


def require_number(value: object, where: str, least: float = -math.inf, whole: bool = False) -> None:
    """Raises UserError unless a value is a finite number of at least `least`, and an integer if `whole`.

    True and false, which Python takes for 1 and 0, are none, nor is a number in quotes.
    """
    if isinstance(value, int if whole else (int, float)) and not isinstance(value, bool):
        if -math.inf < value < math.inf and value >= least:
            return
    limit = "" if least == -math.inf else " above 0" if whole and least == 1 else f" of at least {least:g}"
    quoted = isinstance(value, str) and re.fullmatch(r"[-+.\d]+([eE][-+]?\d+)?", value.strip(), re.ASCII)
    advice = "; write it without quotes" if quoted else ""
    raise UserError(f"{where}: expected a {'whole ' if whole else ''}number{limit}, found {value!r}{advice}")
