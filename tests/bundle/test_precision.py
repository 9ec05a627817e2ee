"""bfloat16 on the CPU, emulated or left out where the processor lacks it."""

import os
import re

import numpy as np
import paddle
import pytest
from paddleseg.models.backbones import ResNet18_vd

from paddleseg_psp import environment
from paddleseg_psp.bundle import export_bundle, load_predictor
from paddleseg_psp.bundle.precision import PrecisionCost, precision_costs, require_cheap
from paddleseg_psp.commands.export import main as export
from paddleseg_psp.config import Config
from paddleseg_psp.errors import UserError
from tests.bundle.test_bundle import NORMALIZE, network
from tests.helpers import relative_error

STEP = 2**-8  # of bfloat16
EPYC_7B12 = "flags\t\t: fpu sse4_2 fma avx avx2 bmi2 sha_ni clzero umip\n"  # no bfloat16
XEON_8481C = "flags\t\t: fpu sse4_2 fma avx2 avx512f avx512_bf16 amx_bf16 amx_tile amx_int8\n"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("bf16") / "bundle")
    export_bundle(network("PSANet", ResNet18_vd), folder, NORMALIZE, (1, 3, 64, 96), "none", onnx=True)
    return folder


@pytest.mark.parametrize("backend", ["paddle", "openvino"])
def test_bfloat16_is_used_and_near_float32(bundle, backend):
    """It must differ where the processor has it: a setting without effect would pass for exact."""
    if backend == "openvino":
        pytest.importorskip(backend)
    x = np.random.RandomState(0).randn(1, 3, 64, 96).astype(np.float32)
    expected = load_predictor(bundle, backend).run(x)
    actual = load_predictor(bundle, backend, precision="bf16", emulate=True).run(x)
    assert actual.dtype == np.float32 and relative_error(actual, expected) < 10 * STEP
    assert (actual.argmax(1) == expected.argmax(1)).mean() > 0.97
    if environment.has_bfloat16():
        assert relative_error(actual, expected) > STEP / 10


def test_where_there_is_no_bfloat16(bundle, monkeypatch):
    info = {}
    monkeypatch.setattr(environment, "read_if_there", info.get)
    for flags, there in ((XEON_8481C, True), ("", False), (EPYC_7B12, False)):
        info["/proc/cpuinfo"] = f"processor\t: 0\nmodel name\t: a\n{flags}"
        assert environment.has_bfloat16() is there
    for backend in ("paddle", "openvino"):
        with pytest.raises(UserError, match="no bfloat16 .*--emulate"):
            load_predictor(bundle, backend, precision="bf16")
    load_predictor(bundle, precision="bf16", emulate=True)


def test_openvino_sees_bfloat16_too():
    openvino = pytest.importorskip("openvino")
    if environment.has_bfloat16():
        assert "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"backend": "onnxruntime"}, "onnxruntime has no precision 'bf16'"),
        ({"device": "gpu"}, "bf16 is for the CPU"),
        ({"onednn": False}, "needs oneDNN"),
        ({"precision": "fp16"}, "paddle has no precision 'fp16': fp32 everywhere, bf16 in paddle and openvino"),
    ],
)
def test_refused(bundle, options, message):
    with pytest.raises(UserError, match=message):
        load_predictor(bundle, **{"precision": "bf16", "emulate": True, **options})


def test_the_cost_on_a_data_set(tmp_path, write_config, monkeypatch):
    """Is what one counts by hand."""
    monkeypatch.setattr("paddleseg_psp.bundle.predictor.has_bfloat16", lambda: True)
    config = Config(write_config())
    export_bundle(config.build_model(), str(tmp_path / "bundle"), NORMALIZE, onnx=True)
    dataset = config.build_dataset("val_dataset")
    images = [image for image, _ in dataset.file_list]
    for cost in precision_costs(str(tmp_path / "bundle"), dataset):
        maps = [
            load_predictor(str(tmp_path / "bundle"), cost.backend, precision=name, emulate=True).predict(images)
            for name in ("fp32", "bf16")
        ]
        assert cost.changed == np.mean(np.array(maps[0]) != np.array(maps[1]))
        assert cost.images == len(images) and cost.miou[0] == pytest.approx(cost.miou[1], abs=0.1)
    with pytest.raises(UserError, match="2.000% of the pixels .* openvino, more than --most_changed 0.01; mIoU goes from 0.7"):
        require_cheap([PrecisionCost("paddle", 9, 0.01, (0.7, 0.7)), PrecisionCost("openvino", 9, 0.02, (0.7, 0.6))], 0.01)


def test_export_proves_bfloat16(tmp_path, write_config, monkeypatch, capsys):
    for module in ("bundle.predictor", "commands.export"):
        monkeypatch.setattr(f"paddleseg_psp.{module}.has_bfloat16", lambda: True)
    config, weights = write_config(), str(tmp_path / "model.pdparams")
    paddle.save(Config(config).build_model().state_dict(), weights)
    command = ["--config", config, "--model_path", weights, "--verify_precision", "bf16", "--save_dir"]
    export([*command, str(tmp_path / "bundle")])
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    section = card.partition("## In bfloat16")[2]
    assert re.search(r"\| paddle \| 3 \| \d+\.\d{3}% \| 0\.\d{4} \| 0\.\d{4} \|", section), card
    for limit in ("nan", "-1"):
        with pytest.raises(SystemExit):
            export([*command, str(tmp_path / "other"), "--most_changed", limit])
        assert f"more than --most_changed {limit}" in capsys.readouterr().err
    costly = [PrecisionCost("paddle", 3, 0.5, (0.7, 0.6))]
    monkeypatch.setattr("paddleseg_psp.commands.export.precision_costs", lambda bundle, dataset: costly)
    with pytest.raises(SystemExit):
        export([*command, str(tmp_path / "other")])
    assert "50.000% of the pixels change their class in paddle" in capsys.readouterr().err
    assert not os.path.exists(tmp_path / "other")
    monkeypatch.setattr("paddleseg_psp.commands.export.has_bfloat16", lambda: False)
    with pytest.raises(SystemExit):
        export([*command, str(tmp_path / "other")])
    assert "--verify_precision bf16 needs a processor with bfloat16" in capsys.readouterr().err
    assert not os.path.exists(tmp_path / "other")
