"""What reads files from strangers does nothing besides, whatever is in them; see fuzz.py."""

import json
import os
import subprocess
import sys

import pytest
from helpers import ROOT

FUZZER = os.path.join(ROOT, "tests", "fuzzing", "fuzz.py")


def fuzz(*arguments, **options):
    process = subprocess.run([sys.executable, FUZZER, *map(str, arguments)], capture_output=True, text=True, **options)
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
