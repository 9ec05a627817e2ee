"""The four commands as users call them: what they print, write and return."""

import contextlib
import fcntl
import os
import pty
import re
import resource
import shlex
import shutil
import struct
import subprocess
import sys
import termios
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from paddleseg_psp.commands import arguments, export, predict, train, val
from tests.helpers import ROOT, checkpoint_arrays, run_python

MAINS = {"train": train.main, "val": val.main, "predict": predict.main, "export": export.main}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Commands run in an empty folder, so that a test sees whatever they leave behind."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def fails(capsys):
    """Returns a function that runs a command which must fail, and returns the one line it says."""

    def run(command, *args):
        with pytest.raises(SystemExit) as caught:
            MAINS[command]([*map(str, args), "--device", "cpu"])
        assert caught.value.code == 1
        lines = capsys.readouterr().err.strip().splitlines()
        assert lines[-1].startswith("Error: ") and "Traceback" not in "\n".join(lines)
        return lines[-1]

    return run


def test_train_val_predict_export(trained, tmp_path, tiny_data, capsys):
    config, weights, training = trained
    val.main(["--config", config, "--model_path", weights, "--device", "cpu"])
    evaluation = capsys.readouterr().out
    metrics = re.compile(r"\[EVAL\] #Images: 3 mIoU: ([\d.]+) Acc: ([\d.]+) Kappa: (-?[\d.]+) Dice: ([\d.]+)")
    assert metrics.search(training).groups() == metrics.search(evaluation).groups()
    for words in ("mAcc: ", "Class IoU", "Class Precision", "Class Recall", "occur nowhere and are left out"):
        assert words in evaluation
    images = tiny_data / "leftImg8bit" / "val"
    predict.main(
        ["--config", config, "--model_path", weights, "--image_path", str(images), "--save_dir", "result", "--device", "cpu"]
        + ["--save_ids"]
    )
    kinds = ("added_prediction", "pseudo_color_prediction", "class_ids")
    for kind in kinds:
        assert sum(len(files) for _, _, files in os.walk(os.path.join("result", kind))) == 3
    assert cv2.imread("result/legend.png").std() > 0
    for path in Path("result/class_ids").rglob("*.png"):  # palette and grey PNG say the same
        assert Image.open(path).mode == "L"
        np.testing.assert_array_equal(Image.open(path), Image.open(str(path).replace(kinds[2], kinds[1])))
    export.main(["--config", config, "--model_path", weights, "--save_dir", "inference"])
    assert set(os.listdir("inference")) == {"model.json", "model.pdiparams", "deploy.yaml", "MODEL_CARD.md"}
    assert capsys.readouterr().out.count("of the pixels have the network's class") == 2


def test_fixed_input_shape(trained):
    config, weights, _ = trained
    export.main(["--config", config, "--model_path", weights, "--save_dir", "out", "--input_shape", "1", "3", "48", "64"])
    with open("out/deploy.yaml") as file:
        assert yaml.safe_load(file)["Deploy"]["input_shape"] == [1, 3, 48, 64]


def test_sliding_window_and_augmented_evaluation(trained, capsys):
    config, weights, _ = trained
    base = ["--config", config, "--model_path", weights, "--device", "cpu"]
    val.main([*base, "--is_slide", "--crop_size", "32", "32", "--stride", "24", "24"])
    val.main([*base, "--aug_eval", "--scales", "0.75", "1.0", "--flip_horizontal"])
    assert capsys.readouterr().out.count("[EVAL] #Images: 3 mIoU") == 2


def test_gpu_falls_back_to_the_cpu_with_one_line(trained, capsys):
    config, weights, _ = trained
    val.main(["--config", config, "--model_path", weights, "--device", "gpu"])
    assert capsys.readouterr().out.count("No GPU") == 1


