"""Says what this machine has and whether the package works on it.

    python -m paddleseg_psp.commands.doctor

The last lines are the verdict: that everything is fine, or what is wrong and what to do, in which case it exits with 1.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shlex
import shutil
import subprocess
import sys

from paddleseg_psp.files import can_be_made, read_if_there
from paddleseg_psp.log import tolerant_output

INSTRUCTIONS = ("sse4_2", "avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "neon", "asimd")
IMPORTED_AS = {
    "paddlepaddle": "paddle",
    "opencv-python": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
}
ENOUGH_SHARED_MEMORY = 512  # MB, for the batches that data loading processes pass on


class Report:
    """Prints what is found and collects what is wrong."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def line(self, name: str, value: object) -> None:
        print(f"{name + ':':20} {value}", flush=True)

    def problem(self, message: str) -> None:
        self.problems.append(message)


def check_machine(report: Report) -> None:
    report.line("system", f"{platform.platform()}, Python {platform.python_version()} ({sys.executable})")
    if not (3, 9) <= sys.version_info[:2] <= (3, 12):
        report.problem(f"Python {platform.python_version()}: install one from 3.9 to 3.12, which Paddle has packages for")
    info = read_if_there("/proc/cpuinfo")
    words = {line.partition(":")[0].strip(): line.partition(":")[2] for line in info.splitlines()}
    flags = (words.get("flags") or words.get("Features") or "").split()
    model = words.get("model name", platform.processor() or platform.machine()).strip()
    report.line("CPU", f"{model}, {os.cpu_count()} cores; {', '.join(name for name in INSTRUCTIONS if name in flags)}")
    if os.path.isdir("/dev/shm"):
        free = shutil.disk_usage("/dev/shm").free // 2**20
        little = "; little for --num_workers above 0: docker run --shm-size=8g" if free < ENOUGH_SHARED_MEMORY else ""
        report.line("shared memory", f"{free} MB free in /dev/shm{little}")


def check_packages(report: Report) -> None:
    from packaging.requirements import Requirement

    folder = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    lines = read_if_there(os.path.join(folder, "requirements.txt")).splitlines()  # there unless it was installed elsewhere
    requirements = (
        [line for line in lines if line and not line.startswith("#")] or importlib.metadata.requires("paddleseg_psp") or []
    )
    for requirement in map(Requirement, requirements):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue  # of an extra, or of another system
        name = requirement.name
        version = _version(name) or (name == "paddlepaddle" and _version("paddlepaddle-gpu"))
        report.line(name, version or "not installed")
        if not version:
            report.problem(f"{name} is not installed: pip install '{requirement}'")
        elif not requirement.specifier.contains(version, prereleases=True):
            report.problem(
                f"{name} is {version}, but {requirement} is what this package is tested with: pip install '{requirement}'"
            )
        else:
            try:
                importlib.import_module(IMPORTED_AS.get(name, name))
            except Exception as error:  # a broken package may raise anything
                what_to_do = f"pip install --force-reinstall '{requirement}'"
                if isinstance(error, OSError) and error.filename:  # not of a library, but of a folder it makes
                    what_to_do = "set HOME, or TMPDIR, to a folder that can be written"
                report.problem(f"{name} {version} cannot be imported ({error}): {what_to_do}")
    report.line("onnxruntime", _version("onnxruntime") or "not installed; only ONNX models need it")


def check_paddle(report: Report) -> None:
    import paddle

    from paddleseg_psp import environment

    cuda = f"CUDA {paddle.version.cuda()}" if paddle.is_compiled_with_cuda() else "CPU only"
    report.line("paddle", f"{paddle.version.full_version}, commit {paddle.version.commit[:12]}, {cuda}")
    for line in environment.describe()[2:]:
        report.line(*line.split(": ", 1))
    if not paddle.is_compiled_with_cuda():
        return
    count = paddle.device.cuda.device_count()
    for index in range(count):
        properties = paddle.device.cuda.get_device_properties(index)
        report.line(f"GPU {index}", f"{properties.name}, {properties.total_memory // 2**20} MB")
    if not count:
        report.problem("This Paddle is for CUDA, but sees no GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES")


def check_operators(report: Report) -> None:
    from paddleseg_psp.ops import library

    if "PSA_MASK_IMPL" in os.environ:
        report.line("PSA_MASK_IMPL", os.environ["PSA_MASK_IMPL"])
    if os.environ.get("PSA_MASK_IMPL") == "reference":
        os.environ["PSA_MASK_IMPL"] = "native"  # or the reference would be compared with itself
    compilers = [shlex.split(os.environ.get("CXX") or "g++"), ["nvcc"]]
    for compiler in compilers:
        report.line(" ".join(compiler), _first_line([*compiler, "--version"]) or "not found")
    cache = library.cache_folder()
    report.line("operators' cache", f"{cache}{'' if can_be_made(os.path.join(cache, 'new')) else ' (cannot be written)'}")
    found = library.find_library()
    report.line("operators", found or "not built yet; building them")
    try:
        library.load_operator(required=True)
    except RuntimeError as error:
        report.line("operators", "not available: PSANet uses plain Paddle operators, many times slower")
        report.problem(str(error))
        return
    if not found:
        report.line("operators", library.find_library())
    wrong = [
        name for name, agrees in (("psa_mask", _psa_mask_agrees), ("psa_attention", _psa_attention_agrees)) if not agrees()
    ]
    report.line("operators' results", f"wrong: {', '.join(wrong)}" if wrong else "as those of plain Paddle operators")
    for name in wrong:
        report.problem(
            f"{name} computes wrong numbers. Delete {library.find_library()}; if that does not help, please report it"
        )


def _psa_mask_agrees():
    import paddle

    from paddleseg_psp.ops import psa_mask
    from paddleseg_psp.ops.psamask import reference

    x = paddle.rand([1, 35, 6, 7])
    return all(
        bool((psa_mask(x, kind, (5, 7)) == reference.psa_mask(x, kind, (5, 7))).all()) for kind in ("collect", "distribute")
    )


def _psa_attention_agrees():
    import paddle

    from paddleseg_psp.ops import psa_attention
    from paddleseg_psp.ops.psamask import reference

    value, mask = paddle.rand([1, 20, 6, 7]), paddle.rand([1, 35, 6, 7])
    for kind in ("collect", "distribute"):
        expected = reference.psa_attention(value, mask, kind, (5, 7))
        if float((psa_attention(value, mask, kind, (5, 7)) - expected).abs().max()) > 1e-5:
            return False
    return True


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _first_line(command):
    try:
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except OSError:
        return None
    return next(iter(result.stdout.splitlines()), "") if result.returncode == 0 else None


def main() -> int:
    """Runs all checks; a check that fails by itself is a problem, too."""
    with tolerant_output():
        return _main()


def _main():
    report = Report()
    for check in (check_machine, check_packages, check_paddle, check_operators):
        try:
            check(report)
        except Exception as error:  # whatever is broken, the other checks still tell something
            name = check.__name__.replace("check_", "")
            report.problem(f"The check of the {name} ended with {type(error).__name__}: {error}")
    print()
    if not report.problems:
        print("Everything is fine.")
        return 0
    print("What is wrong and what to do:")
    for number, problem in enumerate(report.problems, 1):
        print(f"{number}. {problem}")
    return 1
