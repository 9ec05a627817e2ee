"""paddleseg-psp doctor, as a process of its own, on a sound machine and on broken ones."""

import os
import sys

import pytest

from paddleseg_psp.commands import doctor
from tests.helpers import ROOT, run_python


def consult(**environment):
    return run_python(["-m", "paddleseg_psp.doctor"], env=environment)


def verdict(result):
    """Returns the numbered lines at the end of what the doctor says."""
    assert result.returncode == 1 and "Traceback" not in result.stderr, result.stderr
    return result.stdout.split("What is wrong and what to do:\n")[1].splitlines()


def test_a_sound_machine():
    result = consult()
    assert result.returncode == 0 and result.stdout.endswith("\nEverything is fine.\n"), result.stdout + result.stderr
    for line in (
        "paddlepaddle:        3.3.1",
        "operators' results:  as those of plain Paddle operators",
        "device:              cpu",
    ):
        assert line in result.stdout


def test_a_home_that_cannot_be_written():
    result = consult(HOME="/proc/nohome")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "/proc/nohome cannot be written, so the process has " in result.stdout


def test_no_compiler(tmp_path):
    """Where nothing has been built before."""
    (tmp_path / "sitecustomize.py").write_text(
        "import pathlib\nfrom paddleseg_psp.ops.library import variant\n"
        f"variant.PREBUILT = pathlib.Path({str(tmp_path)!r}, 'nothing')\n"
    )
    cache = str(tmp_path / "cache")
    result = consult(CXX="/nonexistent/g++", PADDLESEG_PSP_CACHE=cache, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    (problem,) = verdict(result)
    assert problem.startswith("1. The native operators are needed here, but /nonexistent/g++ was not found. Install g++")
    assert "/nonexistent/g++:    not found" in result.stdout and f"operators' cache:    {cache}" in result.stdout
    assert "many times slower" in result.stdout


@pytest.mark.parametrize("module, package", [("paddle", "paddlepaddle"), ("visualdl", "visualdl"), ("cv2", "opencv-python")])
def test_a_package_that_cannot_be_imported(tmp_path, module, package):
    (tmp_path / f"{module}.py").write_text("raise ImportError('libcuda.so.1 is missing')")
    problems = verdict(consult(PYTHONPATH=str(tmp_path)))
    (problem,) = (line for line in problems if f". {package} " in line)  # what needs it is named, too
    assert "cannot be imported (libcuda.so.1 is missing): pip install --force-reinstall" in problem


def test_a_folder_that_cannot_be_made(tmp_path):
    """To install a package again would not help."""
    (tmp_path / "visualdl.py").write_text("import os; os.makedirs('/proc/folder')")
    (problem,) = verdict(consult(PYTHONPATH=str(tmp_path)))
    assert "visualdl" in problem and problem.endswith(": set HOME, or TMPDIR, to a folder that can be written")


def test_packages_that_are_missing_or_of_another_version(monkeypatch):
    versions = {"paddleseg": "2.9.0", "numpy": "2.1.0", "paddlepaddle-gpu": "3.3.1"}
    monkeypatch.setattr(doctor, "_version", versions.get)
    report = doctor.Report()
    doctor.check_packages(report)
    problems = "\n".join(report.problems)
    assert "paddleseg is 2.9.0, but paddleseg==2.8.0 is what this package is tested with" in problems
    assert "numpy is 2.1.0" in problems and "visualdl is not installed: pip install 'visualdl'" in problems
    assert "paddlepaddle" not in problems


def test_nonsense_in_the_environment():
    (problem,) = verdict(consult(PSA_MASK_IMPL="fast"))
    assert "PSA_MASK_IMPL must be one of auto, native, reference, not 'fast'" in problem


def test_wrong_results_are_noticed(monkeypatch):
    monkeypatch.setattr(doctor, "_psa_attention_agrees", lambda: False)
    report = doctor.Report()
    doctor.check_operators(report)
    (problem,) = report.problems
    assert problem.startswith("psa_attention computes wrong numbers")


def test_little_shared_memory(monkeypatch, capsys):
    if sys.platform != "linux":
        pytest.skip("only Linux has /dev/shm")
    monkeypatch.setattr(doctor, "ENOUGH_SHARED_MEMORY", 1 << 40)
    doctor.check_machine(doctor.Report())
    assert "little for --num_workers above 0: docker run --shm-size=8g" in capsys.readouterr().out
