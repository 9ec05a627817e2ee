import os

import numpy as np
import paddle
import pytest
import yaml
from helpers import relative_error, run_python
from paddleseg.models.backbones import ResNet18_vd
from PIL import Image

from paddleseg_psp.config import Config
from paddleseg_psp.deploy import export_bundle, load_predictor, verify_bundle
from paddleseg_psp.engine import evaluate
from paddleseg_psp.engine.metrics import ConfusionMatrix
from paddleseg_psp.errors import UserError
from paddleseg_psp.models import PSANet, PSPNet

FILES = {"model.json", "model.pdiparams", "deploy.yaml"}
LOGITS_TOLERANCE = 1e-5  # relative, float32
NORMALIZE = [{"type": "Normalize"}]


def network(name, **options):
    """A network with the statistics of some training, so that its classes vary."""
    paddle.seed(1)
    if name == "PSANet":
        options = {"mid_channels": 8, "head_channels": 16, "aux_channels": 8, "crop_size": (64, 96), **options}
    else:
        options = {"pp_out_channels": 16, **options}
    model = {"PSANet": PSANet, "PSPNet": PSPNet}[name](6, ResNet18_vd(), **options)
    for _ in range(2):
        model(paddle.randn([2, 3, 64, 96]))
    model.eval()
    return model


@pytest.mark.parametrize("name", ["PSPNet", "PSANet"])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("shape", [(-1, 3, -1, -1), (1, 3, 64, 96), (2, 3, 65, 97)])
def test_exported_networks_compute_what_the_network_computes(tmp_path, name, align_corners, shape):
    """At sizes that the exporter never saw, with oneDNN on and off."""
    model = network(name, align_corners=align_corners)
    export_bundle(model, str(tmp_path / "bundle"), NORMALIZE, shape, "none")
    batch, _, height, width = shape
    sizes = [(height, width)] if height > 0 else [(64, 96), (97, 131), (40, 200)]
    for onednn in (True, False):
        predictor = load_predictor(str(tmp_path / "bundle"), onednn=onednn)
        for size in sizes:
            x = paddle.randn([batch if batch > 0 else 3, 3, *size])
            with paddle.no_grad():
                expected = model(x)[0].numpy()
            actual = predictor.run(x.numpy())
            assert relative_error(actual, expected) < LOGITS_TOLERANCE
            assert (actual.argmax(1) == expected.argmax(1)).mean() >= 0.9999


@pytest.mark.parametrize(
    "options", [{"psa_type": 0}, {"psa_type": 1, "psa_softmax": False}, {"shrink_factor": 1}, {"use_psa": False}]
)
def test_options_of_psanet_export(tmp_path, options):
    comparisons = export_bundle(network("PSANet", **options), str(tmp_path / "bundle"))
    assert min(item.agreement for item in comparisons) >= 0.9999


def test_compact_psanet_exports_at_its_size(tmp_path):
    model = network("PSANet", compact=True)
    comparisons = export_bundle(model, str(tmp_path / "bundle"), input_shape=(1, 3, 64, 96))
    assert min(item.agreement for item in comparisons) >= 0.9999


@pytest.mark.parametrize("output_op", ["argmax", "softmax", "none"])
def test_outputs(tmp_path, output_op):
    model = network("PSPNet")
    comparisons = export_bundle(model, str(tmp_path / "bundle"), output_op=output_op)
    x = paddle.randn([2, 3, 64, 96])
    logits = model(x)[0]
    expected = {
        "argmax": logits.argmax(1).numpy(),
        "softmax": paddle.nn.functional.softmax(logits, axis=1).numpy(),
        "none": logits.numpy(),
    }[output_op]
    actual = load_predictor(str(tmp_path / "bundle")).run(x.numpy())
    assert actual.dtype == ("int32" if output_op == "argmax" else "float32")
    assert relative_error(actual, expected) < LOGITS_TOLERANCE
    assert all((item.error is None) == (output_op == "argmax") for item in comparisons)


def test_description_says_how_to_use_the_network(tmp_path):
    export_bundle(network("PSPNet"), str(tmp_path / "bundle"), NORMALIZE, palette=[(1, 2, 3)])
    assert set(os.listdir(tmp_path / "bundle")) == FILES
    description = yaml.safe_load((tmp_path / "bundle" / "deploy.yaml").read_text())["Deploy"]
    assert description == {
        "model": "model.json",
        "params": "model.pdiparams",
        "transforms": NORMALIZE,
        "input_shape": [-1, 3, -1, -1],
        "output_op": "argmax",
        "output_dtype": "int32",
        "palette": [[1, 2, 3]],
    }


def test_other_files_in_the_folder_stay(tmp_path):
    (tmp_path / "model.pdparams").write_text("kept")
    export_bundle(network("PSPNet"), str(tmp_path))
    assert set(os.listdir(tmp_path)) == FILES | {"model.pdparams"}


def test_a_wrong_graph_is_not_exported(tmp_path, monkeypatch):
    """One weight differs between the network and its graph: verification notices, and nothing is left behind."""
    model = network("PSPNet")
    original = paddle.jit.save

    def save_tampered(graph, path, **options):
        model.head.conv.bias.set_value(model.head.conv.bias + paddle.to_tensor([5.0, 0, 0, 0, 0, 0]))
        original(graph, path, **options)
        model.head.conv.bias.set_value(model.head.conv.bias - paddle.to_tensor([5.0, 0, 0, 0, 0, 0]))

    monkeypatch.setattr(paddle.jit, "save", save_tampered)
    with pytest.raises(UserError, match="differs from the trained one"):
        export_bundle(model, str(tmp_path / "bundle"))
    assert os.listdir(tmp_path) == []


