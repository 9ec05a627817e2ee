import os
import sys

import numpy as np
import pytest
from PIL import Image

from paddleseg_psp.data.reading.images import find_images
from test_tipc import tipc
from tests.helpers import ROOT, run_python

PSANET = os.path.join(ROOT, "test_tipc/configs/psanet/train_infer_python.txt")
MODE = "lite_train_lite_infer"


@pytest.mark.parametrize("model", ["psanet", "pspnet"])
def test_files_of_the_project(model):
    file = tipc.TipcFile(PSANET.replace("psanet", model), MODE)
    assert file.model == model
    assert int(file.alternatives(7)[0]) > 0
    assert file.alternatives(42) == ["True", "False"]
    assert os.path.isfile(os.path.join(ROOT, file.command(16)[3]))
    for line, start in ((24, "val.py"), (30, "export.py"), (40, "deploy/python/infer.py"), (16, "train.py")):
        assert file.value(line).startswith(start)


def write(tmp_path, lines):
    path = tmp_path / "file.txt"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_values_by_line_and_mode(tmp_path):
    lines = [
        "header:",
        "model_name:a",
        "python:python",
        "gpu_list:-1|0,1",
        f"--iters:{MODE}=5|whole_infer=7",
        "--x:null",
        "--y:b:ignored",
        "command:train.py --opts a=1",
    ]
    file = tipc.TipcFile(write(tmp_path, lines), MODE)
    assert file.alternatives(4) == ["-1", "0,1"]
    assert file.argument(5) == ["--iters=5"]
    assert file.argument(6) == []
    assert file.argument(7) == ["--y=b"]
    assert file.command(8) == [sys.executable, "train.py", "--opts", "a=1"]
    assert file.devices() == [("-1", "5"), ("0,1", "5")]
    other = tipc.TipcFile(write(tmp_path, lines), "lite_train_whole_infer")
    assert other.argument(5) == []


def test_wrong_files_and_modes(tmp_path):
    with pytest.raises(tipc.TipcError, match="the modes are lite_train_lite_infer"):
        tipc.TipcFile(PSANET, "lite")
    with pytest.raises(tipc.TipcError, match="gone.txt cannot be read"):
        tipc.TipcFile("gone.txt", MODE)
    with pytest.raises(tipc.TipcError, match=r"file.txt:3: expected 'key:value'"):
        tipc.TipcFile(write(tmp_path, ["a:", "model_name:a", "python"]), MODE).value(3)


def test_a_training_that_was_cut_off_is_resumed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []

    def run(runner, name, command, log):
        seen.append(command)
        os.makedirs(tmp_path / "out" / "run" / "iter_2", exist_ok=True)
        if len(seen) == 1:
            raise KeyboardInterrupt
        (tmp_path / log).write_text("")
        return tipc.Step(name, command, 1.0, True, log)

    monkeypatch.setattr(tipc.Runner, "_run_now", run)
    folder = os.path.join("out", "run")
    with pytest.raises(KeyboardInterrupt):
        tipc.Chain(tipc.TipcFile(PSANET, MODE), "out")._train(["train.py", "--iters=4"], folder, "log")
    tipc.Chain(tipc.TipcFile(PSANET, MODE), "out")._train(["train.py", "--iters=4"], folder, "log")
    assert seen[1] == ["train.py", "--iters=4", "--resume_model", "auto"] and os.path.isdir(folder)
    tipc.Chain(tipc.TipcFile(PSANET, MODE), "out")._train(["train.py", "--iters=4"], folder, "log")
    assert len(seen) == 2 and os.path.isdir(folder)  # it succeeded, however often the chain is repeated
    tipc.Chain(tipc.TipcFile(PSANET, MODE), "out")._train(["train.py", "--iters=9"], folder, "log")
    assert seen[2] == ["train.py", "--iters=9"] and not os.path.isdir(os.path.join(folder, "iter_1"))


def matrix(tmp_path, **changed):
    with open(PSANET) as file:
        lines = file.read().splitlines()
    for number, text in changed.items():
        lines[int(number[5:]) - 1] = text
    return tipc.Chain(tipc.TipcFile(write(tmp_path, lines), MODE), str(tmp_path / "out")).matrix()


def test_combinations_of_inference_are_those_that_make_sense(tmp_path):
    chosen = matrix(
        tmp_path, line_41="--device:cpu|gpu", line_42="--enable_mkldnn:True|False", line_43="--cpu_threads:1|2",
        line_44="--batch_size:1", line_45="--use_trt:True|False", line_46="--precision:fp32|fp16",
    )  # fmt: skip
    cpu = [(onednn, threads, precision) for device, onednn, threads, _, _, precision in chosen if device == "cpu"]
    assert cpu == [
        ("True", "1", "fp32"),
        ("True", "1", "fp16"),
        ("True", "2", "fp32"),
        ("True", "2", "fp16"),
        ("False", "1", "fp32"),
        ("False", "2", "fp32"),
    ]
    gpu = [(tensorrt, precision) for device, _, _, _, tensorrt, precision in chosen if device == "gpu"]
    assert gpu == [("True", "fp32"), ("True", "fp16"), ("False", "fp32")]