def test_seeded_training_repeats(write_config, tmp_path):
    path = write_config("PSANet")
    for name in ("first", "second"):
        train.main(["--config", path, "--iters", "2", "--seed", "3", "--save_dir", str(tmp_path / name), "--device", "cpu"])
    from paddleseg_psp.models.weights import read_weights

    first, second = (read_weights(str(tmp_path / name / "iter_2" / "model.pdparams")) for name in ("first", "second"))
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


def test_a_bar_on_a_terminal(write_config, tmp_path):
    """Below log lines that stay whole."""
    command = [
        sys.executable,
        "train.py",
        "--config",
        write_config(iters=6),
        "--save_dir",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]
    terminal, other_end = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))  # lines and columns
    process = subprocess.Popen([*command, "--log_iters", "3"], cwd=ROOT, stdout=other_end, stderr=subprocess.DEVNULL)
    os.close(other_end)
    output = ""
    with open(terminal, errors="replace", newline="") as file, contextlib.suppress(OSError):  # EIO when the other end is closed
        for line in file:
            output += line
    assert process.wait() == 0
    assert re.search(r"[1-6]/6 \[\d\d:\d\d<[\d:?]+, +[\d.?]+(it/s|s/it)\]", output)
    assert len(re.findall(r"\[INFO\]\t\[TRAIN\] epoch: \d, iter: [36]/6, .* \| ETA [\d:]+\r?\n", output)) == 2


def test_flags_are_those_of_paddleseg():
    """With the abbreviation that PSANet_paddle documents."""
    parsed = arguments.parser("", "log_iters", "save_interval").parse_args(["--log_iter", "100"])
    assert parsed.log_iters == 100 and parsed.save_interval == 1000


# What users get wrong.


def test_missing_configuration(fails):
    assert "--config: there is no file gone.yml" in fails("train", "--config", "gone.yml")
    assert "--config is missing" in fails("train")


def test_unknown_component(fails, write_config):
    line = fails("train", "--config", write_config(), "--opts", "model.type=PSPNett")
    assert "config.yml: model.type: there is no component 'PSPNett'; did you mean PSPNet" in line


def test_misspelt_keys(fails, write_config):
    path = write_config()
    assert "model.dropuot: PSPNet has no such argument; did you mean dropout?" in fails(
        "train", "--config", path, "--opts", "model.dropuot=0.1"
    )
    assert "loss_: unknown key; did you mean loss?" in fails("train", "--config", path, "--opts", "loss_=1")
    assert "train_dataset.dataset_rot: Cityscapes has no such argument" in fails(
        "train", "--config", path, "--opts", "train_dataset.dataset_rot=x"
    )


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--save_interval", "0"], "--save_interval 0: expected at least 1"),
        (["--log_iters", "-1"], "--log_iters -1: expected at least 1"),
        (["--num_workers", "-1"], "--num_workers -1: expected at least 0"),
        (["--seed", "-1"], "--seed -1: expected at least 0"),
        (["--early_stop_intervals", "2"], "--early_stop_intervals needs --do_eval"),
        (["--ema_decay", "1"], "--ema_decay 1.0: expected a number between 0 and 1"),
        (["--accumulate", "0"], "config.yml: accumulate: expected a whole number above 0, found 0"),
        (["--amp_level", "O2", "--precision", "bf16"], "--amp_level O2 needs a GPU"),
        (["--resume_model", "gone"], "--resume_model gone: there is no such folder"),
        (["--opts", "freeze_batch_norm=head"], "freeze_batch_norm: expected backbone, all or null, found 'head'"),
    ],
)
def test_training_flags_that_make_no_sense(fails, write_config, tmp_path, flags, words):
    assert words in fails("train", "--config", write_config(), "--save_dir", tmp_path / "out", *flags)


def test_a_seed_is_chosen_and_told(write_config, tmp_path, capsys):
    """And repeats the run."""
    path = write_config(iters=1)
    train.main(["--config", path, "--save_dir", "first", "--device", "cpu"])
    seed = re.search(r"--seed (\d+)", capsys.readouterr().out)[1]
    train.main(["--config", path, "--save_dir", "second", "--device", "cpu", "--seed", seed])
    contents = [checkpoint_arrays(os.path.join(name, "iter_1"))[0] for name in ("first", "second")]
    assert contents[0] == contents[1]


