import numpy as np
import paddle
import pytest
from paddle import nn

from paddleseg_psp.models import PSANet, PSPNet
from paddleseg_psp.models.cost import multiply_adds
from paddleseg_psp.models.layers import PointWiseSpatialAttention, PyramidPooling
from paddleseg_psp.ops import psa_mask
from tests.helpers import TinyBackbone


class Small(nn.Layer):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2D(3, 8, 3, padding=1, stride=2)
        self.grouped = nn.Sequential(nn.Conv2D(8, 8, 3, groups=4), nn.BatchNorm2D(8), nn.ReLU())
        self.last = nn.Linear(8, 5)

    def forward(self, x):
        return self.last(self.grouped(self.first(x)).mean([2, 3]))


def test_layers_by_hand():
    counts = multiply_adds(Small(), [2, 3, 20, 32])
    assert dict(counts) == {
        "first": 2 * 8 * 10 * 16 * 3 * 9,
        "grouped": 2 * 8 * 8 * 14 * 2 * 9,
        "last": 2 * 8 * 5,
    }


@pytest.mark.parametrize("psa_type", ["collect", "bi-direction"])
@pytest.mark.parametrize("mask", [(5, 7), (13, 3), (25, 31)])
def test_attention_counts_what_the_mask_reaches(psa_type, mask):
    attention = PointWiseSpatialAttention(8, 4, psa_type=psa_type, mask_h=mask[0], mask_w=mask[1])
    reached = psa_mask(paddle.ones([1, mask[0] * mask[1], 6, 9]), "collect", mask).sum()
    directions = 2 if psa_type == "bi-direction" else 1
    assert attention.own_multiply_adds([3, 8, 11, 17]) == 3 * 4 * directions * int(reached)


def test_fusing_by_cells_saves_most_of_the_branches():
    module = PyramidPooling(64, 32)
    fused = module.own_multiply_adds([1, 64, 60, 60])
    assert 64 * 32 * 9 * 3600 < fused < 1.1 * 64 * 32 * 9 * 3600  # as for the input alone, not twice that


def test_networks_are_left_as_they_were():
    for model in (PSPNet(3, TinyBackbone(), pp_out_channels=8), PSANet(3, TinyBackbone(), mid_channels=8, crop_size=(64, 64))):
        model.train()
        before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
        counts = multiply_adds(model, [1, 3, 64, 64])
        assert counts["backbone"] > 0 and model.training and not any(layer._forward_post_hooks for layer in model.sublayers())
        for name, value in model.state_dict().items():
            np.testing.assert_array_equal(value.numpy(), before[name])


def test_pspnet_r50_has_as_many_parameters_as_published():
    """mmsegmentation's PSPNet-R50-D8 for 19 classes, auxiliary head included: 48.97 million."""
    from paddleseg_psp.models.backbones import ResNet50_v1c

    model = PSPNet(19, ResNet50_v1c(output_stride=8), pp_out_channels=512)
    assert round(sum(int(value.size) for value in model.parameters() if not value.stop_gradient) / 1e6, 2) == 48.98
