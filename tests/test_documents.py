"""The commands of the documents, run in their order, as a reader would; with less data, training and smaller networks."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import paddle
import pytest
from PIL import Image

from paddleseg_psp.convert import to_mmsegmentation
from paddleseg_psp.convert.torch_files import write_torch
from paddleseg_psp.models import PSPNet
from paddleseg_psp.models.backbones import ResNet
from tests.helpers import ROOT, document_commands, load_golden, mindspore_checkpoint
from tests.real_layouts import make_ade, make_cityscapes, make_voc

pytestmark = pytest.mark.slow

# Where each document begins: with nothing, or with data and weights, which the README's commands make.
DOCUMENTS = dict.fromkeys(["README.md", "docs/index.md", "docs/gallery.md", "docs/security.md", "docs/tutorial.md"], "")
DOCUMENTS.update(dict.fromkeys(["docs/distributed.md", "docs/model_zoo.md"], "make_demo_data|convert_cityscapes"))
PREPARED = "make_demo_data|train.py.*demo|convert_cityscapes"
DOCUMENTS.update(dict.fromkeys(["docs/training.md", "docs/data.md", "docs/deployment.md", "docs/moving.md"], PREPARED))
LEFT_OUT = {
    r"^make ": "this is what runs the tests",
    r"^pip install |^\. ": "the environment that the tests run in",
    r"--gpus |--nnodes ": "cards, and machines",
    r"…|^python val.py$": "no whole commands",
}
# Less of everything: the first pattern that fits a command, and what is in its place.
SMALL = "--save_dir output/real --iters 1 --save_interval 1 --batch_size 1"
SMALL += " --opts model.backbone.pretrained=null train_dataset.transforms"
LIGHTER = [
    (r"make_demo_data\.py.*", r"\g<0> --train 8 --val 4"),
    (r"train\.py.*mine\.yml.*", r"\g<0> --iters 2 --save_interval 1"),
    (r"train\.py.*_demo\.yml.*", r"\g<0> --iters 2 --save_interval 1"),
    (r"train\.py.*_473x473_.*", rf"\g<0> {SMALL}.4.crop_size=[65,65]"),
    (r"train\.py.*", rf"\g<0> {SMALL}.1.crop_size=[64,64]"),
    (r"iter_200 output/iter_300", "iter_1 output/iter_2"),
    (r"--num_workers 8", "--num_workers 2"),
    (r"--count 1000000", "--count 100"),
]


# What stands for a reader's own things in docs/moving.md.
OWN = [
    (r"CONFIG|configs/…", "configs/psanet/psanet_resnet18_demo.yml"),
    (r"--config …", "--config configs/psanet/psanet_resnet18_demo.yml"),
    (r"--model_path …", "--model_path output/best_model/model.pdparams"),
    (r"IMAGE|FOLDER", "data/demo_cityscapes/leftImg8bit/val"),
]


def commands(document):
    """Returns the commands of a document, and those by curl."""
    lines, requests = document_commands(document)
    if document == "docs/moving.md":  # what is called how here is the last column
        with open(os.path.join(ROOT, document), encoding="utf-8") as file:
            lines = re.findall(r"`(python [^`]*)`", "".join(re.findall(r"(?m)^\|.*\|(.*)\|$", file.read())))
        for pattern, own in OWN:
            lines = [re.sub(pattern, own, line) for line in lines]
    return lines, requests


class Reader:
    """Runs commands in a folder that has the repository's files and some data.

    Args:
        folder (pathlib.Path): an empty one.
    """

    def __init__(self, folder):
        self.folder, self.ran = folder, []
        for name in ("train.py", "val.py", "predict.py", "export.py", "tools", "configs", "deploy", "tests"):
            os.symlink(os.path.join(ROOT, name), folder / name)
        os.symlink("output", folder / "other_output")  # of a training to compare with
        for name in ("street", "photo"):
            Image.effect_noise((90, 60), 50).convert("RGB").save(folder / f"{name}.png")
        with open(os.path.join(ROOT, "docs", "tutorial.md"), encoding="utf-8") as file:
            (folder / "mine.yml").write_text(re.search(r"```yaml\n(.*?)```", file.read(), re.DOTALL)[1])
        make_cityscapes(folder / "data" / "cityscapes")
        make_voc(folder / "data" / "VOCdevkit")
        make_ade(folder / "data" / "ADEChallengeData2016")
        for kind, ending in (("images", "jpg"), ("annotations", "png")):
            path = folder / "data" / "ADEChallengeData2016" / kind
            shutil.copy(path / f"training/ADE_train_00000001.{ending}", path / f"validation/ADE_val_00000001.{ending}")
        self._make_checkpoints()

    def make_labelled(self):
        """Makes photos of three classes, and what labelme writes for them."""
        images = self.folder / "data" / "mine" / "images"
        images.mkdir(parents=True)
        for index in range(10):
            Image.new("RGB", (20, 20), (index, 0, 0)).save(images / f"{index}.jpg")
            shape = {"label": ("leaf", "stem")[index % 2], "shape_type": "rectangle", "points": [[2, 2], [9, 9]]}
            content = {"imageHeight": 20, "imageWidth": 20, "shapes": [shape]}
            (images / f"{index}.json").write_text(json.dumps(content))

    def _make_checkpoints(self):
        """Writes narrow networks under the names of published files, and of a reader's own."""
        network = PSPNet(19, ResNet(50, base_channels=4, stem_channels=8), pp_out_channels=16, conv_bias=False)
        paddle.save(network.state_dict(), str(self.folder / "model.pdparams"))
        weights = to_mmsegmentation({name: value.numpy() for name, value in network.state_dict().items()})
        backbone = {name[len("backbone.") :]: value for name, value in weights.items() if name.startswith("backbone.")}
        semseg, mindspore = (
            {key[len("sd/") :]: value for key, value in load_golden(name).items() if key.startswith("sd/")}
            for name in ("model_semseg_r50c4_psp", "model_mindspore_r50c4_psp")
        )
        (self.folder / "initmodel").mkdir()
        for name, content in {
            "pspnet_r50-d8_512x1024_40k_cityscapes_20200605_003338-2966598c": weights,
            "model": weights,
            "train_epoch_100": semseg,
            **dict.fromkeys(("resnet50_v1c-2cccc1ad", "resnet101_v1c-e67eebb6", "resnet50_v2", "resnet101_v2"), backbone),
            "initmodel/resnet50_v2": backbone,
        }.items():
            write_torch(str(self.folder / f"{name}.pth"), content)
        for name in ("voc-50_133", "resnet_deepbase"):
            (self.folder / f"{name}.ckpt").write_bytes(mindspore_checkpoint(**mindspore).SerializeToString())

    def run(self, line):
        """Runs a command to its end, which must be good."""
        for pattern, less in LIGHTER:
            if re.search(pattern, line):
                line = re.sub(pattern, less, line)
                break
        environment = {**os.environ, "PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"}
        process = subprocess.run(["bash", "-c", line], cwd=self.folder, env=environment, capture_output=True)
        output = (process.stdout + process.stderr).decode(errors="replace")
        assert process.returncode == 0, f"{line}:\n{output[-3000:]}"
        self.ran.append(line)

    def serve(self, line, requests):
        """Starts the service by a command, sends it what is asked of it, and ends it."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        service = subprocess.Popen([sys.executable, *line.replace("8000", port).split()[1:]], cwd=self.folder)
        try:
            for _ in range(400):
                assert service.poll() is None, line
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health")
                    break
                except urllib.error.URLError:
                    time.sleep(0.2)
            for request in requests:
                self.run(
                    request.replace("curl ", "curl --fail --silent ").replace("8000", port).split(" >")[0] + " > overlay.png"
                )
                assert Image.open(self.folder / "overlay.png").size == (90, 60)
        finally:
            service.terminate()
            service.wait()
        self.ran.append(line)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_commands_of_a_document(tmp_path, document):
    reader, (lines, requests) = Reader(tmp_path), commands(document)
    if document == "docs/data.md":
        reader.make_labelled()
    if DOCUMENTS[document]:
        lines = [line for line in commands("README.md")[0] if re.search(DOCUMENTS[document], line)] + lines
    for line in lines:
        if "serve.py" in line:
            reader.serve(line, requests)
        elif not any(re.search(pattern, line) for pattern in LEFT_OUT):
            reader.run(line)
    assert reader.ran
