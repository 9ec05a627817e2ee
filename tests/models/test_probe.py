import cv2
import numpy as np
import paddle
import pytest

from paddleseg_psp.models import PSANet, PSPNet
from paddleseg_psp.models.probe import attention_maps, pyramid_maps
from paddleseg_psp.visual import heat
from tests.helpers import TinyBackbone, run_python


def psanet(**options):
    network = PSANet(3, TinyBackbone(), mid_channels=4, **{"crop_size": (48, 64), **options})
    network.eval()
    return network


def weights_by_loops(attention, mask, direction):
    """The matrix [source, target] of attention by its definition."""
    mask_h, mask_w = attention.mask_size
    height, width = mask.shape[1:]
    matrix = np.zeros((height * width, height * width))
    for h, w, i, j in np.ndindex(height, width, mask_h, mask_w):
        row, column = h + i - mask_h // 2, w + j - mask_w // 2
        if 0 <= row < height and 0 <= column < width:
            pair = (row * width + column, h * width + w)
            matrix[pair if direction == "collect" else pair[::-1]] = mask[i * mask_w + j, h, w]
    return np.exp(matrix) / np.exp(matrix).sum(0)


def test_attention_of_a_point_by_the_definition():
    network, image = psanet(), paddle.randn([1, 3, 48, 64])
    maps = attention_maps(network, image, (30, 20))
    assert set(maps) == {"collect", "distribute"}
    psa = network.psa
    feature = network.backbone(image)[3]
    place = (30 * 3 // 48) * 4 + 20 * 4 // 64  # on a map of 3x4
    for direction, reduce, attention in (
        ("collect", psa.reduce_layer, psa.attention), ("distribute", psa.reduce_p, psa.attention_p),
    ):  # fmt: skip
        value = paddle.nn.functional.interpolate(reduce(feature), [3, 4], mode="bilinear", align_corners=True)
        matrix = weights_by_loops(psa, attention(value).numpy()[0], direction)
        expected = matrix[:, place] if direction == "collect" else matrix[place]
        np.testing.assert_allclose(maps[direction].ravel(), expected, rtol=1e-4, atol=1e-7)
    assert maps["collect"].sum() == pytest.approx(1, rel=1e-5)  # what a point collects, it collects from somewhere


@pytest.mark.parametrize("options", [{"psa_type": "collect"}, {"compact": True}, {"psa_softmax": False}])
def test_other_attentions(options):
    maps = attention_maps(psanet(**options), paddle.randn([1, 3, 48, 64]), (0, 63))
    assert all(values.shape == (3, 4) for values in maps.values()) and len(maps) == (1 if "psa_type" in options else 2)


def test_levels_of_the_pyramid():
    network, image = PSPNet(3, TinyBackbone(), pp_out_channels=8), paddle.randn([1, 3, 48, 64])
    network.eval()
    maps = pyramid_maps(network, image)
    assert {bins: values.shape for bins, values in maps.items()} == {bins: (bins, bins) for bins in (1, 2, 3, 6)}
    feature = network.backbone(image)[3]
    expected = network.head.psp_module.stages[1](feature).numpy()[0].mean(0)
    np.testing.assert_allclose(maps[2], expected, rtol=1e-5, atol=1e-6)


def test_points_and_networks_that_do_not_fit():
    with pytest.raises(ValueError, match="outside the image of 48x64"):
        attention_maps(psanet(), paddle.randn([1, 3, 48, 64]), (48, 0))
    with pytest.raises(ValueError, match="no PointWiseSpatialAttention"):
        attention_maps(PSPNet(3, TinyBackbone()), paddle.randn([1, 3, 48, 64]), (0, 0))


def test_heat():
    image = np.full((40, 60, 3), 128, np.uint8)
    shown = heat(image, np.array([[0.0, 1.0]]), smooth=False)
    left, right = shown[20, 10].astype(int), shown[20, 50].astype(int)
    assert left[0] > left[2] and right[2] > right[0]  # blue, red
    assert (heat(image, np.zeros((2, 2)), point=(20, 30)) != heat(image, np.zeros((2, 2)))).any()


def test_the_picture_of_a_trained_network(trained, tiny_data, tmp_path):
    config, weights, _ = trained
    arguments = ["--config", config, "--model_path", weights, "--image_path", tiny_data / "leftImg8bit" / "val"]
    process = run_python(["tools/visualise_attention.py", *arguments, "--save_path", tmp_path / "picture.png"])
    assert process.returncode == 0, process.stderr
    assert cv2.imread(str(tmp_path / "picture.png")).shape[1] > 5 * 320
    process = run_python(["tools/visualise_attention.py", *arguments[:4]])
    assert process.returncode == 1 and "--image_path is missing" in process.stderr
