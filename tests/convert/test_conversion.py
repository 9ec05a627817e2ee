"""Networks of mmsegmentation, semseg and MindSpore, converted, compute what the originals do."""

import json
import re

import numpy as np
import paddle
import pytest
import safetensors.numpy
import yaml
from paddleseg import transforms as T
from paddleseg.models.backbones import ResNet18_vd

from paddleseg_psp import registry
from paddleseg_psp.config import Config
from paddleseg_psp.convert import convert, convert_backbone, to_mmsegmentation
from paddleseg_psp.convert.conversion import read_checkpoint
from paddleseg_psp.convert.torch_files import write_torch
from paddleseg_psp.data import Cityscapes
from paddleseg_psp.data.transforms import Pipeline
from paddleseg_psp.engine import evaluate
from paddleseg_psp.engine.trainer import loss_terms
from paddleseg_psp.errors import UserError
from paddleseg_psp.models import PSANet, PSPNet
from paddleseg_psp.models.backbones import ResNet
from paddleseg_psp.models.weights import load_weights
from tests.helpers import load_golden, mindspore_checkpoint, relative_error, run_python, run_tool

TOLERANCE = 1e-5  # relative, float32
# Of gradients through 50 normalizations by a small batch: float32 and float64 differ by as much in one and the same program,
# since activations near 0 fall on the other side.
KINKS = 0.02
TOOL = "tools/convert_checkpoint.py"
# golden file -> what its tensors do not tell
NETWORKS = {
    "model_mmseg_r50c8_psphead_ac0": [],
    "model_mmseg_r50c8_psphead_ac1": ["model.align_corners=True"],
    "model_mmseg_r50c8_psahead_ac0": ["model.mask_h=9", "model.mask_w=13"],
    "model_semseg_r50c4_psp": [],
    "model_semseg_r50c4_psa_t2": ["model.mask_h=5", "model.mask_w=7"],
    "model_semseg_r50c4_psa_t1": ["model.mask_h=9", "model.mask_w=13", "model.psa_type=distribute"],
    "model_mindspore_r50c4_psp": [],
}


def state(golden, prefix=""):
    return {prefix + key[3:]: value for key, value in golden.items() if key.startswith("sd/")}


def write(path, golden, **content):
    """Writes a golden file's parameters as its framework does; returns the path."""
    if "mindspore" in str(path):
        path = path.with_suffix(".ckpt")
        path.write_bytes(mindspore_checkpoint(**state(golden)).SerializeToString())
    else:
        write_torch(str(path), state(golden), **content)
    return path


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_equal_those_of_the_source(name, tmp_path, capfd):
    golden = load_golden(name)
    source = write(tmp_path / f"{name}.pth", golden)
    weights = tmp_path / ("model.safetensors" if "semseg" in name else "model.pdparams")
    process = run_tool(TOOL, [source, "--save_path", weights, "--opts", "val_dataset.mode=val", *NETWORKS[name]], capfd)
    assert process.returncode == 0, process.stderr
    network = Config(str(tmp_path / "model.yml")).build_model()
    load_weights(network, str(weights), strict=True)
    network.eval()
    logits = network(paddle.to_tensor(golden["x"]))[0].numpy()
    assert relative_error(logits, golden["logits_full" if "logits_full" in golden else "logits"]) < TOLERANCE
    record = json.loads((tmp_path / "model.json").read_text())
    accounted = {entry["source"] for entry in record["tensors"].values()} | set(record["left_out"])
    assert accounted == set(state(golden))
    assert set(record["tensors"]) == set(network.state_dict())


