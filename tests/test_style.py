"""Rules of the code that no tool checks; `make style` has the tools'."""

import ast
import glob
import os

from tests.helpers import ROOT


def _public_functions(node, name):
    for item in node.body:
        if isinstance(item, ast.ClassDef) and not item.name.startswith("_"):
            yield from _public_functions(item, f"{name}.{item.name}")
        elif isinstance(item, ast.FunctionDef) and (not item.name.startswith("_") or item.name.endswith("__")):
            yield item, f"{name}.{item.name}"


def test_public_functions_have_types():
    bare = []
    for path in glob.glob(os.path.join(ROOT, "paddleseg_psp/**/*.py"), recursive=True):
        with open(path) as file:
            tree = ast.parse(file.read())
        for function, name in _public_functions(tree, os.path.relpath(path, ROOT)):
            given = function.args
            arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            typed = [item.annotation for item in arguments if item and item.arg not in ("self", "cls")]
            if not all([*typed, function.returns]):
                bare.append(name)
    assert not bare


FACES = ("deploy.py", "doctor.py", os.path.join("ops", "build.py"))  # earlier names of what is elsewhere now
ORDER = [
    ["ops"], ["models", "losses", "data"], ["config"], ["visual"], ["engine", "convert"], ["bundle"], ["service"], ["commands"],
]  # fmt: skip


def test_modules_import_from_those_before_them():
    """As docs/architecture.md says; `errors`, `files`, `registry` and the like are everywhere."""
    rank = {name: number for number, names in enumerate(ORDER) for name in names}
    back = []
    for path in glob.glob(os.path.join(ROOT, "paddleseg_psp/**/*.py"), recursive=True):
        inside = os.path.relpath(path, os.path.join(ROOT, "paddleseg_psp"))
        if inside in FACES:
            continue
        own = inside.split(os.sep)[0].replace(".py", "")
        with open(path) as file:
            nodes = [node for node in ast.walk(ast.parse(file.read())) if isinstance(node, ast.ImportFrom)]
        for node in nodes:
            if (node.module or "").split(".")[0] == "paddleseg_psp":
                names = [node.module.split(".")[1]] if "." in node.module else [alias.name for alias in node.names]
                later = [name for name in names if name != own and rank.get(name, -1) >= rank.get(own, 99)]
                back += [f"{path}: {name}" for name in later]
    assert not back
