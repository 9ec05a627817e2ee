"""What a configuration says of windows, scales, flips and resizing holds in val, predict, bundles and the service."""

import glob
import io
import os
import re

import numpy as np
import onnx
import pytest
import yaml
from fastapi.testclient import TestClient
from PIL import Image

from paddleseg_psp.bundle import load_predictor
from paddleseg_psp.bundle.quantization import quantize_bundle
from paddleseg_psp.commands import export, predict, val
from paddleseg_psp.config import Config
from paddleseg_psp.errors import UserError
from paddleseg_psp.models.weights import read_weights, write_weights
from paddleseg_psp.service.app import create_app
from tests.helpers import run_tool

WINDOWS = {"is_slide": True, "crop_size": [32, 24], "stride": [20, 16]}
FLIPS = {"aug_eval": True, "scales": [0.75, 1.0], "flip_horizontal": True}
NORMALIZE = {"type": "Normalize"}
SHORT = {"type": "ResizeByShort", "short_size": 40}


@pytest.fixture
def config(write_config, tiny_data, request):
    """A configuration with the parameter's (test_config, transforms)."""
    views, transforms = request.param
    dataset = {"type": "Cityscapes", "dataset_root": str(tiny_data), "mode": "val"}
    return write_config(val_dataset={**dataset, "transforms": transforms}, test_config=views)


VIEWS = [
    (WINDOWS, [NORMALIZE]),
    (FLIPS, [NORMALIZE]),
    ({**FLIPS, **WINDOWS}, [SHORT, NORMALIZE]),
    (None, [SHORT, NORMALIZE]),
    (WINDOWS, [SHORT, {"type": "PadShortSides", "size": [80, 64]}, NORMALIZE]),
]


@pytest.fixture
def weights(trained, tmp_path):
    """The trained network's, with a classifier whose classes are far apart: rounding moves no pixel from one to another."""
    values = read_weights(trained[1])
    for name in ("head.conv.weight", "head.conv.bias"):
        values[name] = np.random.RandomState(0).randn(*values[name].shape).astype(np.float32)
    write_weights(str(tmp_path / "apart.pdparams"), values)
    return str(tmp_path / "apart.pdparams")


def class_maps(folder):
    paths = sorted(glob.glob(os.path.join(folder, "**", "*.png"), recursive=True))
    return {os.path.relpath(path, folder): np.asarray(Image.open(path)) for path in paths}


@pytest.mark.parametrize("config", VIEWS, ids=["windows", "flips", "all", "resized", "padded"], indirect=True)
def test_every_command_looks_alike(config, weights, tiny_data, tmp_path, capfd):
    base = ["--config", config, "--model_path", weights, "--device", "cpu"]
    capfd.readouterr()
    val.main(base)
    expected = re.search(r"\[EVAL\] #Images.*", capfd.readouterr().out)[0]
    val.main([*base, "--opts", "test_config=null", "val_dataset.transforms=[{type: Normalize}]"])
    assert re.search(r"\[EVAL\] #Images.*", capfd.readouterr().out)[0] != expected
    images = tiny_data / "leftImg8bit" / "val"
    predict.main([*base, "--image_path", str(images), "--save_dir", str(tmp_path / "maps")])
    maps = class_maps(tmp_path / "maps" / "pseudo_color_prediction")
    export.main([*base, "--save_dir", str(tmp_path / "bundle"), "--onnx"])
    for backend in ("paddle", "onnxruntime"):
        where = [f"--config={tmp_path}/bundle/deploy.yaml", f"--backend={backend}"]
        process = run_tool("deploy/python/evaluate.py", [*where, f"--dataset={config}"], capfd)
        assert expected in process.stdout, process.stderr
        process = run_tool(
            "deploy/python/infer.py", [*where, f"--image_path={images}", f"--save_dir={tmp_path}/{backend}"], capfd
        )
        assert process.returncode == 0, process.stderr
        inferred = class_maps(tmp_path / backend)
        assert inferred.keys() == maps.keys() and len(maps) == 3
        for name, classes in maps.items():
            assert (inferred[name] == classes).mean() > 0.9999
    with TestClient(create_app(load_predictor(str(tmp_path / "bundle"), "onnxruntime"))) as client:
        for name in maps:
            answer = client.post("/predict?output=ids", content=(images / name).read_bytes())
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), inferred[name])


