import numpy as np
import paddle
import paddleseg.models
import pytest
from paddleseg.models.backbones import ResNet18_vd, ResNet50_vd

from paddleseg_psp.models import PSANet, PSPNet
from paddleseg_psp.models.backbones import ResNet, ResNet50_v1c, ResNet101_v1c, output_stride
from tests.helpers import load_golden, parameters, relative_error

TOLERANCE = 1e-5  # relative, float32


def shapes(layer):
    return {name: tuple(value.shape) for name, value in layer.state_dict().items()}


def test_parameters_of_pspnet_are_those_of_paddleseg():
    ours, theirs = (network(19, ResNet50_vd()) for network in (PSPNet, paddleseg.models.PSPNet))
    assert shapes(ours) == shapes(theirs)


def test_pspnet_computes_what_paddlesegs_does():
    ours, theirs = (network(5, ResNet18_vd(), pp_out_channels=16) for network in (PSPNet, paddleseg.models.PSPNet))
    ours.set_state_dict(theirs.state_dict())
    ours.eval(), theirs.eval()
    x = paddle.randn([1, 3, 65, 97])
    ours, theirs = ours(x), theirs(x)
    assert (len(ours), len(theirs)) == (1, 2)  # auxiliary logits serve training only
    assert relative_error(ours[0].numpy(), theirs[0].numpy()) < TOLERANCE


def conv_bn(prefix, out_channels, in_channels, side):
    vectors = {f"{prefix}._batch_norm.{name}": (out_channels,) for name in ("weight", "bias", "_mean", "_variance")}
    return {f"{prefix}._conv.weight": (out_channels, in_channels, side, side), **vectors}


def test_parameters_of_psanet_are_those_of_psanet_paddle():
    network = PSANet(19, ResNet50_vd(), mask_h=59, mask_w=59)
    expected = {}
    for reduce, attention in (("psa.reduce_layer", "psa.attention"), ("psa.reduce_p", "psa.attention_p")):
        expected.update(conv_bn(reduce, 512, 2048, 1))
        expected.update(conv_bn(f"{attention}.0", 512, 512, 1))
        expected[f"{attention}.1.weight"] = (59 * 59, 512, 1, 1)
    expected.update(conv_bn("psa.proj", 2048, 1024, 1))
    for head, in_channels, channels in (("head", 4096, 512), ("aux_head", 1024, 256)):
        expected.update(conv_bn(f"{head}.conv_bn_relu", channels, in_channels, 3))
        expected.update({f"{head}.conv.weight": (19, channels, 1, 1), f"{head}.conv.bias": (19,)})
    assert {name: shape for name, shape in shapes(network).items() if not name.startswith("backbone.")} == expected


@pytest.mark.parametrize("network, options", [(PSPNet, {}), (PSANet, {"crop_size": (64, 96), "mid_channels": 8})])
@pytest.mark.parametrize("size", [(64, 96), (65, 97), (50, 31)])
def test_logits_have_the_size_of_the_image(network, options, size):
    network = network(4, ResNet18_vd(), align_corners=size[0] % 2 == 1, **options)
    x = paddle.randn([2, 3, *size])
    assert [logits.shape for logits in network(x)] == [[2, 4, *size]] * 2
    network.eval()
    assert [logits.shape for logits in network(x)] == [[2, 4, *size]]


@pytest.mark.parametrize("psa_type", ["collect", "distribute", "bi-direction"])
@pytest.mark.parametrize("compact", [False, True])
def test_every_parameter_of_psanet_learns(psa_type, compact):
    network = PSANet(3, ResNet18_vd(), psa_type=psa_type, compact=compact, crop_size=(33, 49), mid_channels=8)
    sum(logits.square().mean() for logits in network(paddle.randn([2, 3, 33, 49]))).backward()
    learning = {name: value for name, value in network.named_parameters() if not value.stop_gradient}
    assert learning
    assert not [name for name, value in learning.items() if value.grad is None or not value.grad.abs().sum() > 0]


def test_psanet_without_attention_has_no_attention():
    network = PSANet(3, ResNet18_vd(), use_psa=False)
    assert not [name for name in shapes(network) if name.startswith("psa.")]
    assert network(paddle.randn([2, 3, 32, 32]))[0].shape == [2, 3, 32, 32]


def test_networks_without_auxiliary_head_have_one_output():
    for network in (PSPNet, PSANet):
        options = {"crop_size": (32, 32)} if network is PSANet else {}
        network = network(3, ResNet18_vd(), enable_auxiliary_loss=False, **options)
        assert len(network(paddle.randn([2, 3, 32, 32]))) == 1


