"""What paddle2onnx makes of the networks: pooling in bins is where it returned wrong numbers, or aborted."""

import os

import numpy as np
import onnx
import paddle
import pytest
from paddleseg.models.backbones import ResNet18_vd

from paddleseg_psp.bundle import export_bundle, graph, load_predictor
from paddleseg_psp.errors import UserError
from paddleseg_psp.models import PSANet, PSPNet
from tests.helpers import TinyBackbone, relative_error

TOLERANCE = 1e-5  # relative, float32


def network(name, backbone=TinyBackbone, **changes):
    options = {"pp_out_channels": 16} if name == "PSPNet" else {"mid_channels": 8, "head_channels": 16, "crop_size": (64, 96)}
    options.update(changes)
    paddle.seed(0)
    model = {"PSPNet": PSPNet, "PSANet": PSANet}[name](6, backbone(), **options)
    model(paddle.randn([2, 3, 64, 96]))
    model.eval()
    return model


@pytest.mark.parametrize("name", ["PSPNet", "PSANet"])
@pytest.mark.parametrize("shape", [(1, 3, 64, 96), (-1, 3, -1, -1)])
def test_other_runtimes_compute_what_the_network_computes(tmp_path, name, shape):
    """At sizes that nothing divides too; by standard operators alone, in a file that needs no more simplification."""
    model = network(name, ResNet18_vd)
    export_bundle(model, str(tmp_path), input_shape=shape, output_op="none", onnx=True)
    inputs = [
        paddle.randn([size[0], 3, *size[1:]]) for size in ([(1, 64, 96)] if shape[0] == 1 else [(1, 64, 96), (3, 97, 131)])
    ]
    for backend in ("onnxruntime", "openvino"):
        if backend == "openvino":
            pytest.importorskip(backend)
        predictor = load_predictor(str(tmp_path), backend)
        for x in inputs:
            with paddle.no_grad():
                expected = model(x)[0].numpy()
            assert relative_error(predictor.run(x.numpy()), expected) < TOLERANCE
    written = onnx.load(str(tmp_path / "model.onnx"))
    onnx.checker.check_model(written, full_check=True)
    assert {node.domain for node in written.graph.node} <= {"", "ai.onnx"}
    constants = {node.output[0]: node.attribute[0].t.dims for node in written.graph.node if node.op_type == "Constant"}
    shapes = [constants.get(node.input[1]) for node in written.graph.node if node.op_type == "Reshape"]
    assert shapes and [0] not in shapes  # reshaping to a scalar, which OpenVINO 2025 cannot read
    assert os.listdir(tmp_path).count("model.onnx") == 1 and not (tmp_path / "model.onnx.graph").exists()


VARIANTS = [
    ("PSPNet", {"bin_sizes": [1, None, 3, 6], "conv_bias": False}, (-1, 3, -1, -1)),
    ("PSANet", {"convention": "mmsegmentation", "mask_h": 4, "mask_w": 6}, (1, 3, 64, 96)),
    ("PSANet", {"convention": "mmsegmentation", "mask_h": 5, "mask_w": 8, "psa_type": "collect"}, (1, 3, 72, 88)),
    ("PSANet", {"compact": True}, (1, 3, 64, 96)),
]


@pytest.mark.parametrize("name, options, shape", VARIANTS)
def test_variants_of_other_frameworks(tmp_path, name, options, shape):
    """The export itself compares Paddle Inference and ONNX Runtime with the network."""
    model = network(name, **options)
    comparisons = export_bundle(model, str(tmp_path), input_shape=shape, output_op="none", onnx=True)
    assert {item.backend for item in comparisons} >= {"Paddle Inference, oneDNN on", "ONNX Runtime"}
    assert max(item.error for item in comparisons) < TOLERANCE


@pytest.mark.parametrize("options", [{"compact": True}, {"convention": "mmsegmentation"}])
def test_attention_that_depends_on_the_size_asks_for_one(tmp_path, options):
    with pytest.raises(UserError, match="depends on the image size: export it for one size with --input_shape 1 3 H W"):
        export_bundle(network("PSANet", **options), str(tmp_path / "bundle"))
    assert not (tmp_path / "bundle").exists()


