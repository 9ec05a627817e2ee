import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tipc
import yaml
from conftest import tiny_config
from helpers import ROOT, run_python
from PIL import Image

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
    other = tipc.TipcFile(write(tmp_path, lines), "lite_train_whole_infer")
    assert other.argument(5) == []


def test_wrong_files_and_modes(tmp_path):
    with pytest.raises(tipc.TipcError, match="the modes are lite_train_lite_infer"):
        tipc.TipcFile(PSANET, "lite")
    with pytest.raises(tipc.TipcError, match="gone.txt cannot be read"):
        tipc.TipcFile("gone.txt", MODE)
    with pytest.raises(tipc.TipcError, match=r"file.txt:3: expected 'key:value'"):
        tipc.TipcFile(write(tmp_path, ["a:", "model_name:a", "python"]), MODE).value(3)


def chain_file(tmp_path, tiny_data, model, **replaced):
    """Writes the project's file for a tiny network and data; `replaced` has further texts by line, as line_16."""
    config = tmp_path / "config.yml"
    config.write_text(yaml.safe_dump(tiny_config(tiny_data, {"psanet": "PSANet", "pspnet": "PSPNet"}[model]), sort_keys=False))
    with open(PSANET.replace("psanet", model)) as file:
        lines = file.read().splitlines()[:52]
    name = f"test-{model}-{os.path.basename(tmp_path)}-{os.getpid()}"  # tests run in several processes
    lines[1], lines[6] = f"model_name:{name}", f"--iters:{MODE}=2"
    for number in (16, 24, 25, 30, 38, 48):
        lines[number - 1] = re.sub(r" --opts .*", "", lines[number - 1])
        lines[number - 1] = re.sub(r"configs/\S+\.yml", str(config), lines[number - 1])
        lines[number - 1] = lines[number - 1].replace("test_tipc/data/cityscapes", str(tiny_data))
    for line, text in replaced.items():
        lines[int(line[5:]) - 1] = text
    return write(tmp_path, lines), os.path.join(ROOT, "test_tipc/output", name)


@pytest.fixture
def run_chain(tmp_path, tiny_data):
    """Returns a function that runs a chain as the documented command does, and gives the process and its output folder."""
    outputs = []

    def run(model="pspnet", mode=MODE, **replaced):
        path, output = chain_file(tmp_path, tiny_data, model, **replaced)
        outputs.append(output)
        command = ["bash", "test_tipc/test_train_inference_python.sh", path, mode]
        environment = {**os.environ, "PYTHON": sys.executable}
        process = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return process, os.path.join(output, mode)

    yield run
    for output in outputs:
        shutil.rmtree(output, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["psanet", "pspnet"])
def test_whole_chain(run_chain, model):
    process, output = run_chain(model)
    assert process.returncode == 0, process.stdout
    with open(os.path.join(output, "results_python.log")) as file:
        status = file.read().splitlines()
    assert len(status) == 7  # train, evaluate, export, and twice infer and compare
    assert all(re.fullmatch(r" Run successfully with command - \S+ - .+ - \S+\.log ", line) for line in status)
    files = set(os.listdir(output))
    for onednn in ("True", "False"):
        name = f"python_infer_cpu_usemkldnn_{onednn}_threads_2_precision_fp32_batchsize_1"
        assert {f"{name}.log", f"{name}_results"} <= files
    training = os.path.join(output, "norm_train_gpus_-1_autocast_null")
    assert {"best_model", "model.json", "model.pdiparams", "deploy.yaml"} <= set(os.listdir(training))


FAILURES = {
    "training": ("line_16", "norm_train:train.py --config gone.yml", 1),
    "evaluation": ("line_24", "eval:val.py --config gone.yml", 2),
    "export": ("line_30", "norm_export:export.py --config gone.yml", 3),
    "inference": ("line_40", "inference:deploy/python/infer.py --backend gone", 5),
    "comparison": ("line_25", "compare:test_tipc/compare_results.py --gt_dir /gone --num_classes 19", 7),
}


@pytest.mark.slow
@pytest.mark.parametrize("step", FAILURES)
def test_a_failed_step_fails_the_chain(run_chain, step):
    line, text, steps = FAILURES[step]
    process, output = run_chain(**{line: text})
    assert process.returncode != 0
    assert process.stdout.strip().splitlines()[-1] == "Error: a step failed; its log is in the table above"
    with open(os.path.join(output, "results_python.log")) as file:
        status = file.read().splitlines()
    assert len(status) == steps and "Run failed with command" in status[-1]
    assert re.search(r"FAILED +test_tipc/output", process.stdout)


@pytest.mark.slow
def test_a_repeated_chain_goes_on_where_it_failed(run_chain):
    process, output = run_chain(line_40="inference:deploy/python/infer.py --backend gone")
    assert process.returncode != 0
    weights = os.path.join(output, "norm_train_gpus_-1_autocast_null", "best_model", "model.pdparams")
    trained_at = os.stat(weights).st_mtime_ns
    process, _ = run_chain()  # mended, and repeated
    assert process.returncode == 0, process.stdout
    assert re.findall(r"(?m)^(\w+) +[\d.]+ +earlier ", process.stdout) == ["train", "evaluate", "export"]
    assert os.stat(weights).st_mtime_ns == trained_at
    assert not os.path.exists(os.path.join(output, "unfinished.json"))  # the next run starts afresh