def test_psanet_needs_a_mask_or_a_crop():
    with pytest.raises(ValueError, match="mask_h and mask_w, or the crop_size"):
        PSANet(3, ResNet18_vd())


@pytest.mark.parametrize("stride, mask", [(8, (63, 127)), (16, (31, 63))])
def test_default_mask_covers_the_crop_and_no_more(stride, mask):
    network = PSANet(3, ResNet18_vd(output_stride=stride), crop_size=(512, 1024), mid_channels=8)
    assert network.psa.mask_size == mask


@pytest.mark.parametrize("build", [ResNet50_v1c, ResNet101_v1c, ResNet18_vd, ResNet50_vd])
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_output_stride_of_backbones(build, stride):
    backbone = build(output_stride=stride)
    assert output_stride(backbone, 3) == stride
    assert backbone.training


def test_backbone_v1c_equals_mmsegmentation():
    golden = load_golden("model_mmseg_r50c8_psphead_ac0")
    backbone = ResNet(50, base_channels=8, stem_channels=16, contract_dilation=True)
    values = {name[9:]: value for name, value in parameters(golden, []).items() if name.startswith("backbone.")}
    assert set(values) == set(backbone.state_dict())
    backbone.set_state_dict(values)
    backbone.eval()
    features = backbone(paddle.to_tensor(golden["x"]))
    assert relative_error(features[2].numpy(), golden["feat2"]) < TOLERANCE
    assert relative_error(features[3].numpy(), golden["feat3"]) < TOLERANCE
    assert [feature.shape[1] for feature in features] == backbone.feat_channels


def test_backbone_v1c_has_the_parameters_of_the_published_networks():
    """25,557,032 is the count of ResNet-50 with classifier, as published; the classifier goes and the stem changes."""
    count = sum(int(np.prod(value.shape)) for value in ResNet50_v1c().parameters() if not value.stop_gradient)
    plain_stem, deep_stem = 64 * 3 * 49 + 2 * 64, (32 * 27 + 64) + (32 * 288 + 64) + (64 * 288 + 128)
    assert count == 25557032 - (2048 * 1000 + 1000) - plain_stem + deep_stem


@pytest.mark.parametrize(
    "options, message",
    [({"output_stride": 4}, "output_stride must be one of 8, 16, 32, not 4"), ({"style": "tensorflow"}, "pytorch, caffe")],
)
def test_wrong_options_of_backbones_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ResNet50_v1c(**options)


@pytest.mark.parametrize("depth, million", [(18, 11.69), (34, 21.80), (50, 25.56), (101, 44.55), (152, 60.19)])
def test_plain_resnets_have_the_parameters_of_torchvision(depth, million):
    """Its documented counts, less the classifier of 1,000 classes."""
    backbone = ResNet(depth, deep_stem=False)
    count = sum(int(value.size) for value in backbone.parameters() if not value.stop_gradient)
    assert round((count + backbone.feat_channels[-1] * 1000 + 1000) / 1e6, 2) == million


def test_caffe_style_strides_in_the_first_convolution():
    strides = {
        style: [(block[0].conv1._stride, block[0].conv2._stride) for block in (net.layer1, net.layer2)]
        for style in ("pytorch", "caffe")
        for net in [ResNet(50, base_channels=2, style=style)]
    }
    assert strides == {"pytorch": [([1, 1], [1, 1]), ([1, 1], [2, 2])], "caffe": [([1, 1], [1, 1]), ([2, 2], [1, 1])]}


def test_heads_as_semseg_and_mmsegmentation_have_them():
    backbone = ResNet(18, base_channels=4, stem_channels=8)
    options = {"channel_dropout": True, "aux_channels": 6}
    pspnet = PSPNet(5, backbone, pp_out_channels=6, branch_channels=7, conv_bias=False, **options)
    assert [name for name in shapes(pspnet) if name.endswith("_conv.bias")] == []
    assert shapes(pspnet)["head.psp_module.conv_bn_relu2._conv.weight"] == (6, 32 + 4 * 7, 3, 3)
    assert shapes(pspnet)["head.auxlayer.conv.weight"] == (5, 6, 1, 1)
    psanet = PSANet(5, backbone, mid_channels=4, crop_size=(32, 32), **options)
    for layers in ((pspnet.head.dropout, pspnet.head.auxlayer.dropout), (psanet.head.dropout, psanet.aux_head.dropout)):
        for layer in layers:
            kept = layer(paddle.ones([64, 8, 3, 3])).numpy() != 0
            assert (kept.all((2, 3)) | ~kept.any((2, 3))).all() and not kept.all()  # whole channels go