def test_entry_points_of_paddleseg_below_tools_are_those_of_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    file = tipc.TipcFile(write(tmp_path, ["h:", "model_name:a", "python:python3", "eval:tools/val.py --config a.yml"]), MODE)
    assert file.command(4)[1:] == ["val.py", "--config", "a.yml"]
    assert file.command(4)[0] == sys.executable
    file = tipc.TipcFile(write(tmp_path, ["h:", "model_name:a", "python:/opt/python", "x:tools/check_data.py"]), MODE)
    assert file.command(4)[0] == "/opt/python"
    assert file.command(4)[1:] == ["tools/check_data.py"]


CANNOT_RUN = {
    "no training": (MODE, 16, "norm_train:null", "16: there is no command for 'norm_train'"),
    "no export": ("whole_infer", 38, "infer_export:null", "38: there is no command for 'infer_export'"),
    "comparison without evaluation": (MODE, 24, "eval:null", "24: there is no command for 'eval'"),
    "pruning": (MODE, 15, "trainer:norm|fpgm", "15: the trainer must be norm_train, not 'norm|fpgm'"),
    "quantization": ("whole_infer", 39, "infer_quant:True", "39: infer_quant must be False"),
    "no interpreter": (MODE, 3, "python:/nowhere/python", "3: there is no interpreter /nowhere/python"),
    "devices that do not pair": (MODE, 5, "--device:cpu|gpu", "5: expected one value, or one for each of the 1 of line 4"),
    "no benchmark": ("benchmark_train", 53, "##", "needs lines below a header train_benchmark_params"),
}


@pytest.mark.parametrize("case", CANNOT_RUN)
def test_what_cannot_run_is_found_before_anything_runs(tmp_path, case):
    mode, number, text, message = CANNOT_RUN[case]
    with open(PSANET) as file:
        lines = file.read().splitlines()
    lines[number - 1] = text
    process = run_python(["test_tipc/tipc.py", "test", write(tmp_path, lines), mode])
    assert process.returncode == 1 and process.stdout == "" and "Traceback" not in process.stderr
    assert process.stderr.startswith("Error: ") and message in process.stderr


def test_killed_step_fails(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = tipc.Runner("model", "out")
    step = runner.run("train", [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], "log")
    assert not step.succeeded and "FAILED" in runner.table()


def test_prepare_links_the_real_data(tmp_path, tiny_data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CITYSCAPES_ROOT", str(tiny_data))
    monkeypatch.setattr(tipc, "LITE_IMAGES", 2)
    for _ in range(2):  # repeated, it does the same
        assert tipc.prepare(tipc.TipcFile(PSANET, MODE))
        found = [name for _, _, names in os.walk(tipc.DATA) for name in names if name.endswith(".png")]
        assert len(found) == 8  # two images and two labels of each split
        assert sum(name.endswith("_gtFine_labelTrainIds.png") for name in found) == 4
    assert tipc.prepare(tipc.TipcFile(PSANET, "whole_train_whole_infer"))
    for folder in ("leftImg8bit", "gtFine"):
        assert os.path.samefile(os.path.join(tipc.DATA, folder), tiny_data / folder)
    images, root = find_images(tipc.LISTED)
    assert len(images) == 3 and root == tipc.DATA
    assert len(list(tiny_data.glob("leftImg8bit/train/*/*.png"))) == 6


def test_prepare_refuses_what_it_did_not_make(tmp_path, tiny_data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CITYSCAPES_ROOT", str(tiny_data))
    os.makedirs(tipc.DATA)
    open(os.path.join(tipc.DATA, "mine"), "w").close()
    with pytest.raises(tipc.TipcError, match="mine is a file that this script did not make"):
        tipc.prepare(tipc.TipcFile(PSANET, MODE))
    monkeypatch.setenv("CITYSCAPES_ROOT", str(tmp_path / "gone"))
    with pytest.raises(tipc.TipcError, match="has no folder leftImg8bit"):
        tipc.prepare(tipc.TipcFile(PSANET, MODE))


@pytest.fixture
def compared(tmp_path):
    """Returns a function that compares two maps, half of whose pixels are right, with recorded metrics."""
    label = np.zeros((10, 10), np.uint8)
    label[5:] = 1
    pred = np.zeros((10, 10), np.uint8)
    for folder, name, values in (("gt", "a_gtFine_labelTrainIds.png", label), ("pred", "a_leftImg8bit.png", pred)):
        (tmp_path / folder / "city").mkdir(parents=True)
        Image.fromarray(values).save(tmp_path / folder / "city" / name)

    def run(text, *more):
        (tmp_path / "log").write_text(text)
        files = [f"--metric_file={tmp_path / 'log'}", f"--predict_dir={tmp_path / 'pred'}", f"--gt_dir={tmp_path / 'gt'}"]
        return run_python(["test_tipc/compare_results.py", *files, "--num_classes=2", *more])

    return run


def test_comparison_of_metrics(compared):
    """Half of the pixels are right: Acc 0.5, IoU 0.5 and 0, mIoU 0.25."""
    line = "[EVAL] #Images: 1 mIoU: {} Acc: {} Kappa: 0 Dice: 0.3\n[EVAL] mAcc: 0.9\n"
    assert compared("mIoU: 0.9 Acc: 0.9\n" + line.format(0.25, 0.5)).returncode == 0  # the last ones count
    process = compared(line.format(0.26, 0.5))
    assert process.returncode == 1 and "Error: mIoU differ" in process.stderr
    assert compared(line.format(0.26, 0.5), "--atol=0.02").returncode == 0
    assert compared(line.format("nan", 0.5)).returncode == 1
    assert compared("nothing").returncode == 1
