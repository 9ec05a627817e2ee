"""Chains that run to their end, by the documented commands."""

import json
import os
import re

import pytest

from tests.helpers import ROOT

pytestmark = pytest.mark.slow


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


def test_two_processes_train_on_the_cpu(run_chain):
    process, output = run_chain(line_4="gpu_list:-1,-1", line_42="--enable_mkldnn:False")
    assert process.returncode == 0, process.stdout
    assert re.search(r"paddle.distributed.launch --log_dir \S+/launch --nproc_per_node 2 --backend gloo", process.stdout)
    assert not os.path.exists(os.path.join(ROOT, "log")) and "workerlog.0" in os.listdir(os.path.join(output, "launch"))
    assert "norm_train_gpus_-1_-1_autocast_null" in os.listdir(output)


def test_several_trainings_have_results_of_their_own(run_chain):
    process, output = run_chain(line_6="--precision:fp32|bf16", line_42="--enable_mkldnn:False")
    assert process.returncode == 0, process.stdout
    results = [name for name in os.listdir(output) if name.endswith("_results")]
    assert len(results) == 2
    assert len(re.findall(r"(?m)^compare +[\d.]+ +ok ", process.stdout)) == 2


def test_a_file_as_paddleseg_writes_them(run_chain, tiny_data):
    """No evaluation, so no comparison; an interpreter of its own; a list of images; lines that are not used."""
    images = sorted(tiny_data.glob("leftImg8bit/val/*/*.png"))
    listed = tiny_data.parent / "val_2.list"
    listed.write_text("".join(f"cityscapes/{image.relative_to(tiny_data)} gtFine/unused.png\n" for image in images[:2]))
    process, output = run_chain(
        line_3="python:python3.7",
        line_5="Global.use_gpu:null",
        line_15="trainer:norm",
        line_24="eval:null",
        line_25="null:null",
        line_41="--device:cpu",
        line_42="--enable_mkldnn:True",
        line_48=f"--image_path:{listed}",
        line_52="--model_name:x\n===train_benchmark_params===\nbatch_size:4\nfp_items:fp32\nepoch:1\nflags:FLAGS_x=1;y=2",
    )
    assert process.returncode == 0, process.stdout
    assert re.findall(r"(?m)^(\w+) +[\d.]+ +ok ", process.stdout) == ["train", "export", "infer"]
    maps = os.path.join(output, "python_infer_cpu_usemkldnn_True_threads_2_precision_fp32_batchsize_1_results")
    assert sum(len(names) for _, _, names in os.walk(maps)) == 2


def test_benchmark_of_training(run_chain):
    lines = ["====train_benchmark_params====", "batch_size:1|2", "fp_items:fp32", "iters:4"]
    process, output = run_chain(mode="benchmark_train", line_52="--model_name:x\n" + "\n".join(lines))
    assert process.returncode == 0, process.stdout
    with open(os.path.join(output, "benchmark.json")) as file:
        figures = json.load(file)
    assert [figure["batch_size"] for figure in figures] == [1, 2] and all(figure["ips"] > 0 for figure in figures)