@pytest.mark.parametrize("name", [name for name in NETWORKS if "mmseg" in name])
def test_training_equals_mmsegmentations(name, tmp_path, capfd):
    """Losses and gradients of a batch, with the auxiliary head, normalizations by the batch, and ignored pixels."""
    golden = load_golden(name)
    source = write(tmp_path / f"{name}.pth", golden)
    options = ["--opts", "model.dropout=0.0", *NETWORKS[name]]
    process = run_tool(TOOL, [source, "--save_path", tmp_path / "model.pdparams", *options], capfd)
    assert process.returncode == 0, process.stderr
    config = Config(str(tmp_path / "model.yml"))
    single, exact = (training_step(config, str(tmp_path / "model.pdparams"), golden, dtype) for dtype in ("float32", "float64"))
    for key in ("decode", "aux"):
        assert relative_error(single[f"{key}.loss_ce"], golden[f"train/{key}.loss_ce"]) < TOLERANCE
    record = json.loads((tmp_path / "model.json").read_text())["tensors"]
    gradients = {
        own: record[own]["source"] for own in exact if own in record and "train/grad/" + record[own]["source"] in golden
    }
    assert len(gradients) == 6
    for own, source in gradients.items():
        expected = golden[f"train/grad/{source}"]
        if "conv_seg" in source:
            assert relative_error(single[own], expected) < 1e-4, own  # the last layers, whose inputs come through 50 others
        elif "bottleneck" not in source:  # whose channels have another order
            assert relative_error(exact[own], expected) < KINKS, own
    assert relative_error(exact["x"], golden["train/grad_x"]) < KINKS


def training_step(config, weights, golden, dtype):
    """Returns the losses of a golden file's batch, and the gradients by this package's names."""
    network = config.build_model()
    load_weights(network, weights, strict=True)
    network.to(dtype=dtype)
    x = paddle.to_tensor(golden["train/x"]).astype(dtype)
    x.stop_gradient = False
    terms = loss_terms(network(x), paddle.to_tensor(golden["train/label"]).squeeze(1), config.build_losses())
    sum(terms).backward()
    found = {name: parameter.grad.numpy() for name, parameter in network.named_parameters() if parameter.grad is not None}
    return {"decode.loss_ce": terms[0].numpy(), "aux.loss_ce": terms[1].numpy(), "x": x.grad.numpy(), **found}


@pytest.mark.parametrize("name", [name for name in NETWORKS if "mmseg" in name])
@pytest.mark.parametrize("extension", [".pth", ".safetensors"])
def test_the_way_back_to_mmsegmentation_is_exact(name, extension, tmp_path, capfd):
    tensors = state(load_golden(name))
    for place in [key.rpartition(".")[0] for key in tensors if key.endswith("running_mean")]:
        tensors[f"{place}.num_batches_tracked"] = np.array(1234567890123, np.int64)
    write_torch(str(tmp_path / "source.pth"), tensors)
    run_tool(TOOL, [tmp_path / "source.pth", "--save_path", tmp_path / "own.pdparams", "--opts", "val_dataset.mode=val",
                    *NETWORKS[name]], capfd)  # fmt: skip
    back = tmp_path / f"back{extension}"
    process = run_tool(TOOL, [tmp_path / "own.pdparams", "--to_mmsegmentation", "--save_path", back], capfd)
    assert process.returncode == 0, process.stderr
    found = read_checkpoint(str(back))[0]
    assert set(found) == set(tensors)
    for key, expected in tensors.items():
        assert (found[key].dtype, found[key].tobytes()) == (expected.dtype, expected.tobytes()), key


META = """
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False),
    backbone=dict(type='ResNetV1c', depth=50, norm_cfg=norm_cfg, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), style='caffe',
                  contract_dilation=False),
    decode_head=dict(type='PSAHead', mask_size=(9, 13), psa_type='bi-direction', shrink_factor=3, psa_softmax=False,
                     normalization_factor=None, align_corners=True),
    test_cfg=dict(mode='slide', crop_size=(61, 97), stride=(40, 64)))
hook = some.function(print('run'))
"""