def test_verification_notices_a_changed_network(tmp_path):
    model = network("PSPNet")
    export_bundle(model, str(tmp_path / "bundle"), output_op="none")
    verify_bundle(str(tmp_path / "bundle"), model)
    model.backbone.conv1_1._conv.weight.set_value(model.backbone.conv1_1._conv.weight * 1.01)
    with pytest.raises(UserError, match="relative error"):
        verify_bundle(str(tmp_path / "bundle"), model)


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file, not a folder"):
        export_bundle(network("PSPNet"), str(tmp_path / "file"))


def test_predictions_of_images_of_any_size(tmp_path, write_config):
    """Class maps come at the size of the images, in order, and as the network itself gives them."""
    config = Config(write_config())
    model = config.build_model()
    export_bundle(model, str(tmp_path / "bundle"), NORMALIZE)
    paths = [image for image, _ in config.build_dataset("val_dataset").file_list]
    random = np.random.RandomState(0)
    images = [paths[0], random.randint(0, 256, (33, 50, 3)).astype("uint8"), *paths[1:]]
    maps = load_predictor(str(tmp_path / "bundle" / "deploy.yaml")).predict(images)
    assert [item.shape for item in maps] == [(48, 64), (33, 50), (48, 64), (48, 64)]
    matrix = ConfusionMatrix(19)
    for pred, (_, label) in zip([maps[0], *maps[2:]], config.build_dataset("val_dataset").file_list):
        matrix.update(pred, np.asarray(Image.open(label)))
    np.testing.assert_array_equal(
        matrix.counts, evaluate(model, config.build_dataset("val_dataset"), print_detail=False).counts
    )


def test_resized_images_come_back_at_their_size(tmp_path):
    transforms = [{"type": "Resize", "target_size": [96, 64]}, *NORMALIZE]
    export_bundle(network("PSPNet"), str(tmp_path / "bundle"), transforms, (1, 3, 64, 96))
    (result,) = load_predictor(str(tmp_path / "bundle")).predict([np.zeros((30, 70, 3), np.uint8)])
    assert result.shape == (30, 70)


def test_wrong_input_size_says_what_to_do(tmp_path):
    export_bundle(network("PSPNet"), str(tmp_path / "bundle"), input_shape=(1, 3, 64, 96))
    with pytest.raises(UserError, match=r"\[1, 3, 64, 96\], not \[1, 3, 32, 32\]; export it with --input_shape -1 3 32 32"):
        load_predictor(str(tmp_path / "bundle")).run(np.zeros((1, 3, 32, 32), np.float32))


@pytest.mark.parametrize("damage", ["no folder", "no parameters", "no yaml", "broken parameters"])
def test_broken_bundles(tmp_path, damage):
    bundle = tmp_path / "bundle"
    if damage != "no folder":
        export_bundle(network("PSPNet"), str(bundle))
    if damage == "no parameters":
        os.remove(bundle / "model.pdiparams")
    if damage == "no yaml":
        (bundle / "deploy.yaml").write_text("Deploy: 3")
    if damage == "broken parameters":
        (bundle / "model.pdiparams").write_bytes((bundle / "model.pdiparams").read_bytes()[:1000])
    with pytest.raises(UserError):
        load_predictor(str(bundle))


PREDICT = """
import sys, numpy as np
from paddleseg_psp.deploy import load_predictor
np.save(sys.argv[2], load_predictor(sys.argv[1]).run(np.load(sys.argv[3])))
"""


def test_psanet_runs_in_a_process_that_has_never_seen_its_operator(tmp_path):
    model = network("PSANet")
    export_bundle(model, str(tmp_path / "bundle"), output_op="none")
    x = paddle.randn([1, 3, 70, 90])
    np.save(tmp_path / "x.npy", x.numpy())
    process = run_python(["-c", PREDICT, tmp_path / "bundle", tmp_path / "out.npy", tmp_path / "x.npy"])
    assert process.returncode == 0, process.stderr
    assert relative_error(np.load(tmp_path / "out.npy"), model(x)[0].numpy()) < LOGITS_TOLERANCE


@pytest.mark.parametrize("shape", [(-1, 3, -1, -1), (1, 3, 64, 96)])
def test_psanet_of_plain_operators_needs_no_operator(tmp_path, monkeypatch, shape):
    monkeypatch.setenv("PSA_MASK_IMPL", "reference")
    export_bundle(network("PSANet"), str(tmp_path / "bundle"), input_shape=shape)
    assert b"paddleseg_psa" not in (tmp_path / "bundle" / "model.json").read_bytes()


def test_psanet_without_a_compiler_says_what_to_install(tmp_path):
    export_bundle(network("PSANet"), str(tmp_path / "bundle"))
    script = "from paddleseg_psp.ops import build; from pathlib import Path; import sys; build.PREBUILT = Path('/nowhere')\n"
    script += "from paddleseg_psp.deploy import load_predictor; load_predictor(sys.argv[1])"
    environment = {"CXX": "/nonexistent/g++", "PADDLESEG_PSP_CACHE": str(tmp_path / "cache")}
    process = run_python(["-c", script, tmp_path / "bundle"], env=environment)
    assert process.returncode != 0
    assert "Install g++" in process.stderr.splitlines()[-1]