@pytest.mark.parametrize("config", VIEWS[:1], indirect=True)
def test_flags_come_before_the_configuration(config, trained, capfd):
    base = ["--config", config, "--model_path", trained[1], "--device", "cpu"]
    lines = []
    for more in ([], ["--crop_size", "32", "24"], ["--stride", "32", "24"], ["--opts", "test_config.stride=[32,24]"]):
        capfd.readouterr()
        val.main([*base, *more])
        lines.append(re.search(r"\[EVAL\] #Images.*", capfd.readouterr().out)[0])
    assert lines[0] == lines[1] != lines[2] == lines[3]
    val.main([*base, "--flip_horizontal"])
    assert "--scales and flips do nothing without --aug_eval" in capfd.readouterr().out


@pytest.mark.parametrize("config", VIEWS[2:3], indirect=True)
def test_int8_is_calibrated_on_what_the_network_gets(config, trained, tmp_path, monkeypatch):
    export.main(["--config", config, "--model_path", trained[1], "--save_dir", str(tmp_path), "--onnx", "--no-verify"])
    config, shapes = Config(config), []
    monkeypatch.setattr("paddleseg_psp.bundle.quantization._images_per_second", lambda *_: (1.0, 2.0))
    from onnxruntime.quantization import calibrate

    original = calibrate.MinMaxCalibrater.collect_data

    def collect(self, reader):
        class Noting:
            def get_next(self):
                inputs = reader.get_next()
                shapes.extend([] if inputs is None else [inputs["x"].shape])
                return inputs

        original(self, Noting())

    monkeypatch.setattr(calibrate.MinMaxCalibrater, "collect_data", collect)
    quantize_bundle(str(tmp_path), config.build_dataset("train_dataset"), config.build_dataset("val_dataset"), images=4)
    assert shapes and set(shapes) == {(1, 3, 24, 32)}
    assert load_predictor(str(tmp_path), "onnxruntime", precision="int8").views.options() == config.test_config()


@pytest.mark.parametrize("config", VIEWS[:1], indirect=True)
def test_fixed_sizes(config, trained, tmp_path, capfd):
    """A network for one size takes the windows, whatever size images have."""
    base = ["--config", config, "--model_path", trained[1], "--save_dir", str(tmp_path), "--no-verify"]
    with pytest.raises(SystemExit):
        export.main([*base, "--input_shape", "1", "3", "48", "64"])
    assert "export with --input_shape 1 3 24 32" in capfd.readouterr().err
    export.main([*base, "--input_shape", "1", "3", "24", "32"])
    predictor = load_predictor(str(tmp_path))
    (classes,) = predictor.predict([np.zeros((70, 90, 3), np.uint8)])
    assert classes.shape == (70, 90) and predictor.fits((3, 70, 90)) and not predictor.fits((3, 20, 90))


@pytest.mark.parametrize("config", VIEWS[:1], indirect=True)
def test_bundles_with_classes_alone(config, trained, tmp_path):
    """As PaddleSeg exports them: the graph has no logits, which windows need."""
    export.main(["--config", config, "--model_path", trained[1], "--save_dir", str(tmp_path), "--no-verify"])
    predictor = load_predictor(str(tmp_path))
    predictor._has_logits = False
    with pytest.raises(UserError, match="this bundle gives classes only"):
        predictor.predict([np.zeros((70, 90, 3), np.uint8)])
    predictor.run(np.zeros((1, 3, 24, 32), np.float32))


@pytest.mark.parametrize("config", VIEWS[:1], indirect=True)
def test_damaged_files_are_not_loaded(config, trained, tmp_path):
    export.main(["--config", config, "--model_path", trained[1], "--save_dir", str(tmp_path), "--onnx", "--no-verify"])
    for name, backend in (("model.json", "paddle"), ("model.pdiparams", "paddle"), ("model.onnx", "onnxruntime")):
        path = tmp_path / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :])
        with pytest.raises(UserError, match=f"{name} is damaged or was replaced"):
            load_predictor(str(tmp_path), backend)
        path.write_bytes(whole)
        load_predictor(str(tmp_path), backend)
    description = yaml.safe_load((tmp_path / "deploy.yaml").read_text())
    del description["Deploy"]["sha256"]["model.onnx"]
    (tmp_path / "deploy.yaml").write_text(yaml.safe_dump(description))
    onnx.save(onnx.load(tmp_path / "model.onnx"), tmp_path / "model.onnx")  # replaced on purpose
    load_predictor(str(tmp_path), "onnxruntime")
