"""The source distribution makes a wheel that works in a clean environment, from another folder."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv

import pytest

from paddleseg_psp import __version__
from paddleseg_psp.commands.main import COMMANDS
from tests.helpers import ROOT, document_commands


def run(command, folder, **environment):
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    process = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, env={**kept, **environment})
    assert process.returncode == 0, f"{command}: {process.stdout[-2000:]}{process.stderr[-2000:]}"
    return process.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of the programs of an environment that has the wheel, and for its requirements this environment's packages."""
    folder = tmp_path_factory.mktemp("packaging")
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if files.returncode:
        pytest.skip("not in a repository")
    for name in files.stdout.split("\0")[:-1]:
        if os.path.exists(os.path.join(ROOT, name)):
            os.makedirs(os.path.dirname(folder / "source" / name), exist_ok=True)
            shutil.copy2(os.path.join(ROOT, name), folder / "source" / name)
    run([sys.executable, "-c", "from setuptools.build_meta import build_sdist; build_sdist('../dist')"], folder / "source")
    (archive,) = (folder / "dist").iterdir()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run([*pip, "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", folder / "wheels", archive], folder)
    (wheel,) = (folder / "wheels").iterdir()
    venv.create(folder / "venv", with_pip=False)
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    run([*pip, "install", "--no-deps", "--target", packages, wheel], folder)
    # a path in a .pth file brings packages, but not what their own .pth files say: this repository
    (packages / "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv" / "bin", packages


@pytest.mark.slow
def test_the_commands_work_from_another_folder(installed, tmp_path):
    programs, packages = installed

    def psp(*arguments):
        program = [programs / "python", packages / "bin" / "paddleseg-psp"]
        return run([*program, *arguments], tmp_path, PATH=f"{programs}:{os.environ['PATH']}")

    assert psp("--version").strip() == f"paddleseg-psp {__version__}"
    where = run([programs / "python", "-c", "import paddleseg_psp; print(paddleseg_psp.__file__)"], tmp_path)
    assert str(packages) in where
    assert list((packages / "paddleseg_psp" / "ops").rglob("*.so"))  # compiled with the wheel
    psp("make-demo-data", "--save_dir", "data/demo_cityscapes", "--train", 4, "--val", 2, "--size", 64, 48)
    config = ["--config", "configs/psanet/psanet_resnet18_demo.yml", "--device", "cpu"]
    small = ["--opts", "train_dataset.transforms.0.crop_size=[64,48]"]
    assert "ready for training" in psp("check-data", *config, *small)
    psp("train", *config, "--iters", 2, "--batch_size", 2, "--do_eval", "--save_dir", "out", *small)
    weights = ["--model_path", "out/best_model/model.pdparams"]
    assert "[EVAL] #Images: 2 mIoU" in psp("val", *config, *weights, *small)
    psp("export", *config, *weights, "--save_dir", "bundle", *small)
    psp("infer", "--config", "bundle/deploy.yaml", "--image_path", "data/demo_cityscapes/leftImg8bit/val", "--save_dir", "maps")
    assert len(list((tmp_path / "maps").rglob("*.png"))) == 2
    _read_the_tutorial(psp, tmp_path)
    assert "operators' results:  as those of plain Paddle operators" in psp("doctor")


def _read_the_tutorial(psp, folder):
    """Its commands, as those of the program, in a folder that has nothing else."""
    names = {command.script: name for name, command in COMMANDS.items()}
    with open(os.path.join(ROOT, "docs", "tutorial.md"), encoding="utf-8") as file:
        (folder / "mine.yml").write_text(re.search(r"```yaml\n(.*?)```", file.read(), re.DOTALL)[1])
    less = {"make-demo-data": ["--train", 10, "--val", 4], "train": ["--iters", 2, "--save_interval", 1]}
    for line in document_commands("docs/tutorial.md")[0]:
        python, script, *arguments = line.split()
        if python == "python" and names[script] != "serve":  # which does not end
            psp(names[script], *arguments, *less.get(names[script], []))
    assert len(list((folder / "output" / "mine" / "maps").rglob("*.png"))) == 4


def test_every_command_has_its_help(capsys, monkeypatch):
    from paddleseg_psp.commands import main as program

    for name in COMMANDS:
        if name == "doctor":
            continue  # it takes no arguments
        with pytest.raises(SystemExit) as ended:
            program.main([name, "--help"])
        assert ended.value.code in (0, None), name
        assert f"usage: paddleseg-psp {name}" in capsys.readouterr().out
    program.main(["--help"])
    told = capsys.readouterr().out
    assert all(f"  {name} " in told for name in COMMANDS)
    with pytest.raises(SystemExit, match="did you mean predict"):
        program.main(["predcit"])