def test_simplifiers_take_it(tmp_path):
    onnxsim = pytest.importorskip("onnxsim")
    for name in ("PSPNet", "PSANet"):
        export_bundle(network(name), str(tmp_path / name), onnx=True)
        _, same = onnxsim.simplify(str(tmp_path / name / "model.onnx"), test_input_shapes={"x": [1, 3, 97, 131]})
        assert same


@pytest.mark.parametrize("name", ["PSPNet", "PSANet"])
def test_all_backends_and_batch_sizes_give_the_networks_classes(tmp_path, name):
    model, random = network(name, ResNet18_vd), np.random.RandomState(0)
    export_bundle(model, str(tmp_path), [{"type": "Normalize"}], onnx=True)
    images = [random.randint(0, 256, (*size, 3)).astype(np.uint8) for size in [(64, 96)] * 4 + [(65, 97)] * 3 + [(33, 190)]]
    expected = []
    for image in images:
        x = paddle.to_tensor(load_predictor(str(tmp_path)).prepare(image)[0][np.newaxis])
        expected.append(model(x)[0].argmax(1).numpy()[0])
    backends = [("paddle", True), ("paddle", False), ("onnxruntime", None)]
    for backend, onednn in backends:
        predictor = load_predictor(str(tmp_path), backend, onednn=onednn)
        for batch_size in (1, 3, None):
            maps = predictor.predict(images, batch_size)
            same = [np.mean(actual == wanted) for actual, wanted in zip(maps, expected)]
            assert min(same) >= 0.9999


def test_a_changed_file_is_not_exported(tmp_path, monkeypatch):
    """One weight of one convolution, by a hundredth of its size, and the bundle gives classes, which hardly change."""
    original = graph.write_onnx

    def write_tampered(model, path, *arguments):
        original(model, path, *arguments)
        written = onnx.load(path)
        constants = [node.attribute[0].t for node in written.graph.node if node.op_type == "Constant"]
        kernel = next(item for item in constants if len(item.dims) == 4)
        values = onnx.numpy_helper.to_array(kernel).copy()
        values.flat[np.abs(values).argmax()] *= 1.01
        kernel.CopyFrom(onnx.numpy_helper.from_array(values, kernel.name))
        onnx.save(written, path)

    monkeypatch.setattr("paddleseg_psp.bundle.writing.write_onnx", write_tampered)
    with pytest.raises(UserError, match="differs from the trained one: at input .* in ONNX Runtime"):
        export_bundle(network("PSPNet"), str(tmp_path / "bundle"), onnx=True)
    assert os.listdir(tmp_path) == []


def test_an_aborting_exporter_ends_the_export_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "_CONVERT", "import os; print('reason'); os.abort()")
    with pytest.raises(UserError, match="paddle2onnx could not convert the network"):
        export_bundle(network("PSPNet"), str(tmp_path / "bundle"), onnx=True)
    assert os.listdir(tmp_path) == []


def test_backends_that_cannot_be_had(tmp_path, monkeypatch):
    export_bundle(network("PSPNet"), str(tmp_path), verify=False)
    with pytest.raises(UserError, match="no onnx file for the backend onnxruntime; export it with --onnx"):
        load_predictor(str(tmp_path), "onnxruntime")
    with pytest.raises(UserError, match="there is no backend 'onnx-runtime'; did you mean onnxruntime"):
        load_predictor(str(tmp_path), "onnx-runtime")
    monkeypatch.setattr("paddle.is_compiled_with_cuda", lambda: False)
    with pytest.raises(UserError, match="device gpu: this Paddle has no GPU; choose cpu"):
        load_predictor(str(tmp_path), device="gpu")
    export_bundle(network("PSPNet"), str(tmp_path), onnx=True, verify=False)
    for name in ("onnxruntime", "openvino"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
        with pytest.raises(UserError, match=f"pip install {name}"):
            load_predictor(str(tmp_path), name)
