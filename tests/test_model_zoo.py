"""Each configuration trains and evaluates; the networks are as large as published."""

import glob
import os
import re

import numpy as np
import paddle
import pytest
from PIL import Image

from paddleseg_psp.bundle import export_bundle, load_predictor
from paddleseg_psp.bundle.scoring import evaluate_bundle
from paddleseg_psp.config import Config
from paddleseg_psp.data import CheckedDataset
from paddleseg_psp.engine import evaluate
from paddleseg_psp.engine.trainer import loss_terms
from paddleseg_psp.engine.views import Views
from paddleseg_psp.models.layers import PointWiseSpatialAttention
from tests.helpers import ROOT

PATHS = sorted(glob.glob(os.path.join(ROOT, "configs", "ps*net", "*.yml")))


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_data):
    """Roots of small data sets in the layouts of the real ones, by their classes."""
    root, numbers = tmp_path_factory.mktemp("zoo"), np.random.RandomState(0)
    voc, ade = root / "VOCdevkit", root / "ade"
    lists = voc / "VOC2012" / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name, parts in (("train", ["a"]), ("aug", ["b"]), ("val", ["c"])):
        (lists / f"{name}.txt").write_text("\n".join(parts) + "\n")
    files = {
        voc / "VOC2012": [("JPEGImages", f"SegmentationClass{'Aug' if name == 'b' else ''}", name) for name in "abc"],
        ade: [(f"images/{part}", f"annotations/{part}", name) for part in ("training", "validation") for name in "ab"],
    }
    for folder, images in files.items():
        for images_folder, labels_folder, name in images:
            for kind in (images_folder, labels_folder):
                (folder / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(numbers.randint(0, 256, (48, 64, 3), np.uint8)).save(folder / images_folder / f"{name}.jpg")
            Image.fromarray(numbers.randint(0, 21, (48, 64), np.uint8)).save(folder / labels_folder / f"{name}.png")
    return {"Cityscapes": tiny_data, "PascalVOC": voc, "ADE20K": ade}


def made_small(value):
    """Returns nested data of a configuration with crops, windows and image sizes for images of 64x48."""
    if isinstance(value, list):
        return [made_small(item) for item in value]
    if not isinstance(value, dict):
        return value
    sizes = {"short_size": 48, "long_size": 64, "max_long": 128, "pretrained": None, "stride": [44, 44]}
    for key in ("crop_size", "size", "target_size"):
        if key in value:
            sizes[key] = [65, 65] if value[key][0] % 2 else [64, 64]
    return {key: sizes.get(key, made_small(item)) for key, item in value.items()}


def small_config(path, data):
    config = Config(path)
    small = made_small(config.data)
    for key in ("train_dataset", "val_dataset"):
        small[key]["dataset_root"] = str(data[small[key]["type"]])
    return config.replaced(small)


@pytest.mark.parametrize("path", PATHS, ids=os.path.basename)
def test_a_step_of_training_and_an_evaluation(path, data):
    config = small_config(path, data)
    train_dataset, val_dataset = (config.build_dataset(key) for key in ("train_dataset", "val_dataset"))
    network = config.build_model()
    optimizer, losses = config.build_optimizer(network, config.build_scheduler()), config.build_losses(train_dataset)
    samples = [CheckedDataset(train_dataset)[index] for index in range(2)]
    image, label = (paddle.to_tensor(np.stack([sample[key] for sample in samples])) for key in ("img", "label"))
    before = {name: value.numpy().copy() for name, value in network.named_parameters() if "head" in name}
    loss = sum(loss_terms(network(image), label, losses))
    loss.backward()
    optimizer.step()
    assert np.isfinite(float(loss)) and len(losses) == 2
    changed = [name for name, value in network.named_parameters() if name in before and (value.numpy() != before[name]).any()]
    assert set(changed) >= {name for name in before if name.endswith("conv.weight")}
    del val_dataset.file_list[1:]
    matrix = evaluate(network, val_dataset, Views.from_options(config.test_config()), print_detail=False)
    assert matrix.counts.sum() > 0


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=os.path.basename)
def test_a_bundle_is_evaluated_as_the_network(path, data, tmp_path):
    """Windows, scales, flips and resizing included, in each engine."""
    config = small_config(path, data)
    small = config.data
    backbone = small["model"]["backbone"]
    backbone["type"] = re.sub(r"\d+", "18", backbone["type"], count=1)
    network = config.replaced(small).build_model()
    attentions = [layer for layer in network.sublayers() if isinstance(layer, PointWiseSpatialAttention)]
    compact = any(layer.compact for layer in attentions)
    for transform in small["val_dataset"]["transforms"]:
        transform.update({key: 40 for key in ("short_size", "long_size") if key in transform})  # of images of 64x48
    if not compact and config.test_config().get("is_slide"):
        small["test_config"].update(crop_size=[33, 33], stride=[22, 22])
    config = config.replaced(small)
    views, dataset = Views.from_options(config.test_config()), config.build_dataset("val_dataset")
    for _ in range(2):
        network(paddle.randn([4, 3, 65, 65]))  # statistics of some training, so that classes vary
    expected = evaluate(network, dataset, views, print_detail=False)
    transforms, shape = config.data["val_dataset"]["transforms"], (-1, 3, -1, -1)
    if compact or any(layer.convention.depends_on_size for layer in attentions):
        shape = (1, 3, *(views.window or dataset[0]["img"].shape[1:]))
    export_bundle(network, str(tmp_path), transforms, shape, onnx=True, views=views, verify=False)
    for backend in ("paddle", "onnxruntime"):
        found = evaluate_bundle(load_predictor(str(tmp_path), backend), dataset)
        assert np.count_nonzero(expected.counts.sum(0)) > 2
        assert abs(found.mean_iou() - expected.mean_iou()) < 1e-4
        assert np.abs(found.counts - expected.counts).sum() <= 1e-3 * expected.counts.sum()


# With 19 classes and the auxiliary head, as mmsegmentation 1.2.2 counts its own networks; it publishes 48.97 million for R50.
@pytest.mark.parametrize(
    "name, parameters",
    [
        ("pspnet/pspnet_resnet50_cityscapes_512x1024_80k_mmseg", 48975494),
        ("pspnet/pspnet_resnet101_cityscapes_512x1024_80k_mmseg", 67967622),
        ("psanet/psanet_resnet50_cityscapes_512x1024_80k_mmseg", 59138694),
    ],
)
def test_networks_are_as_large_as_mmsegmentations(name, parameters):
    network = Config(f"{ROOT}/configs/{name}.yml", ["model.backbone.pretrained=null"]).build_model()
    count = sum(int(value.size) for value in network.parameters() if not value.stop_gradient)
    assert count == parameters


def test_the_table_of_models_names_every_configuration():
    with open(os.path.join(ROOT, "docs", "model_zoo.md"), encoding="utf-8") as file:
        text = file.read()
    names = {os.path.splitext(os.path.basename(path))[0] for path in PATHS if not path.endswith("_demo.yml")}
    missing = sorted(name for name in names if f"`{name}`" not in text)
    assert not missing