def test_a_training_that_was_cut_off_is_resumed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []

    def run(chain, name, command, log):
        seen.append(command)
        os.makedirs(tmp_path / "out" / "run" / "iter_2", exist_ok=True)
        if len(seen) == 1:
            raise KeyboardInterrupt
        (tmp_path / log).write_text("")
        return tipc.Step(name, command, 1.0, True, log)

    monkeypatch.setattr(tipc.Chain, "_run_now", run)
    folder = os.path.join("out", "run")
    with pytest.raises(KeyboardInterrupt):
        tipc.Chain(tipc.TipcFile(PSANET, MODE), "out")._train(["train.py", "--iters=4"], folder, "log")
    tipc.Chain(tipc.TipcFile(PSANET, MODE), "out")._train(["train.py", "--iters=4"], folder, "log")
    assert seen[1] == ["train.py", "--iters=4", "--resume_model", "auto"] and os.path.isdir(folder)
    tipc.Chain(tipc.TipcFile(PSANET, MODE), "out")._train(["train.py", "--iters=9"], folder, "log")
    assert seen[2] == ["train.py", "--iters=9"] and not os.path.isdir(os.path.join(folder, "iter_1"))


INFERENCE_STEPS = {
    "whole_infer": ["evaluate", "export", "infer", "compare", "infer", "compare"],
    "paddle2onnx_infer": ["evaluate", "export", "infer", "compare"],
    "serving_infer": ["evaluate", "export", "serve", "compare"],
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", INFERENCE_STEPS)
def test_inference_of_given_weights(run_chain, trained, mode):
    process, output = run_chain(mode=mode, line_37=f"infer_model:{trained[1]}")
    assert process.returncode == 0, process.stdout
    assert re.findall(r"(?m)^(\w+) +[\d.]+ +ok ", process.stdout) == INFERENCE_STEPS[mode]
    process, _ = run_chain(mode=mode, line_37="infer_model:gone.pdparams")
    assert process.returncode == 1 and "evaluate" in process.stdout and "FAILED" in process.stdout


@pytest.mark.slow
def test_two_processes_train_on_the_cpu(run_chain):
    process, output = run_chain(line_4="gpu_list:-1,-1")
    assert process.returncode == 0, process.stdout
    assert re.search(r"paddle.distributed.launch --log_dir \S+/launch --nproc_per_node 2 --backend gloo", process.stdout)
    assert not os.path.exists(os.path.join(ROOT, "log")) and "workerlog.0" in os.listdir(os.path.join(output, "launch"))
    assert "norm_train_gpus_-1_-1_autocast_null" in os.listdir(output)


@pytest.mark.slow
def test_benchmark_of_training(run_chain):
    lines = ["====train_benchmark_params====", "batch_size:1|2", "fp_items:fp32", "iters:4"]
    process, output = run_chain(mode="benchmark_train", line_52="--model_name:x\n" + "\n".join(lines))
    assert process.returncode == 0, process.stdout
    with open(os.path.join(output, "benchmark.json")) as file:
        figures = json.load(file)
    assert [figure["batch_size"] for figure in figures] == [1, 2] and all(figure["ips"] > 0 for figure in figures)


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
    file = tipc.TipcFile(write(tmp_path, ["h:", "model_name:a", "python:python3", "x:tools/check_data.py"]), MODE)
    assert file.command(4)[1:] == ["tools/check_data.py"]


def test_benchmarks_need_their_lines(tmp_path):
    with pytest.raises(tipc.TipcError, match="needs lines below a header train_benchmark_params"):
        tipc.TipcFile(write(tmp_path, ["h:", "model_name:a"]), "benchmark_train").benchmark()


def test_killed_step_fails(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chain = tipc.Chain(tipc.TipcFile(PSANET, MODE), "out")
    step = chain.run("train", [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], "log")
    assert not step.succeeded and "FAILED" in chain.table()


def test_prepare_links_the_real_data(tmp_path, tiny_data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CITYSCAPES_ROOT", str(tiny_data))
    monkeypatch.setattr(tipc, "LITE_IMAGES", 2)
    for _ in range(2):  # repeated, it does the same
        assert tipc.prepare(tipc.TipcFile(PSANET, MODE))
        found = [name for _, _, names in os.walk(tipc.DATA) for name in names]
        assert len(found) == 8  # two images and two labels of each split
        assert sum(name.endswith("_gtFine_labelTrainIds.png") for name in found) == 4
    assert tipc.prepare(tipc.TipcFile(PSANET, "whole_train_whole_infer"))
    assert os.path.samefile(tipc.DATA, tiny_data)
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
