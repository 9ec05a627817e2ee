"""What the configuration text in a checkpoint of mmsegmentation may say: options of the kinds that belong there."""

import numpy as np
import pytest

from paddleseg_psp.convert import convert
from paddleseg_psp.convert.mmsegmentation_config import _KINDS
from paddleseg_psp.convert.torch_files import write_torch
from paddleseg_psp.errors import UserError
from tests.helpers import load_golden

COMPONENTS = ["dict(type='VisionTransformer')", "[dict(type='VisionTransformer')]", '\'__import__("os").system("true")\'']
WRONG = {
    "align_corners": ["1", "'True'", "2.5", *COMPONENTS],
    "psa_type": ["'sideways'", "5", *COMPONENTS],
    "compact": ["'yes'", "[True]", *COMPONENTS],
    "shrink_factor": ["0", "-1", "65", "1.5", "True", "'2'", "1000000000", *COMPONENTS],
    "normalization_factor": ["0", "1e300", "'one'", "True", *COMPONENTS],
    "psa_softmax": ["0", "'no'", *COMPONENTS],
    "pool_scales": ["6", "()", "(0,)", "(1, 2000)", "('a',)", str((1,) * 20), "((1, 2),)", *COMPONENTS],
    "dropout_ratio": ["1", "-0.1", "'0.1'", "1e999", *COMPONENTS],
    "mask_size": ["9", "(9,)", "(9, 13, 5)", "(0, 13)", "(9, 100000)", "(9.5, 13)", *COMPONENTS],
    "contract_dilation": ["1", "'True'", *COMPONENTS],
    "style": ["'tensorflow'", "1", "['caffe']", *COMPONENTS],
    "strides": ["(1, 2)", "(1, 2, 2, 0)", "(1, 2, 2, 99)", "2", "('1', 2, 2, 1)", *COMPONENTS],
    "dilations": ["(1, 1)", "(1, 1, 1, 1000)", "(1, 1, 1, -2)", "4", *COMPONENTS],
    "mean": ["0", "()", "(1e300, 0, 0)", "('a', 'b', 'c')", *COMPONENTS],
    "std": ["1", "(0, 1, 1)", "(-1, 1, 1)", "('1', '1', '1')", *COMPONENTS],
    "to_rgb": ["'yes'", "2", *COMPONENTS],
    "bgr_to_rgb": ["'yes'", "2", *COMPONENTS],
    "mode": ["'tiles'", "3", *COMPONENTS],
    "crop_size": ["61", "(61,)", "(0, 97)", "(61, 10000000)", "(61.5, 97)", *COMPONENTS],
    "stride": ["40", "(40, 64, 5)", "(-40, 64)", "('40', '64')", *COMPONENTS],
}
PLACES = {
    "model.decode_head": {"align_corners", "psa_type", "compact", "shrink_factor", "normalization_factor", "psa_softmax"}
    | {"pool_scales", "dropout_ratio", "mask_size"},
    "model.backbone": {"contract_dilation", "style", "strides", "dilations"},
    "model.data_preprocessor": {"mean", "std", "to_rgb", "bgr_to_rgb"},
    "model.test_cfg": {"mode", "crop_size", "stride"},
}


@pytest.fixture(scope="module")
def weights():
    golden = load_golden("model_mmseg_r50c8_psahead_ac0")
    return {key[3:]: value for key, value in golden.items() if key.startswith("sd/")}


def text_of(where, value):
    """Returns a configuration text that says value at a place such as model.decode_head."""
    head = "" if where == "model.decode_head" else "decode_head=dict(mask_size=(9, 13)), "
    return f"model = {value}" if where == "model" else f"model = dict({head}{where[len('model.') :]}={value})"


def test_all_options_are_tried():
    assert set(WRONG) == set(_KINDS) == set().union(*PLACES.values())


@pytest.mark.parametrize("place", PLACES)
def test_values_of_another_kind(weights, tmp_path, place):
    path = str(tmp_path / "a.pth")
    for key in sorted(PLACES[place]):
        for value in WRONG[key]:
            write_torch(path, weights, meta={"cfg": text_of(place, f"dict({key}={value})")})
            with pytest.raises(UserError) as refusal:
                convert(path)
            assert f"its configuration's {place}.{key}: expected {_KINDS[key][1]}, found " in str(refusal.value), value
            assert len(str(refusal.value)) < 400 + len(path) and str(refusal.value).isprintable()


@pytest.mark.parametrize("place", ["model", *PLACES])
@pytest.mark.parametrize("value", ["5", "[dict(type='VisionTransformer')]", "'PSAHead'", "True"])
def test_what_is_no_mapping(weights, tmp_path, place, value):
    """As in a configuration with several heads, which no network here has."""
    path = str(tmp_path / "a.pth")
    write_torch(path, weights, meta={"cfg": text_of(place, value)})
    with pytest.raises(UserError, match=f"its configuration's {place}: expected a mapping, found "):
        convert(path)


@pytest.mark.parametrize(
    "options", ["mask_size=(1000, 1000)", "mask_size=(9, 13), psa_type='collect'", "mask_size=(9, 13), pool_scales=(1, 2)"]
)
def test_options_that_the_tensors_contradict(weights, tmp_path, options):
    path = str(tmp_path / "a.pth")
    write_torch(path, weights, meta={"cfg": f"model = dict(decode_head=dict({options}))"})
    with pytest.raises(UserError, match="a.pth: "):
        convert(path)


META = {"CLASSES": [["sky"] * 7, 5, {"a": "b"}, ["x" * 10**6] * 7, [["a"]] * 7, ["\x1b[2J"] * 7], "PALETTE": [
    [[0, 0, 300]] * 7, [[0, 0]] * 7, [["a", "b", "c"]] * 7, "red", [[0.5, 1, 2]] * 7, [None] * 7]}  # fmt: skip


@pytest.mark.parametrize("key", META)
def test_names_and_colours_of_another_kind(weights, tmp_path, key):
    """They become class_names and palette of a configuration, so of texts and numbers, or are left out."""
    path = str(tmp_path / "a.pth")
    for value in META[key]:
        write_torch(path, weights, meta={"cfg": "model = dict(decode_head=dict(mask_size=(9, 13)))", key: value})
        found = convert(path)
        names, palette = found.class_names, found.palette
        assert names is None or all(isinstance(name, str) and len(name) < 1000 and name.isprintable() for name in names)
        assert palette is None or np.array(palette).dtype.kind == "i" and np.shape(palette) == (7, 3) and np.max(palette) < 256