def test_missing_data(fails, write_config, tmp_path):
    line = fails("train", "--config", write_config(data=tmp_path / "nowhere"), "--save_dir", tmp_path / "out")
    assert "there is no folder" in line and "nowhere" in line
    assert not (tmp_path / "out").exists()


@pytest.fixture
def spoilt(tiny_data, tmp_path, write_config):
    """Returns a function that spoils the label or image of one training sample, and the configuration for such data."""
    data = shutil.copytree(tiny_data, tmp_path / "spoilt")
    images = sorted((data / "leftImg8bit" / "train").glob("*/*.png"))
    labels = sorted((data / "gtFine" / "train").glob("*/*_labelTrainIds.png"))
    return images, labels, write_config(data=data)


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_data_names_the_file(fails, spoilt, workers):
    images, labels, config = spoilt
    for label in labels:
        cv2.imwrite(str(label), np.full((48, 64), 33, np.uint8))
    line = fails("train", "--config", config, "--num_workers", workers)
    assert line.startswith("Error: the label ") and "_gtFine_labelTrainIds.png has the values 33 on 3072 pixels" in line
    for label in labels:
        cv2.imwrite(str(label), np.zeros((24, 64), np.uint8))
    assert "is 64x24 but its image" in fails("train", "--config", config, "--num_workers", workers)
    for image in images:
        image.write_bytes(image.read_bytes()[:100])
    assert "cannot be read: it is damaged (truncated)" in fails("train", "--config", config, "--num_workers", workers)
    os.remove(labels[0])
    assert "1 of 6 images have no label" in fails("train", "--config", config)


def test_weights_of_another_network(fails, trained, write_config):
    _, weights, _ = trained
    for command in ("val", "export"):
        line = fails(command, "--config", write_config("PSANet"), "--model_path", weights)
        assert "does not fit this PSANet" in line and "are missing" in line
    assert not os.path.exists("output")


@pytest.mark.parametrize("command", ["val", "predict", "export"])
def test_model_path_is_needed(fails, write_config, tiny_data, command):
    more = ["--image_path", tiny_data / "leftImg8bit"] if command == "predict" else []
    assert "--model_path is missing" in fails(command, "--config", write_config(), *more)


def test_damaged_weights(fails, write_config, tmp_path):
    (tmp_path / "model.pdparams").write_bytes(b"no weights")
    assert "is no complete .pdparams file" in fails(
        "val", "--config", write_config(), "--model_path", tmp_path / "model.pdparams"
    )
    assert "there is no file" in fails("val", "--config", write_config(), "--model_path", tmp_path / "gone.pdparams")


@pytest.mark.parametrize("folder", ["file", "file/below", "/proc/nothing"])
def test_folders_that_cannot_be_written(fails, trained, write_config, tmp_path, folder):
    config, weights, _ = trained
    (tmp_path / "file").write_text("kept")
    folder = os.path.join(tmp_path, folder)
    assert "--save_dir" in fails("train", "--config", config, "--save_dir", folder)
    assert "--save_dir" in fails("export", "--config", config, "--model_path", weights, "--save_dir", folder)
    images = yaml.safe_load(open(config))["val_dataset"]["dataset_root"]
    assert "--save_dir" in fails(
        "predict", "--config", config, "--model_path", weights, "--image_path", images, "--save_dir", folder
    )
    assert (tmp_path / "file").read_text() == "kept"


def test_even_mask(fails, write_config):
    line = fails("train", "--config", write_config("PSANet"), "--opts", "model.mask_h=4", "model.mask_w=5")
    assert "model: PSANet could not be built: mask_h and mask_w must be odd" in line


def test_images_that_are_not_there(fails, trained, tmp_path):
    config, weights, _ = trained
    assert "--image_path is missing" in fails("predict", "--config", config, "--model_path", weights)
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "gone", tmp_path / "empty"):
        assert "--image_path" in fails("predict", "--config", config, "--model_path", weights, "--image_path", path)