@pytest.mark.parametrize("key", ["cfg", "config"])
def test_the_configuration_in_a_checkpoint_of_mmsegmentation_counts(key, tmp_path, capfd):
    path = tmp_path / "a.pth"
    names = [f"class {index}" for index in range(7)]
    golden = load_golden("model_mmseg_r50c8_psahead_ac0")
    write(path, golden, meta={key: META, "CLASSES": names, "PALETTE": [[index, 0, 0] for index in range(7)]})
    process = run_tool(TOOL, [path, "--save_path", tmp_path / "model.pdparams"], capfd)
    assert process.returncode == 0, process.stderr
    data = yaml.safe_load((tmp_path / "model.yml").read_text())
    model = data["model"]
    expected = {
        "mask_h": 9,
        "mask_w": 13,
        "shrink_factor": 3,
        "psa_softmax": False,
        "normalization_factor": None,
        "align_corners": True,
    }
    assert {option: model[option] for option in expected} == expected
    assert (model["backbone"]["output_stride"], model["backbone"]["style"]) == (16, "caffe")
    assert data["test_config"] == {"is_slide": True, "crop_size": [97, 61], "stride": [64, 40]}
    assert data["val_dataset"]["class_names"] == names and data["val_dataset"]["palette"][6] == [6, 0, 0]
    swap, normalize = data["val_dataset"]["transforms"][-2:]
    assert swap == {"type": "SwapRedAndBlue"} and normalize["mean"] == pytest.approx(
        [103.53 / 255, 116.28 / 255, 123.675 / 255]
    )
    assert normalize["std"] == pytest.approx([1 / 255] * 3)


def test_images_of_a_blue_first_network_are_prepared_as_caffe_does(tmp_path, capfd):
    """Byte values less their mean, blue first: what mmsegmentation's preprocessing gives for bgr_to_rgb=False and std 1."""
    path = tmp_path / "a.pth"
    write(path, load_golden("model_mmseg_r50c8_psahead_ac0"), meta={"cfg": META})
    run_tool(TOOL, [path, "--save_path", tmp_path / "model.pdparams"], capfd)
    transforms = Config(str(tmp_path / "model.yml")).build_transforms()
    image = np.random.randint(0, 256, (5, 7, 3), np.uint8)  # as OpenCV reads it, blue first
    prepared = Pipeline(transforms)({"img": image})["img"]
    expected = image.astype(np.float64) - [103.53, 116.28, 123.675]
    np.testing.assert_allclose(prepared, expected.transpose(2, 0, 1), rtol=1e-5, atol=2e-4)


def test_a_network_with_a_configuration_of_ones_own(tmp_path, write_config, capfd):
    network = PSPNet(5, ResNet18_vd(), pp_out_channels=16)
    paddle.save(network.state_dict(), str(tmp_path / "own.pdparams"))
    config = tmp_path / "own.yml"
    model = {"type": "PSPNet", "num_classes": 5, "pp_out_channels": 16, "backbone": {"type": "ResNet18_vd"}}
    with open(write_config(), encoding="utf-8") as file:
        config.write_text(yaml.safe_dump({**yaml.safe_load(file), "model": model}))
    process = run_tool(
        TOOL, [tmp_path / "own.pdparams", "--config", config, "--save_path", tmp_path / "out" / "a.safetensors"], capfd
    )
    assert process.returncode == 0, process.stderr
    converted = safetensors.numpy.load_file(tmp_path / "out" / "a.safetensors")
    for name, value in network.state_dict().items():
        assert converted[name].tobytes() == value.numpy().tobytes()
    load_weights(network, str(tmp_path / "out" / "a.safetensors"), strict=True)
    written = yaml.safe_load((tmp_path / "out" / "a.yml").read_text())
    assert written["val_dataset"]["transforms"] == [{"type": "Normalize"}]  # the configuration's own


