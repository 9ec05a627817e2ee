"""Output ends no work, whatever it goes to."""

import io
import os
import re
import subprocess
import sys

import pytest

from paddleseg_psp.log import Tolerant, logger
from tests.helpers import ROOT

CHINESE, BYTES = "\u80cc\u666f", os.fsdecode(b"caf\xe9.png")  # a class name, and a file name that is not UTF-8


def test_lines_have_paddlesegs_format(capsys, monkeypatch):
    from paddleseg.utils import logger as paddlesegs

    for module in (logger, paddlesegs):
        for level in ("info", "warning", "error", "debug"):
            getattr(module, level)("50 % of {it}\tand %s more")
    lines = [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 6 and lines[:3] == lines[3:]
    monkeypatch.setenv("PADDLE_TRAINER_ID", "1")
    logger.info("of the second process")
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    "encoding, shown",
    [
        ("utf-8", f"{CHINESE} caf\\udce9.png"),
        ("ascii", "\\u80cc\\u666f caf\\udce9.png"),
        ("gb18030", f"{CHINESE} caf\\udce9.png"),
    ],
)
def test_what_a_stream_cannot_show_is_escaped(encoding, shown):
    raw = io.BytesIO()
    stream = Tolerant(io.TextIOWrapper(raw, encoding=encoding))
    print(CHINESE, BYTES, file=stream, flush=True)
    assert raw.getvalue().decode(encoding) == shown + "\n"


class Bare:
    """A stream as a notebook might have it, with nothing but write."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text


def test_any_stream_will_do(monkeypatch):
    for stream in (Bare(), io.StringIO()):
        monkeypatch.setattr(sys, "stdout", stream)
        logger.info("shown")
        assert (stream.text if isinstance(stream, Bare) else stream.getvalue()).endswith("[INFO]\tshown\n")
        assert not Tolerant(stream).isatty()
    for stream in (None, io.StringIO()):
        if stream:
            stream.close()
        monkeypatch.setattr(sys, "stdout", stream)
        logger.info("lost")


PRINTS = """
import sys
from paddleseg_psp.log import logger, tolerant_output
with tolerant_output():
    for _ in range(20000):
        logger.info("a line")
        print("another line")
    print("\\u80cc\\u666f")
open(sys.argv[1], "w").write("done")
"""


@pytest.mark.parametrize("output", ["> /dev/full", "| head -1", ">&-", "2>&- | head -1", "> /dev/full 2>&1"])
def test_output_that_cannot_be_written(tmp_path, output):
    """A full disk, a reader that has gone, a closed stream."""
    command = f"{sys.executable} -c '{PRINTS}' {tmp_path / 'done'} {output}"
    environment = {**os.environ, "PYTHONPATH": ROOT, "PYTHONIOENCODING": "ascii"}
    shell = ["bash", "-c", f"set -o pipefail; {command}"]
    process = subprocess.run(shell, capture_output=True, text=True, env=environment, timeout=100)
    assert process.returncode == 0 and (tmp_path / "done").exists(), process.stderr
    said = [line for line in process.stderr.splitlines() if "Output is lost" in line]
    assert len(said) == (1 if output in ("> /dev/full", "| head -1") else 0)
    assert "Traceback" not in process.stderr and "Exception ignored" not in process.stderr
