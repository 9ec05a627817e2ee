"""What paddle2onnx makes of the exported graphs: pooling in bins is where it returned wrong numbers, or aborted."""

import onnxruntime
import paddle
import pytest
from helpers import relative_error, run_python
from paddleseg.models.backbones import ResNet18_vd

from paddleseg_psp.deploy import export_bundle
from paddleseg_psp.models import PSANet, PSPNet

TOLERANCE = 1e-5  # relative, float32

# In a process of its own, since the exporter may abort; its default optimize_tool installs packages.
CONVERT = """
import sys, paddle2onnx
graph, parameters, target = sys.argv[1:]
paddle2onnx.export(graph, parameters, target, opset_version=13, optimize_tool=None)
"""


@pytest.mark.parametrize("name", ["PSPNet", "PSANet"])
@pytest.mark.parametrize("shape", [(1, 3, 64, 96), (-1, 3, -1, -1)])
def test_onnx_runtime_computes_what_the_network_computes(tmp_path, monkeypatch, name, shape):
    monkeypatch.setenv("PSA_MASK_IMPL", "reference")  # ONNX has no such operator
    options = {"pp_out_channels": 16} if name == "PSPNet" else {"mid_channels": 8, "head_channels": 16, "crop_size": (64, 96)}
    model = {"PSPNet": PSPNet, "PSANet": PSANet}[name](6, ResNet18_vd(), **options)
    model(paddle.randn([2, 3, 64, 96]))
    export_bundle(model, str(tmp_path), input_shape=shape, output_op="none")
    target = tmp_path / "model.onnx"
    process = run_python(["-c", CONVERT, tmp_path / "model.json", tmp_path / "model.pdiparams", target])
    assert process.returncode == 0 and target.exists(), process.stderr
    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    for size in [(1, 64, 96)] if shape[0] == 1 else [(1, 64, 96), (2, 97, 131)]:
        x = paddle.randn([size[0], 3, *size[1:]])
        with paddle.no_grad():
            expected = model(x)[0].numpy()
        assert relative_error(session.run(None, {"x": x.numpy()})[0], expected) < TOLERANCE