@pytest.mark.parametrize("name, mean", [("paddle", None), ("model_semseg_r50c4_psp", [0.485, 0.456, 0.406])])
def test_images_are_normalized_as_the_framework_does(name, mean, tmp_path, capfd):
    """PaddleSeg's networks take mean and deviation 0.5, what Normalize has where nothing is given; semseg's ImageNet's."""
    source = tmp_path / "a.pdparams"
    if name == "paddle":
        paddle.save(PSPNet(19, ResNet18_vd(), pp_out_channels=16).state_dict(), str(source))
    else:
        source = write(tmp_path / "a.pth", load_golden(name))
    process = run_tool(TOOL, [source, "--save_path", tmp_path / "out" / "a.pdparams"], capfd)
    assert process.returncode == 0, process.stderr
    written = yaml.safe_load((tmp_path / "out" / "a.yml").read_text())
    for key in ("train_dataset", "val_dataset"):
        assert written[key]["transforms"][-1].get("mean") == mean


@pytest.mark.parametrize("bins", [(1, 2, 3, 6), (1, 4)])
def test_networks_of_paddleseg_are_found_out(tmp_path, bins):
    network = PSPNet(5, ResNet18_vd(), pp_out_channels=16, bin_sizes=bins)
    path = str(tmp_path / "a.pdparams")
    paddle.save(network.state_dict(), path)
    if len(bins) == 4:
        model = convert(path).model
        assert (model["type"], model["backbone"]["type"], model["conv_bias"]) == ("PSPNet", "ResNet18_vd", True)
    else:
        with pytest.raises(UserError, match=r"its pyramid has 2 levels.*--opts model.bin_sizes"):
            convert(path)
        model = convert(path, set_options=lambda model: model.update(bin_sizes=[1, 4])).model
    built = registry.build(model, "model")
    assert {name: value.shape for name, value in built.state_dict().items()} == {
        name: value.shape for name, value in network.state_dict().items()
    }


def test_networks_of_psanet_paddle_are_found_out(tmp_path):
    network = PSANet(5, ResNet18_vd(), mask_h=7, mask_w=7, mid_channels=8, head_channels=16, aux_channels=4)
    path = str(tmp_path / "a.pdparams")
    paddle.save(network.state_dict(), path)
    converted = convert(path)
    assert (converted.model["mask_h"], converted.model["psa_type"], converted.model["convention"]) == (
        7,
        "bi-direction",
        "semseg",
    )
    for name, value in network.state_dict().items():
        assert converted.weights[name].tobytes() == value.numpy().tobytes()


def as_torchvision(backbone):
    """Returns the parameters of a backbone under PyTorch's names, with the counters and the classifier of a whole ResNet."""
    renamed = {}
    for name, value in backbone.state_dict().items():
        renamed[re.sub("_variance$", "running_var", re.sub("_mean$", "running_mean", name))] = value.numpy()
    renamed["bn1.num_batches_tracked"] = np.array(5)
    return {**renamed, "fc.weight": np.zeros((10, 4), np.float32), "fc.bias": np.zeros(10, np.float32)}


