import os

import numpy as np
import paddle
import pytest
import yaml
from paddleseg.models.backbones import ResNet18_vd
from paddleseg.transforms import Compose
from PIL import Image

from paddleseg_psp import registry
from paddleseg_psp.bundle import export_bundle, load_predictor, verify_bundle
from paddleseg_psp.config import Config
from paddleseg_psp.data import CheckedDataset
from paddleseg_psp.engine import evaluate
from paddleseg_psp.engine.inference import predict_classes
from paddleseg_psp.engine.metrics import ConfusionMatrix
from paddleseg_psp.errors import UserError
from paddleseg_psp.files import sha256
from paddleseg_psp.models import PSANet, PSPNet
from tests.helpers import TinyBackbone, relative_error, run_python

FILES = {"model.json", "model.pdiparams", "deploy.yaml", "MODEL_CARD.md"}
LOGITS_TOLERANCE = 1e-5  # relative, float32
NORMALIZE = [{"type": "Normalize"}]


def network(name, backbone=TinyBackbone, **options):
    """A network with the statistics of some training, so that its classes vary."""
    paddle.seed(1)
    if name == "PSANet":
        options = {"mid_channels": 8, "head_channels": 16, "aux_channels": 8, "crop_size": (64, 96), **options}
    else:
        options = {"pp_out_channels": 16, **options}
    model = {"PSANet": PSANet, "PSPNet": PSPNet}[name](6, backbone(), **options)
    for _ in range(2):
        model(paddle.randn([2, 3, 64, 96]))
    model.eval()
    return model


@pytest.mark.filterwarnings("error:Find variable")  # of Paddle's conversion to a static graph: users would see it
@pytest.mark.parametrize("name", ["PSPNet", "PSANet"])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("shape", [(-1, 3, -1, -1), (1, 3, 64, 96), (2, 3, 65, 97)])
def test_exported_networks_compute_what_the_network_computes(tmp_path, name, align_corners, shape):
    """At sizes that the exporter never saw, with oneDNN on and off."""
    model = network(name, ResNet18_vd, align_corners=align_corners)
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
    comparisons = export_bundle(network("PSANet", ResNet18_vd, **options), str(tmp_path / "bundle"))
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
    assert all(item.error < LOGITS_TOLERANCE for item in comparisons)
    assert relative_error(load_predictor(str(tmp_path / "bundle")).logits(x.numpy()), logits.numpy()) < LOGITS_TOLERANCE


def test_description_says_how_to_use_the_network(tmp_path):
    names = ["straße", *"bcdef"]
    metrics = {"mIoU": 0.5}
    export_bundle(
        network("PSANet"), str(tmp_path), NORMALIZE, palette=[(1, 2, 3)] * 6, class_names=names, ignore_index=0, metrics=metrics
    )
    assert set(os.listdir(tmp_path)) == FILES | {"psa_operators.so"}
    description = yaml.safe_load((tmp_path / "deploy.yaml").read_text(encoding="utf-8"))["Deploy"]
    assert description == {
        "model": "model.json",
        "params": "model.pdiparams",
        "transforms": NORMALIZE,
        "input_shape": [-1, 3, -1, -1],
        "output_op": "argmax",
        "output_dtype": "int32",
        "ignore_index": 0,
        "weights": "float32",
        "paddle_version": paddle.__version__,
        "sha256": {name: sha256(tmp_path / name) for name in ("model.json", "model.pdiparams", "psa_operators.so")},
        "multiply_adds_per_pixel": description["multiply_adds_per_pixel"],
        "mask_size": [7, 11],
        "operators": "psa_operators.so",
        "class_names": names,
        "palette": [[1, 2, 3]] * 6,
    }
    card = (tmp_path / "MODEL_CARD.md").read_text(encoding="utf-8")
    for words in ("# PSANet with TinyBackbone", "mIoU: 0.5", "| 0 | straße | 1, 2, 3 |", "100.0000%", "7x11"):
        assert words in card


def test_other_files_in_the_folder_stay(tmp_path):
    """But not those of an earlier bundle."""
    (tmp_path / "model.pdparams").write_text("kept")
    (tmp_path / "model.onnx").write_text("of a bundle that was here before")
    export_bundle(network("PSPNet"), str(tmp_path))
    assert set(os.listdir(tmp_path)) == FILES | {"model.pdparams"}


