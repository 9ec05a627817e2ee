"""Chains of a tiny network, for the tests of TIPC."""

import os
import re

import yaml

from tests.conftest import tiny_config
from tests.helpers import ROOT

MODE = "lite_train_lite_infer"


def chain_file(folder, data, model="pspnet", **replaced):
    """Writes the project's file for a tiny network and data, and returns its path and the chain's output folder.

    Args:
        folder (pathlib.Path): gets the file and its configuration.
        data (pathlib.Path): root of a data set.
        model (str): of the demo, "psanet" or "pspnet".
        replaced (str): further texts by line, as `line_16="norm_train:…"`.
    """
    config = folder / "config.yml"
    config.write_text(yaml.safe_dump(tiny_config(data, {"psanet": "PSANet", "pspnet": "PSPNet"}[model]), sort_keys=False))
    with open(os.path.join(ROOT, f"test_tipc/configs/{model}/train_infer_python.txt")) as file:
        lines = file.read().splitlines()[:52]
    name = f"test-{model}-{os.path.basename(folder)}-{os.getpid()}"  # tests run in several processes
    lines[1], lines[6] = f"model_name:{name}", "--iters:2"
    for number in (16, 24, 25, 30, 38, 48):
        lines[number - 1] = re.sub(r" --opts .*", "", lines[number - 1])
        lines[number - 1] = re.sub(r"configs/\S+\.yml", str(config), lines[number - 1])
        lines[number - 1] = lines[number - 1].replace("test_tipc/data/cityscapes", str(data))
    for line, text in replaced.items():
        lines[int(line[5:]) - 1] = text
    path = folder / "file.txt"
    path.write_text("\n".join(lines) + "\n")
    return str(path), os.path.join(ROOT, "test_tipc/output", name)
