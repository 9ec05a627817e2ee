"""What several tests use."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import paddle
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from paddle import nn
from paddleseg.cvlibs import manager
from paddleseg.models.layers import ConvBNReLU

from paddleseg_psp.engine import train
from paddleseg_psp.models.weights import read_weights

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
GOLDEN = os.path.join(ROOT, "tests", "golden")


def load_golden(name):
    """Returns the arrays of a golden file as a dict, `meta` decoded."""
    with np.load(os.path.join(GOLDEN, f"{name}.npz")) as file:
        arrays = dict(file)
    arrays["meta"] = json.loads(str(arrays["meta"]))
    return arrays


def golden_sizes(arrays):
    """Returns the input sizes, such as '9x13', that a golden file has."""
    return [key[:-2] for key in arrays if key.endswith("/x") and key[0].isdigit()]


def parameters(arrays, rename, group="sd"):
    """Returns a golden file's parameters under Paddle's names; `rename` is a list of (prefix, new prefix)."""
    result = {}
    for key, value in arrays.items():
        if key.startswith(group + "/"):
            name = key[len(group) + 1 :].replace("running_mean", "_mean").replace("running_var", "_variance")
            for old, new in rename:
                if name.startswith(old):
                    name = new + name[len(old) :]
                    break
            result[name] = value
    return result


def relative_error(actual, expected):
    """Returns ‖actual - expected‖ / ‖expected‖."""
    actual, expected = (np.asarray(value, np.float64) for value in (actual, expected))
    assert actual.shape == expected.shape
    return np.linalg.norm(actual - expected) / max(np.linalg.norm(expected), 1e-30)


def run_python(arguments, **options):
    """Runs a fresh Python process in the repository, and returns it with its output as text.

    `env` adds to the environment, `environment` replaces it.
    """
    environment = options.pop("environment", {**os.environ, **options.pop("env", {})})
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environment, cwd=ROOT, **options
    )


def own_mounts():
    """Returns the beginning of a command that sees mounts of its own; skips where that is not permitted."""
    for before in (["unshare", "-rm"], ["unshare", "-m"]):
        if shutil.which("unshare") and not subprocess.run([*before, "true"], capture_output=True).returncode:
            return before
    pytest.skip("mounts of its own need unshare(1) to be permitted")


def run_tool(path, arguments, capture):
    """Runs a script's main() in this process, and returns its exit code and what it printed, as `run_python` does.

    Args:
        path (str): of the script in the repository.
        capture: pytest's capfd.
    """
    name = os.path.splitext(os.path.basename(path))[0]
    spec = importlib.util.spec_from_file_location(name, os.path.join(ROOT, path))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where processes look for its functions
    spec.loader.exec_module(module)
    capture.readouterr()
    try:
        module.main([*map(str, arguments)])
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    return subprocess.CompletedProcess(path, code, *capture.readouterr())


TINY = "model.backbone={'type': 'TinyBackbone'}"  # for --opts, in this process


@manager.BACKBONES.add_component
class TinyBackbone(nn.Layer):
    """Four feature maps of 8 channels at an eighth of the image's size, in milliseconds."""

    feat_channels = [8] * 4

    def __init__(self, in_channels=3):
        super().__init__()
        strides = (4, 2, 1, 1)
        self.stages = nn.LayerList([ConvBNReLU(8 if i else in_channels, 8, 3, stride=strides[i], padding=1) for i in range(4)])

    def forward(self, x):
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def run_training(config, save_dir, with_evaluation=True, model=None, **options):
    """Trains a configuration as train.py does, and returns (the best mIoU, the network)."""
    paddle.seed(0)
    model = model or config.build_model()
    config.freeze_batch_norm(model)
    train_dataset = config.build_dataset("train_dataset")
    best = train(
        model,
        train_dataset,
        config.build_dataset("val_dataset") if with_evaluation else None,
        save_dir=str(save_dir),
        iters=config.iters,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        config=str(config),
        **{
            "optimizer": config.build_optimizer(model, config.build_scheduler()),
            "losses": config.build_losses(train_dataset),
            "save_interval": 2,
            "log_iters": 1,
            **options,
        },
    )
    return best, model


def write_sums(folder):
    """Writes a checkpoint's checksums anew, after a test has changed its files."""
    names = sorted(name for name in os.listdir(folder) if name != "SHA256SUMS")
    sums = subprocess.run(["sha256sum", *names], cwd=folder, capture_output=True, text=True, check=True).stdout
    with open(os.path.join(folder, "SHA256SUMS"), "w") as file:
        file.write(sums)


def checkpoint_arrays(folder):
    """Returns all arrays of a checkpoint's files by "file/name", as bytes, and the contents of state.json."""
    arrays = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith((".pdparams", ".pdopt")):
            for key, value in read_weights(os.path.join(folder, name)).items():
                arrays[f"{name}/{key}"] = value if isinstance(value, dict) else np.asarray(value).tobytes()
    with open(os.path.join(folder, "state.json")) as file:
        return arrays, json.load(file)


def _mindspore_message():
    """Returns the class of MindSpore's Checkpoint message: values of a tag and a tensor of dims, type and content."""
    kinds, labels = descriptor_pb2.FieldDescriptorProto, descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="checkpoint.proto", package="mindspore_checkpoint", syntax="proto2")

    def message(name, *fields):
        added = file.message_type.add(name=name)
        for number, (field, label, kind, type_name) in enumerate(fields, 1):
            added.field.add(name=field, number=number, label=label, type=kind, type_name=type_name)

    package = ".mindspore_checkpoint."
    message(
        "Tensor",
        ("dims", labels.LABEL_REPEATED, kinds.TYPE_INT64, None),
        ("type", labels.LABEL_REQUIRED, kinds.TYPE_STRING, None),
        ("content", labels.LABEL_REQUIRED, kinds.TYPE_BYTES, None),
    )
    message(
        "Value",
        ("tag", labels.LABEL_REQUIRED, kinds.TYPE_STRING, None),
        ("tensor", labels.LABEL_OPTIONAL, kinds.TYPE_MESSAGE, package + "Tensor"),
    )
    message("Checkpoint", ("value", labels.LABEL_REPEATED, kinds.TYPE_MESSAGE, package + "Value"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(package[1:] + "Checkpoint"))


MINDSPORE_CHECKPOINT = _mindspore_message()


def mindspore_checkpoint(**tensors):
    """Returns MindSpore's message of named arrays."""
    message = MINDSPORE_CHECKPOINT()
    for name, array in tensors.items():
        value = message.value.add(tag=name)
        value.tensor.dims.extend(array.shape or [0])
        value.tensor.type = {"float32": "Float32", "float16": "Float16", "int32": "Int32"}[str(array.dtype)]
        value.tensor.content = array.tobytes()
    return message


def document_commands(document):
    """Returns the commands of a document's fences, without comments, and those by curl wherever they are."""
    with open(os.path.join(ROOT, document), encoding="utf-8") as file:
        page = file.read()
    fences = "".join(re.findall(r"```bash\n(.*?)```", page, re.DOTALL)).replace("\\\n", " ")
    lines = [line.split(" #")[0].strip() for line in fences.splitlines()]
    return [line for line in lines if line and not line.startswith("curl ")], re.findall(r"curl [^`\n]*", page)