def test_a_wrong_graph_is_not_exported(tmp_path, monkeypatch):
    """One weight differs a little between the network and its graph: verification notices, and nothing is left behind."""
    model = network("PSPNet")
    original = paddle.jit.save

    def save_tampered(graph, path, **options):
        model.head.conv.bias.set_value(model.head.conv.bias + paddle.to_tensor([1e-3, 0, 0, 0, 0, 0]))
        original(graph, path, **options)
        model.head.conv.bias.set_value(model.head.conv.bias - paddle.to_tensor([1e-3, 0, 0, 0, 0, 0]))

    monkeypatch.setattr(paddle.jit, "save", save_tampered)
    with pytest.raises(UserError, match="differs from the trained one: 1 of .* parameters"):
        export_bundle(model, str(tmp_path / "bundle"))
    assert os.listdir(tmp_path) == []
    export_bundle(model, str(tmp_path / "bundle"), verify=False)
    assert "Not compared" in (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    with pytest.raises(UserError, match="differs from the trained one"):
        verify_bundle(str(tmp_path / "bundle"), model)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("output_op", ["argmax", "softmax", "none"])
def test_values_that_are_not_finite_are_not_exported(tmp_path, value, output_op):
    """A diverged network gives class 0 everywhere, in its graph too: all pixels would agree."""
    model = network("PSPNet")
    model.head.conv.bias.set_value(paddle.to_tensor([value, 0, 0, 0, 0, 0], dtype="float32"))
    with pytest.raises(UserError, match="1 parameters of the network are not finite, e.g. head.conv.bias"):
        export_bundle(model, str(tmp_path / "bundle"), output_op=output_op)
    model.head.conv.bias.set_value(paddle.full([6], 3e38))  # finite, but not what comes of it
    model.head.conv.weight.set_value(model.head.conv.weight * 1e38)
    with pytest.raises(UserError, match="the network's own output at input .* is not finite"):
        export_bundle(model, str(tmp_path / "bundle"), output_op=output_op)
    assert os.listdir(tmp_path) == []


def test_a_wrong_computation_is_not_exported(tmp_path, monkeypatch):
    """All parameters are right, and one operation is not."""
    model = network("PSPNet")
    original = paddle.jit.save

    def save_tampered(graph, path, **options):
        original(graph, path, **options)
        with open(path + ".json") as file:
            text = file.read()
        assert '"1.relu"' in text
        with open(path + ".json", "w") as file:
            file.write(text.replace('"1.relu"', '"1.sigmoid"', 1))

    monkeypatch.setattr(paddle.jit, "save", save_tampered)
    with pytest.raises(UserError, match="differs from the trained one: at input"):
        export_bundle(model, str(tmp_path / "bundle"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["PSPNet", "PSANet"])
def test_half_of_the_space(tmp_path, name):
    """Weights rounded to float16 are computed with as float32."""
    model = network(name)
    export_bundle(model, str(tmp_path / "whole"), output_op="none")
    comparisons = export_bundle(model, str(tmp_path / "half"), output_op="none", half_weights=True, onnx=True)
    assert max(item.error for item in comparisons) < 1e-5
    sizes = [os.path.getsize(tmp_path / kind / "model.pdiparams") for kind in ("whole", "half")]
    assert 0.49 < sizes[1] / sizes[0] < 0.6  # statistics and biases stay as they are
    x = paddle.randn([1, 3, 64, 96])
    expected = model(x)[0].numpy()
    for backend in ("paddle", "onnxruntime"):
        assert 1e-6 < relative_error(load_predictor(str(tmp_path / "half"), backend).run(x.numpy()), expected) < 1e-2
    with pytest.raises(UserError, match="beyond float16's range"):
        model.backbone.stages[0]._conv.weight.set_value(model.backbone.stages[0]._conv.weight * 1e6)
        export_bundle(model, str(tmp_path / "half"), half_weights=True)


def test_verification_notices_a_changed_network(tmp_path):
    model = network("PSPNet")
    export_bundle(model, str(tmp_path / "bundle"), output_op="none")
    verify_bundle(str(tmp_path / "bundle"), model)
    kernel = model.backbone.stages[0]._conv.weight
    kernel.set_value(kernel * 1.01)
    with pytest.raises(UserError, match="1 of .* parameters"):
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


@pytest.mark.parametrize("output_op", ["none", "softmax"])
@pytest.mark.parametrize(
    "transform", [{"type": "Resize", "target_size": [96, 64]}, {"type": "ResizeByShort", "short_size": 40}]
)
def test_scores_are_resized_as_in_evaluation(tmp_path, output_op, transform):
    model, transforms = network("PSPNet"), [transform, *NORMALIZE]
    export_bundle(model, str(tmp_path), transforms, output_op=output_op)
    image = np.random.RandomState(0).randint(0, 256, (50, 70, 3)).astype("uint8")
    sample = Compose([registry.build(item, "here") for item in transforms])({"img": image.astype("float32"), "gt_fields": []})
    expected = predict_classes(model, paddle.to_tensor(sample["img"][np.newaxis]), sample["trans_info"])
    (actual,) = load_predictor(str(tmp_path)).predict([image])
    # probabilities and logits are not interpolated alike, and evaluation does logits
    assert (actual == expected).mean() >= (0.9999 if output_op == "none" else 0.99)


def test_images_are_prepared_as_for_the_trained_network(tmp_path, write_config):
    """To the bit."""
    config = Config(write_config())
    export_bundle(network("PSPNet"), str(tmp_path), config.data["val_dataset"]["transforms"])
    predictor, dataset = load_predictor(str(tmp_path)), config.build_dataset("val_dataset")
    for index, (path, _) in enumerate(dataset.file_list):
        np.testing.assert_array_equal(predictor.prepare(path)[0], CheckedDataset(dataset)[index]["img"])


def test_grey_images(tmp_path):
    """As many channels as the network has."""
    model = PSPNet(2, TinyBackbone(in_channels=1), pp_out_channels=8)
    model.eval()
    export_bundle(model, str(tmp_path), [{"type": "Normalize", "mean": [0.5], "std": [0.5]}], (-1, 1, -1, -1), onnx=True)
    for backend in ("paddle", "onnxruntime"):
        (result,) = load_predictor(str(tmp_path), backend).predict([np.zeros((40, 50), np.uint8)])
        assert result.shape == (40, 50)


def test_wrong_input_size_says_what_to_do(tmp_path):
    export_bundle(network("PSPNet"), str(tmp_path / "bundle"), input_shape=(1, 3, 64, 96))
    with pytest.raises(UserError, match=r"\[1, 3, 64, 96\], not \[1, 3, 32, 32\]; export it with --input_shape -1 3 32 32"):
        load_predictor(str(tmp_path / "bundle")).run(np.zeros((1, 3, 32, 32), np.float32))


def test_a_fixed_batch_takes_any_number_of_images(tmp_path):
    export_bundle(network("PSPNet"), str(tmp_path), input_shape=(2, 3, 64, 96), output_op="none", onnx=True)
    x = paddle.randn([5, 3, 64, 96]).numpy()
    for backend in ("paddle", "onnxruntime"):
        predictor = load_predictor(str(tmp_path), backend)
        outputs = predictor.run(x)
        assert len(outputs) == 5
        np.testing.assert_array_equal(predictor.run(x[:1]), outputs[:1])


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
from paddleseg_psp.bundle import load_predictor
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


def test_psanet_without_a_compiler(tmp_path):
    """Takes the operators from the bundle if the user trusts them, and tells their checksum; else it says what to do."""
    export_bundle(network("PSANet"), str(tmp_path / "bundle"))
    script = "from pathlib import Path; import sys\n"
    script += "from paddleseg_psp.ops.library import variant; variant.PREBUILT = Path('/nowhere')\n"
    script += "from paddleseg_psp.bundle import load_predictor; import numpy as np\n"
    script += "for _ in range(2): load_predictor(sys.argv[1], trust_operators=len(sys.argv) > 2)"
    script += ".run(np.zeros((1, 3, 64, 96), np.float32))"
    environment = {"CXX": "/nonexistent/g++", "PADDLESEG_PSP_CACHE": str(tmp_path / "cache")}
    digest = sha256(str(tmp_path / "bundle" / "psa_operators.so"))
    process = run_python(["-c", script, tmp_path / "bundle"], env=environment)
    last = process.stderr.splitlines()[-1]
    assert process.returncode != 0 and digest in last and "--trust-operators loads it" in last
    process = run_python(["-c", script, tmp_path / "bundle", "trusted"], env=environment)
    assert process.returncode == 0, process.stderr
    assert f"SHA-256 {digest}, because of --trust-operators" in process.stdout
    os.remove(tmp_path / "bundle" / "psa_operators.so")
    process = run_python(["-c", script, tmp_path / "bundle"], env=environment)
    assert process.returncode != 0
    assert "Install g++" in process.stderr.splitlines()[-1]
