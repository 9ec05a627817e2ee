"""Label files from trees that are laid out as the real data sets."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from paddleseg_psp.data import ADE20K, CheckedDataset, Cityscapes, PascalVOC
from paddleseg_psp.data.preparation.labels import make_labels
from paddleseg_psp.errors import UserError
from tests.helpers import ROOT, run_tool
from tests.real_layouts import make_ade, make_cityscapes, make_voc

# The official table, written out: label id, train id.
CITYSCAPES_TABLE = {
    **{i: 255 for i in range(34)},
    **{7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10},
    **{24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18},
}


def snapshot(folder):
    """Returns the content and time of every file below a folder."""
    paths = [os.path.join(root, name) for root, _, names in os.walk(folder) for name in names]
    return {path: (open(path, "rb").read(), os.stat(path).st_mtime_ns) for path in paths}


@pytest.fixture
def tool(capfd):
    """Returns a function that runs a script of tools/data."""
    return lambda name, *arguments: run_tool(f"tools/data/{name}.py", arguments, capfd)


@pytest.fixture
def cityscapes(tmp_path):
    return tmp_path / "city scapes", *make_cityscapes(tmp_path / "city scapes")


def test_cityscapes(cityscapes, tool):
    root, ids, _ = cityscapes
    process = tool("convert_cityscapes", "--cityscapes_path", root, "--num_workers", "2")
    assert process.returncode == 0, process.stderr
    label = CheckedDataset(Cityscapes([], str(root), "train")).read(0)[1]
    np.testing.assert_array_equal(label, np.vectorize(CITYSCAPES_TABLE.get)(ids))
    expected = np.full((40, 60), 10)
    expected[20:] = 0
    expected[10:30, 10:31] = 13  # with the license plate
    expected[35:] = 255
    np.testing.assert_array_equal(CheckedDataset(Cityscapes([], str(root), "val")).read(0)[1], expected)
    before = snapshot(root)
    assert "0 labels written, 2 were there" in tool("convert_cityscapes", "--cityscapes_path", root).stdout
    assert snapshot(root) == before


def test_cityscapes_with_broken_files(cityscapes, tmp_path, tool):
    root, _, polygons = cityscapes
    content = polygons.read_text()
    huge = json.dumps({**json.loads(content), "imgWidth": 10**6, "imgHeight": 10**6})
    for broken in (content[:50], content.replace('"road"', '"raod"'), "[" * 10**6, huge):
        polygons.write_text(broken)
        process = tool("convert_cityscapes", "--cityscapes_path", root)
        last = process.stderr.strip().splitlines()[-1]
        assert process.returncode == 1 and f"1 of 2 labels could not be made: {polygons} cannot be read" in last
    polygons.write_text(content)
    target = root / "gtFine" / "val" / "münster" / "münster_000001_000019_gtFine_labelTrainIds.png"
    for left_over in (b"", b"no picture", (root / "gtFine" / "train" / "aachen").glob("*Ids.png").__next__().read_bytes()[:99]):
        target.write_bytes(left_over)
        assert "1 labels written, 1 were there" in tool("convert_cityscapes", "--cityscapes_path", root).stdout
    process = tool("convert_cityscapes", "--cityscapes_path", tmp_path / "nowhere")
    assert process.returncode == 1 and "unpack gtFine_trainvaltest.zip" in process.stderr.strip().splitlines()[-1]


@pytest.fixture
def voc(tmp_path):
    return tmp_path / "VOCdevkit", *make_voc(tmp_path / "VOCdevkit")


def test_voc_with_sbd(voc, tool):
    devkit, names, labels = voc
    process = tool("voc_aug", devkit, devkit / "VOCaug", "--nproc", "2")
    assert process.returncode == 0, process.stderr
    lists = devkit / "VOC2012" / "ImageSets" / "Segmentation"
    assert (lists / "trainaug.txt").read_text().split() == names[:2] + names[3:]
    assert (lists / "aug.txt").read_text().split() == names[3:]
    for name in names:
        image = Image.open(devkit / "VOC2012" / "SegmentationClassAug" / f"{name}.png")
        assert image.mode == "P" and image.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
        np.testing.assert_array_equal(np.asarray(image), labels.get(("sbd", name), labels.get(("voc", name))))
    dataset = CheckedDataset(PascalVOC([], str(devkit), "trainaug"))
    assert [os.path.basename(image)[:-4] for image, _ in dataset.file_list] == names[:2] + names[3:]
    for index, name in enumerate(names[:2] + names[3:]):
        np.testing.assert_array_equal(dataset.read(index)[1], labels["voc" if index < 2 else "sbd", name])
    assert dataset.training
    sizes = [len(PascalVOC([], str(devkit), mode)) for mode in ("train", "val", "trainval")]
    assert sizes == [2, 1, 3]
    before = snapshot(devkit)
    tool("voc_aug", devkit, devkit / "VOCaug", "--nproc", "2")
    after = snapshot(devkit)
    assert {path: content for path, (content, _) in before.items()} == {path: content for path, (content, _) in after.items()}
    assert all(after[path] == before[path] for path in before if path.endswith(".png"))


def test_voc_that_is_not_whole(voc, tool):
    devkit, names, _ = voc
    os.remove(devkit / "VOCaug" / "dataset" / "cls" / f"{names[4]}.mat")
    process = tool("voc_aug", devkit)
    assert process.returncode == 1
    assert f"1 of the 7 images of trainaug have no label, e.g. {names[4]}.mat" in process.stderr.strip().splitlines()[-1]
    with pytest.raises(UserError, match="aug.txt cannot be read"):
        PascalVOC([], str(devkit), "trainaug")


def test_an_interrupted_preparation_goes_on(voc, tool):
    """Killed at any time, it leaves whole files only, and ends like one that was not killed."""
    devkit, names, labels = voc
    folder = devkit / "VOC2012" / "SegmentationClassAug"
    command = [sys.executable, "tools/data/voc_aug.py", str(devkit), "--nproc", "1"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and not list(folder.glob("2008*")):
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for path in folder.glob("2008*.png"):
        np.testing.assert_array_equal(
            np.asarray(Image.open(path)), labels.get(("sbd", path.stem), labels.get(("voc", path.stem)))
        )
    assert tool("voc_aug", devkit).returncode == 0
    assert {path.stem for path in folder.glob("2008*.png")} == set(names)


@pytest.fixture
def ade(tmp_path):
    return tmp_path / "ADEChallengeData2016", make_ade(tmp_path / "ADEChallengeData2016")


def test_ade20k(ade):
    root, label = ade
    dataset = ADE20K([], str(root))
    classes = CheckedDataset(dataset).read(0)[1]
    np.testing.assert_array_equal(classes, np.where(label == 0, 255, label.astype(int) - 1))
    assert len(set(dataset.CLASS_NAMES)) == len(dataset.PALETTE) == dataset.num_classes == 150
    assert (dataset.CLASS_NAMES[0], dataset.CLASS_NAMES[149], dataset.PALETTE[0]) == ("wall", "flag", (120, 120, 120))
    label[3, 3] = 151
    Image.fromarray(label).save(root / "annotations" / "training" / "ADE_train_00000001.png")
    with pytest.raises(UserError, match="has the values 151 on 1 pixels"):
        CheckedDataset(dataset).read(0)
    with pytest.raises(UserError, match="there is no image"):
        ADE20K([], str(root), "val")


def killed(source):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_is_killed_while_it_makes_labels(tmp_path):
    """As by a .mat that SciPy crashes on, or for want of memory."""
    tasks = [(str(tmp_path / f"{index}.mat"), str(tmp_path / f"{index}.png")) for index in range(3)]
    with pytest.raises(UserError, match=f"a process that made labels was killed, at {tasks[0][0]} or at most 16 files later"):
        make_labels(tasks, killed, range(2), 2)
    assert not os.listdir(tmp_path)