def test_damaged_image(fails, trained, tmp_path):
    config, weights, _ = trained
    (tmp_path / "image.png").write_bytes(b"no image")
    line = fails("predict", "--config", config, "--model_path", weights, "--image_path", tmp_path / "image.png")
    assert "image.png cannot be read" in line


def test_a_disk_that_takes_no_more(trained, tiny_data, tmp_path):
    """A process that may write files of 500 bytes stands for a full disk, where OpenCV says no more than False."""
    config, weights, _ = trained
    command = ["predict.py", "--config", config, "--model_path", weights, "--device", "cpu", "--save_dir", tmp_path / "out"]
    process = run_python(
        [*command, "--image_path", tiny_data / "leftImg8bit" / "val"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500)),
    )
    last = process.stderr.strip().splitlines()[-1]
    assert process.returncode == 1 and re.fullmatch(r"Error: .*/out/added_prediction/\S+\.png: File too large", last)
    assert not [name for _, _, names in os.walk(tmp_path / "out") for name in names]


@pytest.mark.parametrize("flags", [["--is_slide"], ["--is_slide", "--crop_size", "8", "8", "--stride", "9", "8"]])
def test_incomplete_windows(fails, trained, flags):
    config, weights, _ = trained
    assert "--stride" in fails("val", "--config", config, "--model_path", weights, *flags)


def test_wrong_input_shape(fails, trained):
    config, weights, _ = trained
    line = fails("export", "--config", config, "--model_path", weights, "--input_shape", "1", "3", "48")
    assert "--input_shape takes N C H W" in line


def test_debug_shows_the_traceback(write_config, tmp_path):
    process = run_python(["train.py", "--config", write_config(data=tmp_path / "nowhere"), "--device", "cpu"])
    assert process.returncode == 1 and "Traceback" not in process.stderr
    assert process.stderr.strip().splitlines()[-1].startswith("Error: ")
    process = run_python(["train.py", "--config", write_config(data=tmp_path / "nowhere"), "--device", "cpu", "--debug"])
    assert process.returncode == 1 and "Traceback" in process.stderr


@pytest.mark.parametrize("script", ["train.py", "val.py", "predict.py", "export.py", "deploy/python/infer.py"])
def test_entry_points_explain_themselves(script):
    process = run_python([script, "--help"])
    assert process.returncode == 0 and "--config" in process.stdout
    with open(os.path.join(ROOT, script)) as file:
        assert script.startswith("deploy") or len(file.readlines()) < 40


def test_infer_script(trained, tiny_data, tmp_path):
    config, weights, _ = trained
    export.main(["--config", config, "--model_path", weights, "--save_dir", str(tmp_path / "bundle")])
    predict.main(
        ["--config", config, "--model_path", weights, "--image_path", str(tiny_data / "leftImg8bit" / "val"), "--save_dir"]
        + [str(tmp_path / "expected"), "--device", "cpu"]
    )
    images, log = tiny_data / "leftImg8bit" / "val", tmp_path / "log.txt"
    for onednn in ("True", "False"):
        process = run_python(
            ["deploy/python/infer.py", f"--config={tmp_path / 'bundle' / 'deploy.yaml'}", f"--image_path={images}"]
            + [f"--save_dir={tmp_path / onednn}", f"--enable_mkldnn={onednn}", "--batch_size=2", "--benchmark=True"]
            + [f"--save_log_path={log}", "--model_name=pspnet"]
        )
        assert process.returncode == 0, process.stderr
        assert re.search(r"pspnet, paddle:\n(.*\n){5}[\d.]+ images/s, batch 2", process.stdout)
        for expected in (tmp_path / "expected" / "pseudo_color_prediction").glob("*/*.png"):
            actual = tmp_path / onednn / expected.parent.name / expected.name
            same = cv2.imread(str(actual), cv2.IMREAD_UNCHANGED) == cv2.imread(str(expected), cv2.IMREAD_UNCHANGED)
            assert same.mean() >= 0.9999
    assert len(log.read_text().splitlines()) == 2 * 7


