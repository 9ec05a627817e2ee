import ast
import glob
import os
import subprocess
import sys

import pytest
from helpers import ROOT


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]])
def test_ruff_has_nothing_to_say(arguments):
    environment = {**os.environ, "RUFF_NO_CACHE": "true"}
    process = subprocess.run(
        [sys.executable, "-m", "ruff", *arguments, "."], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert process.returncode == 0, process.stdout + process.stderr


def test_mypy_finds_no_wrong_types():
    process = subprocess.run(
        [sys.executable, "-m", "mypy", f"--cache-dir={os.devnull}"], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stdout + process.stderr


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


ORDER = [["ops"], ["data", "models", "losses"], ["config", "visual"], ["engine", "convert"], ["deploy"], ["cli"]]


def test_modules_import_from_those_before_them():
    """As docs/architecture.md says; `errors`, `files`, `registry` and the like are everywhere."""
    rank = {name: number for number, names in enumerate(ORDER) for name in names}
    back = []
    for path in glob.glob(os.path.join(ROOT, "paddleseg_psp/**/*.py"), recursive=True):
        own = os.path.relpath(path, os.path.join(ROOT, "paddleseg_psp")).split(os.sep)[0].replace(".py", "")
        with open(path) as file:
            nodes = [node for node in ast.walk(ast.parse(file.read())) if isinstance(node, ast.ImportFrom)]
        for node in nodes:
            if (node.module or "").split(".")[0] == "paddleseg_psp":
                names = [node.module.split(".")[1]] if "." in node.module else [alias.name for alias in node.names]
                later = [name for name in names if name != own and rank.get(name, -1) >= rank.get(own, 99)]
                back += [f"{path}: {name}" for name in later]
    assert not back
