"""Writes docs/reference.md from the code: keys of a configuration, components and their arguments, flags of the commands.

python dev/make_reference.py
"""

import argparse
import importlib
import inspect
import re

from paddleseg_psp.commands.main import COMMANDS
from paddleseg_psp.commands.run import run
from paddleseg_psp.config.schema import KEYS
from paddleseg_psp.files import atomic_path
from paddleseg_psp.models.backbones import ResNet
from paddleseg_psp.models.layers import PointWiseSpatialAttention
from paddleseg_psp.registry import own_components

PATH = "docs/reference.md"
PARTS = (ResNet, PointWiseSpatialAttention)  # that components refer to
GROUPS = {"models": "Networks and backbones", "losses": "Losses", "data": "Data sets and transforms"}


def reference():
    """Returns the page as Markdown."""
    lines = [
        "# Reference",
        "",
        "Written by `python dev/make_reference.py` from the code.",
        "",
        "## Keys of a configuration",
        "",
        "| key | meaning |",
        "| --- | --- |",
        *(f"| `{key}` | {_cell(text)} |" for key, text in KEYS.items()),
        "",
        "`_base_` names a file, or several, to inherit from, relative to the file; `_inherited_: false` in a mapping drops "
        "what it would inherit. `--opts key.subkey=value` replaces a value, a number stepping into a list.",
    ]
    components = {**own_components(), **{part.__name__: part for part in PARTS}}
    for folder, title in GROUPS.items():
        lines += ["", f"## {title}"]
        for name, component in sorted(components.items()):
            if component.__module__.split(".")[1] == folder:
                lines += _component(name, component)
    lines += [
        "",
        "## Commands",
        "",
        "`paddleseg-psp COMMAND`, or the script itself. `-h` and `--debug` (show tracebacks) go with each.",
    ]
    for name, command in COMMANDS.items():
        lines += _command(name, command)
    return "\n".join(lines) + "\n"


def _component(name, component):
    text = inspect.getdoc(component) or ""
    described = dict(_arguments(text))
    lines = ["", f"### {name}", "", _cell(text.split("\n\n")[0]), ""]
    rows = []
    for parameter in inspect.signature(component).parameters.values():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        default = "required" if parameter.default is parameter.empty else f"`{parameter.default!r}`"
        rows.append(f"| `{parameter.name}` | {default} | {_cell(described.get(parameter.name, ''))} |")
    return lines + (["| argument | default | meaning |", "| --- | --- | --- |", *rows] if rows else [])


def _arguments(text):
    """Yields (name, description) of the arguments that a docstring's section Args has."""
    section = re.search(r"(?ms)^Args:\n(.*?)(?=^\w+:|\Z)", text)
    for entry in re.split(r"\n(?=    \S)", section[1] if section else ""):
        head, _, description = entry.strip().partition(": ")
        for name in re.sub(r"\([^)]*\)", "", head).split(","):
            yield name.strip(), description


class _Parser(Exception):
    """Carries a command's parser out of it, before it parses."""


def _command(name, command):
    script = f" `{command.script}`" if command.script else ""
    lines = ["", f"### {name}", "", f"{command.help[0].upper()}{command.help[1:]}.{script}"]
    original = argparse.ArgumentParser.parse_args

    def caught(parser, *_):
        raise _Parser(parser)

    argparse.ArgumentParser.parse_args = caught
    try:
        if name in ("doctor", "build-operator"):
            return lines
        importlib.import_module(f"paddleseg_psp.commands.{command.module}").main([])
    except _Parser as found:
        actions = [
            action
            for action in found.args[0]._actions
            if not isinstance(action, argparse._HelpAction) and action.dest != "debug"
        ]
    finally:
        argparse.ArgumentParser.parse_args = original
    rows = [f"| {_flag(action)} | {_default(action)} | {_help(action)} |" for action in actions]
    return [*lines, "", "| flag | default | meaning |", "| --- | --- | --- |", *rows]


def _help(action):
    return _cell((action.help or "").replace(" (default: %(default)s)", ""))  # which Python 3.9 adds to some


def _flag(action):
    names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{action.dest}`"
    return " ".join([names, _cell(" | ".join(map(str, action.choices or ())))]).rstrip()


def _default(action):
    if action.required:
        return "required"
    return "" if action.default in (None, argparse.SUPPRESS) or action.nargs == 0 else f"`{action.default}`"


def _cell(text):
    return " ".join(text.split()).replace("|", "\\|")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    run(_write, parser, argv)


def _write(args):
    with atomic_path(PATH) as path, open(path, "w", encoding="utf-8") as file:
        file.write(reference())
    print(f"Wrote {PATH}")


if __name__ == "__main__":
    main()