def test_images_of_all_shapes_and_names(trained, tmp_path):
    """predict.py and infer.py, whose results must be the same: names of 250 bytes and not of UTF-8, strips, links, arrays."""
    config, weights, _ = trained
    random, folder = np.random.RandomState(0), os.fsencode(tmp_path / "in")
    files = {b"wide.png": (20, 20000), b"high.PNG": (3000, 3), b"pixel.bmp": (1, 1), b"caf\xe9.png": (48, 64)}
    files.update({b"x" * 246 + b".png": (48, 64), b"link/arrays.tif": (48, 64)})
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    for name, (height, width) in files.items():
        with open(os.path.join(folder, name), "wb") as file:
            file.write(cv2.imencode(os.fsdecode(name[-4:]), random.randint(0, 256, (height, width, 3), dtype=np.uint8))[1])
    images = ["--image_path", str(tmp_path / "in")]
    predict.main(["--config", config, "--model_path", weights, "--device", "cpu", *images, "--save_dir", str(tmp_path / "out")])
    export.main(["--config", config, "--model_path", weights, "--save_dir", str(tmp_path / "bundle")])
    bundle, maps = tmp_path / "bundle" / "deploy.yaml", tmp_path / "in" / "maps"
    for _ in range(2):  # the second time, results are among the images
        process = run_python(["deploy/python/infer.py", "--config", bundle, *images, "--save_dir", maps])
        assert process.returncode == 0 and f"{len(files)} class maps are in" in process.stdout, process.stderr
    for name, size in files.items():
        stem = os.path.splitext(name)[0] + b".png"
        with open(os.path.join(os.fsencode(tmp_path / "out" / "pseudo_color_prediction"), stem), "rb") as file:
            expected = np.asarray(Image.open(file))
        with open(os.path.join(os.fsencode(maps), stem), "rb") as file:
            assert expected.shape == size and np.mean(np.asarray(Image.open(file)) == expected) > 0.999


@pytest.mark.parametrize(
    "flags, words",
    [(["--use_trt=True"], "--use_trt False"), (["--precision=int8"], "int8 in onnxruntime"), ([], "deploy.yaml")],
)
def test_infer_script_fails_honestly(tiny_data, tmp_path, flags, words):
    command = [
        "deploy/python/infer.py",
        f"--config={tmp_path / 'gone.yaml'}",
        f"--image_path={tiny_data / 'leftImg8bit' / 'val'}",
    ]
    process = run_python([*command, f"--save_dir={tmp_path / 'out'}", *flags])
    assert process.returncode == 1
    assert words in process.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


REFERENCE = r"configs\psanet\psanet_resnet50_os8_cityscapes_1024x512_80k.yml"


@pytest.mark.slow
@pytest.mark.parametrize("quoted", [True, False])
def test_documented_commands_of_psanet_paddle(tiny_data, tmp_path, quoted):
    """As its README writes them, in a shell; the overrides only make the run short and leave out the download."""
    config = f"'{REFERENCE}'" if quoted else REFERENCE
    data = [f"{part}_dataset.dataset_root={tiny_data}" for part in ("train", "val")]
    short = ["train_dataset.transforms.1.crop_size=[64,48]", "model.backbone.pretrained=null", "iters=1", "batch_size=2"]
    train_command = (
        f"python train.py --config {config}  --do_eval --use_vdl --log_iter 100 --save_interval 4000 "
        f"--save_dir {tmp_path}/output --opts {shlex.join([*data, *short])}"
    )
    val_command = (
        f"python val.py --config {config} --model_path {tmp_path}/output/best_model/model.pdparams --opts {shlex.join(data)}"
    )
    environment = {**os.environ, "PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"]}
    for command in (train_command, val_command):
        process = subprocess.run(["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        assert "[EVAL] #Images: 3 mIoU: " in process.stdout
