"""What reads files from strangers does nothing besides, whatever is in them; see fuzz.py."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.helpers import ROOT

FUZZER = os.path.join("tests", "fuzzing", "fuzz.py")


def fuzz(*arguments, root=ROOT, **options):
    command = [sys.executable, os.path.join(root, FUZZER), *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, **options)
    assert process.stdout, process.stderr
    report = json.loads(process.stdout)
    print({key: value for key, value in report.items() if key != "findings"})
    return report


def test_hostile_and_mutated_files_give_a_result_or_one_line(tmp_path):
    report = fuzz("--count", 3000, "--save_dir", tmp_path)
    assert report["mutations"] >= 3000 and report["hostile"] > 400
    assert not report["findings"], report["findings"][:5]
    assert report["outcomes"]["read"] > 300 and report["outcomes"]["refused"] > 1000  # neither all valid nor all garbage


@pytest.mark.slow
def test_a_hundred_thousand_mutations(tmp_path):
    report = fuzz("--count", 100000, "--seed", 1, "--save_dir", tmp_path)
    assert report["mutations"] >= 100000 and not report["findings"], report["findings"][:5]


FAULTS = {  # what a reader does with a text, and what the report says of it
    "x = {1, [2]}": ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
    "x = {[1]: 2}": ("while True: pass", "more than 5 s"),
    "x = {(1, 2): 3}": ("print(len(bytearray(b'x') * 300000000))", "MemoryError"),
    "x = '\0'": ("open('written', 'w')", "open ('written'"),
    "x = " + "[" * 199 + "]" * 199: ("import this", "it did ['exec"),
    "x = " + "dict(a=" * 190 + "1" + ")" * 190: ("os.system('true')", "os.system"),
    "a = [1]\n" + "a = [a, a]\n" * 60: ("[][0]", "IndexError"),
    "a = dict()\n" + "a = dict(b=a, c=a)\n" * 60: ("raise UserError('a\\nb')", "a message of several lines"),
}


@pytest.mark.slow
def test_the_fuzzer_finds_what_a_reader_should_not_do(tmp_path):
    """In its processes a reader is replaced by one that does what FAULTS say."""
    source = "import os, signal\nimport paddleseg_psp.convert.mmsegmentation_config as module\n"
    source += "from paddleseg_psp.errors import UserError\ndef read_config(text):\n"
    source += "".join(f"    if text == {text!r}:\n        {fault}\n" for text, (fault, _) in FAULTS.items())
    (tmp_path / "sitecustomize.py").write_text(source + "    return {}\nmodule.read_config = read_config\n")
    report = fuzz("--format", "config", "--count", 1, env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"})
    found = sorted(finding["what"] for finding in report["findings"])
    assert len(found) == len(FAULTS), found
    for _, said in FAULTS.values():
        assert any(said in what for what in found), (said, found)


PICKLES, TORCH = "paddleseg_psp/models/pickles.py", "paddleseg_psp/convert/torch_files.py"
CONFIGURATIONS, BUNDLES = "paddleseg_psp/convert/mmsegmentation_config.py", "paddleseg_psp/bundle/description.py"
MENDS = {  # what a reader takes care of: (the formats, file, text, what it would be without that care)
    "names": ("pdparams", PICKLES, "else refuse(module, name)", "else getattr(__import__(module), name)"),
    "lengths": ("pdparams", PICKLES, "count > self._left", "False"),
    "operations": ("pdparams", PICKLES, "count > most", "False"),
    "values shared": ("pth", PICKLES, "id(value) not in known", "True"),
    "values together": ("pth", PICKLES, "parts < 0 or size < 0", "False"),
    "keys of equal hashes": ("pdparams", PICKLES, "abs(key) < _LARGEST_KEY", "True"),
    "views": ("pth", TORCH, "self._count and last >= most", "False"),
    # together, as newer Pythons refuse overlapping entries themselves, and either check refuses most archives of the other
    "compressed archives and overlapping entries": ("pth", TORCH, "_require_plain(archive, size)\n", "pass\n"),
    "storages": ("stream", TORCH, "left < 0", "False"),
    "many tensors": ("ckpt", "paddleseg_psp/convert/mindspore_files.py", '"tensors": 2**15', '"tensors": 2**30'),
    "headers": ("safetensors", "paddleseg_psp/models/weights.py", "_HEADER = 2**22", "_HEADER = 2**62"),
    "notes": ("note", "paddleseg_psp/models/weights.py", "_NOTE = 2**20", "_NOTE = 2**30"),
    "Python's parser": ("config", CONFIGURATIONS, "and _is_simple(text)", ""),
    "what a configuration gives": ("config", CONFIGURATIONS, "left = require_bounded(value, *left)", "pass"),
    "aliases": ("deploy", BUNDLES, "self._size(node, {}) > 4 * _LARGEST", "self._size(node, {}) is None"),
    "digits": ("deploy", BUNDLES, "len(node.value) > 100", "False"),
    "long descriptions": ("deploy", BUNDLES, "_LARGEST = 2**17", "_LARGEST = 2**27"),
    "headers of arrays": ("npy", "paddleseg_psp/data/reading/decoding.py", "version == (1, 0)", "True"),
    "shapes of arrays": (
        "npy",
        "paddleseg_psp/data/reading/decoding.py",
        'open_memmap(path, mode="r")',
        'read_array(open(path, "rb"))',
    ),
    "points far away": ("labelme", "paddleseg_psp/commands/labelme2seg.py", "FARTHEST = 2**20", "FARTHEST = 2**62"),
    "names of classes": ("labelme", "paddleseg_psp/commands/labelme2seg.py", "not name.isprintable()", "False"),
    "messages": ("safetensors", "paddleseg_psp/errors.py", "ascii(text[:200])[1:-1]", "text"),
}


@pytest.mark.slow
@pytest.mark.parametrize("mend", MENDS)
def test_the_fuzzer_finds_what_was_mended(tmp_path, mend):
    """In a copy of the package that lacks one of the checks."""
    kind, path, text, without = MENDS[mend]
    for folder in ("paddleseg_psp", "tests/fuzzing", "tests/golden", "tools/data"):
        shutil.copytree(os.path.join(ROOT, folder), tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    source = (tmp_path / path).read_text()
    assert source.count(text) == 1
    (tmp_path / path).write_text(source.replace(text, without))
    report = fuzz("--format", kind, "--count", 100, "--jobs", 1, root=tmp_path, env={**os.environ, "PYTHONPATH": ""})
    assert report["findings"]