STEM = {"stem.0": "conv1", "stem.1": "bn1", "stem.3": "conv2", "stem.4": "bn2", "stem.6": "conv3", "stem.7": "bn3"}
TIMM = {**{f"stem.{place}": f"conv1.{place}" for place in (0, 1, 3, 4, 6)}, "stem.7": "bn1"}
STYLES = {
    "torchvision": (False, lambda name: name),
    "semseg": (True, lambda name: re.sub(r"^stem\.\d", lambda found: STEM[found[0]], name)),
    "timm": (True, lambda name: re.sub(r"^stem\.\d", lambda found: TIMM[found[0]], name)),
    "mmpretrain": (True, lambda name: name),
    "mmpretrain's classifier": (True, lambda name: f"head.{name}" if name.startswith("fc") else f"backbone.{name}"),
    "mmpretrain's plain classifier": (False, lambda name: f"head.{name}" if name.startswith("fc") else f"backbone.{name}"),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("module", ["", "module."])
def test_backbones(style, depth, module, tmp_path):
    deep, rename = STYLES[style]
    backbone = ResNet(depth, base_channels=4, stem_channels=8, deep_stem=deep)
    path = str(tmp_path / "a.pth")
    write_torch(path, {module + rename(name): value for name, value in as_torchvision(backbone).items()})
    converted = convert_backbone(path)
    assert converted.model["type"] == f"ResNet{depth}_{'v1c' if deep else 'v1b'}"
    assert len(converted.left_out) == 3
    own = backbone.state_dict()
    assert set(converted.weights) == set(own)
    for name, value in own.items():
        assert converted.weights[name].tobytes() == value.numpy().tobytes(), name
    with pytest.raises(UserError, match="convert it with --backbone"):
        convert(path)


def test_the_backbone_of_a_whole_network(tmp_path, capfd):
    golden = load_golden("model_semseg_r50c4_psp")
    source = write(tmp_path / "a.pth", golden)
    process = run_tool(TOOL, [source, "--backbone", "--save_path", tmp_path / "backbone.pdparams"], capfd)
    assert process.returncode == 0, process.stderr
    spec = yaml.safe_load((tmp_path / "backbone.yml").read_text())["model"]["backbone"]
    loaded = registry.build(spec, "backbone")
    np.testing.assert_array_equal(loaded.layer4[2].conv3.weight.numpy(), golden["sd/layer4.2.conv3.weight"])


def test_backbones_that_this_package_lacks_are_refused(tmp_path):
    tensors = as_torchvision(ResNet(50, base_channels=4, stem_channels=8))
    pooled = {
        name.replace("downsample.1", "downsample.2").replace("downsample.0", "downsample.1"): value
        for name, value in tensors.items()
    }
    write_torch(str(tmp_path / "d.pth"), pooled)
    with pytest.raises(UserError, match="ResNet-D, with pooling in its shortcuts; take PaddleSeg's ResNet_vd"):
        convert_backbone(str(tmp_path / "d.pth"))
    write_torch(
        str(tmp_path / "short.pth"), {name: value for name, value in tensors.items() if not name.startswith("layer3.5")}
    )
    with pytest.raises(UserError, match="its backbone has 3, 4, 5, 3 blocks"):
        convert_backbone(str(tmp_path / "short.pth"))


def changed(golden, **changes):
    tensors = state(golden)
    for name, value in changes.items():
        name = name.replace("__", ".")
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    return tensors


MISMATCHES = [
    ({"auxiliary_head__extra__weight": np.zeros(3, np.float32)}, "1 tensors have no place .*: auxiliary_head.extra.weight"),
    ({"backbone__layer3__2__bn2__running_var": None}, "1 parameters .* no tensor: backbone.layer3.2.bn2.running_var"),
    (
        {"backbone__layer2__0__conv2__weight": np.zeros((16, 16, 1, 1), np.float32)},
        r"layer2.0.conv2.weight \[16, 16, 1, 1\] in place",
    ),
    ({"decode_head__conv_seg__bias": np.zeros(7, np.int64)}, "conv_seg.bias has values of type int64"),
    ({"decode_head__conv_seg__bias": np.full(7, 1e300)}, "conv_seg.bias has values of type float64 that float32 does not hold"),
]


@pytest.mark.parametrize("changes, message", MISMATCHES)
def test_tensors_that_do_not_fit_are_named(changes, message, tmp_path, capfd):
    path = tmp_path / "a.pth"
    write_torch(str(path), changed(load_golden("model_mmseg_r50c8_psphead_ac0"), **changes))
    process = run_tool(TOOL, [path, "--save_path", tmp_path / "out" / "model.pdparams"], capfd)
    assert process.returncode == 1 and not (tmp_path / "out").exists()
    last = process.stderr.strip().splitlines()[-1]
    assert re.search(message, last) and str(path) in last and "Traceback" not in process.stderr


@pytest.mark.parametrize("name", [name for name in NETWORKS if name.endswith(("psphead_ac0", "psa_t2", "mindspore_r50c4_psp"))])
def test_whatever_tensor_is_missing_or_misshapen_the_error_is_plain(name, tmp_path):
    tensors, path = state(load_golden(name)), str(tmp_path / "a.pth")
    edges = [key for key in tensors if not re.search(r"layer[2345]\.[1-9]|num_batches_tracked", key)]
    for key in edges[::7]:
        for broken in (None, np.zeros((), np.float32), np.zeros(3, np.float32)):
            changed_tensors = {other: value for other, value in tensors.items() if other != key}
            if broken is not None:
                changed_tensors[key] = broken
            write_torch(path, changed_tensors)
            with pytest.raises(UserError, match=re.escape(path)):
                convert(path, set_options=lambda model: model.update({"mask_h": 5, "mask_w": 7} if "psa_t2" in name else {}))


def test_unknown_tensors_may_be_left_out(tmp_path):
    path = str(tmp_path / "a.pth")
    extra = {"ema_backbone__conv1__weight": np.zeros(3, np.float32)}
    write_torch(path, changed(load_golden("model_mmseg_r50c8_psphead_ac0"), **extra))
    assert list(convert(path, ignore=["ema_"]).left_out) == ["ema_backbone.conv1.weight"]


def test_what_tensors_do_not_tell_is_asked_for(tmp_path):
    one, two = str(tmp_path / "one.pth"), str(tmp_path / "two.pth")
    write_torch(one, state(load_golden("model_semseg_r50c4_psa_t1")))
    with pytest.raises(UserError, match="--opts model.psa_type=collect or distribute"):
        convert(one)
    write_torch(two, state(load_golden("model_semseg_r50c4_psa_t2")))
    with pytest.raises(UserError, match="its mask has 35 positions.*--opts model.mask_h"):
        convert(two)


@pytest.mark.parametrize(
    "tensors, message",
    [
        ({"conv.weight": np.zeros(3, np.float32)}, "are of no network that is known"),
        ({}, "holds no tensors"),
    ],
)
def test_other_networks_are_refused(tensors, message, tmp_path):
    write_torch(str(tmp_path / "a.pth"), tensors)
    with pytest.raises(UserError, match=message):
        convert(str(tmp_path / "a.pth"))


def test_unknown_kinds_of_files_are_refused(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"\x89HDF")
    with pytest.raises(UserError, match="expected a file of PyTorch"):
        convert(str(tmp_path / "a.h5"))
    (tmp_path / "a.safetensors").write_bytes(b"\xff" * 30)
    with pytest.raises(UserError, match="is no complete .safetensors file"):
        convert(str(tmp_path / "a.safetensors"))


def test_networks_that_mmsegmentation_lacks_do_not_go_back(tmp_path, capfd):
    paddle.save(PSPNet(5, ResNet18_vd(), pp_out_channels=16).state_dict(), str(tmp_path / "a.pdparams"))
    process = run_tool(TOOL, [tmp_path / "a.pdparams", "--to_mmsegmentation", "--save_path", tmp_path / "a.pth"], capfd)
    assert process.returncode == 1 and "have no place for backbone.bb_" in process.stderr
    assert not (tmp_path / "a.pth").exists()


def test_a_converted_network_is_evaluated_by_val(tiny_data, tmp_path):
    """From mmsegmentation's file to metrics in two commands; they are those of the network that the file was made from."""
    network = PSPNet(
        19, ResNet(18, base_channels=4, stem_channels=8, contract_dilation=True), pp_out_channels=8, conv_bias=False
    )
    source, weights = tmp_path / "a.pth", tmp_path / "model.pdparams"
    write_torch(str(source), to_mmsegmentation({name: value.numpy() for name, value in network.state_dict().items()}))
    process = run_python([TOOL, source, "--save_path", weights])
    assert process.returncode == 0, process.stderr
    command = re.search(r"python (val.py .*)", process.stdout)[1].split()
    process = run_python([*command, "--device", "cpu", "--opts", f"val_dataset.dataset_root={tiny_data}"])
    assert process.returncode == 0, process.stderr
    transforms = [T.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])]
    expected = evaluate(network, Cityscapes(transforms, str(tiny_data), mode="val"), print_detail=False)
    assert f"mIoU: {expected.mean_iou():.4f} Acc: {expected.pixel_accuracy():.4f}" in process.stdout
