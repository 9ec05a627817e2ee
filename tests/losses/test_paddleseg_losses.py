"""Every loss that paddleseg registers: it computes what plain formulas in float64 do, or is refused by name."""

import inspect

import numpy as np
import paddle
import paddleseg.models  # noqa: F401 (registers the losses)
import pytest
from paddleseg.cvlibs import manager

from paddleseg_psp import registry
from paddleseg_psp.config import Config
from paddleseg_psp.engine.trainer import loss_terms
from paddleseg_psp.errors import UserError
from paddleseg_psp.losses.requirements import REFUSED, TWO_CLASSES
from tests.helpers import TINY

TOLERANCE = 1e-5  # relative, float32


def softmax(logits):
    """Returns the probabilities [N, C, H, W]."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def one_hot(label, classes):
    """Returns [N, C, H, W]: 1 at a pixel's class; 0 everywhere at ignored pixels."""
    return np.stack([label == index for index in range(classes)], 1).astype(float)


def pixel_losses(logits, label):
    """Returns -log of the probability of each pixel's class, [N, H, W], 0 at ignored pixels."""
    return -(np.log(softmax(logits)) * one_hot(label, logits.shape[1])).sum(1)


def cross_entropy(logits, label, ignored):
    return pixel_losses(logits, label).sum() / (label != ignored).sum()


def hardest(logits, label, ignored, thresh=0.7, min_kept=1):
    probabilities = np.exp(-pixel_losses(logits, label))[label != ignored]
    return -np.log(probabilities[probabilities <= max(thresh, np.sort(probabilities)[min_kept - 1])]).mean()


def bootstrapped(logits, label, ignored, min_K, loss_th, weight=(1, 1, 1, 1)):
    weights = (one_hot(label, logits.shape[1]) * np.reshape(weight[: logits.shape[1]], (1, -1, 1, 1))).sum(1)
    means = []
    for losses in pixel_losses(logits, label) * weights:
        losses = np.sort(losses.ravel())[::-1]
        means.append(losses[: max((losses > loss_th).sum(), min(min_K, losses.size))].mean())
    return np.mean(means)


def binary(logits, label, ignored, positive=1.0):
    target, probability = one_hot(label, logits.shape[1]), 1 / (1 + np.exp(-logits))
    losses = -positive * target * np.log(probability) - (1 - target) * np.log(1 - probability)
    return losses[np.broadcast_to((label != ignored)[:, None], losses.shape)].mean()


def focal(logits, label, ignored, alpha=0.25, gamma=2.0):
    target, probability = one_hot(label, 2), 1 / (1 + np.exp(-logits))
    of_truth = np.where(target == 1, probability, 1 - probability)
    losses = -np.where(target == 1, alpha, 1 - alpha) * (1 - of_truth) ** gamma * np.log(of_truth)
    return losses[np.broadcast_to((label != ignored)[:, None], losses.shape)].mean()


def focal_of_classes(logits, label, ignored, alpha=1.0, gamma=2.0):
    losses = pixel_losses(logits, label)
    return (alpha * (1 - np.exp(-losses)) ** gamma * losses).sum() / (label != ignored).sum()


def dice(logits, label, ignored, smooth=1.0, weight=(1, 1, 1, 1)):
    count = (label != ignored)[:, None]
    probability, target = softmax(logits) * count, one_hot(label, logits.shape[1])
    overlap, total = (probability * target).sum((2, 3)), (probability + target).sum((2, 3))
    return ((1 - (2 * overlap + smooth) / (total + smooth)).mean(0) * weight[: logits.shape[1]]).mean()


def lovasz(errors, truth):
    """The Lovasz extension of the Jaccard loss at errors [P], truth [P] bool: by its definition as a sum over sets.

    With the errors in decreasing order, the k-th counts as often as the Jaccard loss grows when pixel k is wrong, too.
    """
    order, value, before = np.argsort(-errors, kind="stable"), 0.0, 0.0
    wrong = np.zeros(len(errors), bool)
    for pixel in order:
        wrong[pixel] = True
        found = np.where(wrong, ~truth, truth)
        jaccard = 1 - (found & truth).sum() / (found | truth).sum()
        value, before = value + errors[pixel] * (jaccard - before), jaccard
    return value


def lovasz_softmax(logits, label, ignored, classes="present"):
    count = label != ignored
    probability, label = np.moveaxis(softmax(logits), 1, -1)[count], label[count]
    chosen = [index for index in range(logits.shape[1]) if classes == "all" or (label == index).any()]
    return np.mean(
        [
            lovasz(np.abs((label == i) - probability[:, i]), label == i)
            for i in (chosen if isinstance(classes, str) else classes)
        ]
    )


def lovasz_hinge(logits, label, ignored):
    count = label != ignored
    score, truth = (logits[:, -1] - (logits[:, 0] if logits.shape[1] == 2 else 0))[count], label[count] == 1
    margins = 1 - score * np.where(truth, 1, -1)
    return lovasz(np.maximum(margins, 0), truth)


def mixed(logits, label, ignored):
    return 0.8 * cross_entropy(logits, label, ignored) + 0.2 * (
        dice(logits, label, ignored) + 3 * binary(logits, label, ignored)
    )


MIXTURE = {
    "losses": [
        {"type": "CrossEntropyLoss"},
        {"type": "MixedLoss", "losses": [{"type": "DiceLoss"}, {"type": "BCELoss"}], "coef": [1, 3]},
    ],
    "coef": [0.8, 0.2],
}
# name -> (its formula, numbers of classes, arguments to try)
RUN = {
    "BCELoss": (binary, (2, 4), [{}, {"weight": "dynamic", "pos_weight": 2.0}]),
    "BootstrappedCrossEntropyLoss": (
        bootstrapped,
        (2, 4),
        [{"min_K": 10, "loss_th": 1.5}, {"min_K": 3, "loss_th": 0.1}, {"min_K": 4096, "loss_th": 0.3}],
    ),
    "CrossEntropyLoss": (cross_entropy, (2, 4), [{}]),
    "DiceLoss": (dice, (2, 4), [{}, {"smooth": 0.5}]),
    "FocalLoss": (focal, (2,), [{}, {"alpha": 0.7, "gamma": 3.0}]),
    "LovaszHingeLoss": (lovasz_hinge, (2,), [{}]),
    "LovaszSoftmaxLoss": (lovasz_softmax, (2, 4), [{}, {"classes": "all"}, {"classes": [1]}]),
    "MixedLoss": (mixed, (2, 4), [MIXTURE]),
    "MultiClassFocalLoss": (focal_of_classes, (2, 4), [{}, {"alpha": 0.5, "gamma": 1.0}]),
    "OhemCrossEntropyLoss": (hardest, (2, 4), [{"min_kept": 20}, {"thresh": 0.3, "min_kept": 1}]),
}


def expected(name, logits, label, ignored, options):
    if name == "MixedLoss":
        options = {}
    elif options.get("weight") == "dynamic":  # 2 * negatives / all for what is so, 2 * positives / all for what is not
        classes = logits.shape[1]
        target, probability = one_hot(label, classes), 1 / (1 + np.exp(-logits))
        weights = np.where(target == 1, 2 * (classes - 1) / classes, 2 / classes)
        losses = weights * -(options["pos_weight"] * target * np.log(probability) + (1 - target) * np.log(1 - probability))
        return losses[np.broadcast_to((label != ignored)[:, None], losses.shape)].mean()
    return RUN[name][0](logits, label, ignored, **options)


CASES = [(name, classes, options) for name, (_, numbers, tried) in RUN.items() for classes in numbers for options in tried]


def build(write_config, spec, classes, ignored=255, **changes):
    """Returns the loss that a configuration builds."""
    dataset = {"type": "Dataset", "num_classes": classes, "ignore_index": ignored, "transforms": [], "dataset_root": "."}
    return Config(write_config(train_dataset=dataset, loss={"types": [spec], "coef": [1]}, **changes)).build_losses()[0][1]


def sample(classes, ignored, size=(6, 7)):
    numbers = np.random.RandomState(classes)
    logits, label = numbers.randn(2, classes, *size).astype("float32"), numbers.randint(0, classes, (2, *size))
    label[0, :2] = label[1, :, 3] = ignored
    return logits, label


def compute(loss, logits, label):
    """Returns the loss and its gradient, as train.py has them: int64 labels."""
    logits = paddle.to_tensor(logits, stop_gradient=False)
    value = loss(logits, paddle.to_tensor(label, dtype="int64"))
    assert value.shape == []
    value.backward()
    return float(value), logits.grad.numpy()


def test_no_loss_of_paddleseg_is_left_out():
    names = [name for name, loss in manager.LOSSES.components_dict.items() if loss.__module__.startswith("paddleseg.")]
    assert len(names) == 25 and sorted(names) == sorted([*RUN, *REFUSED])


@pytest.mark.parametrize("ignored", [255, -1, 65535])
@pytest.mark.parametrize("name, classes, options", CASES)
def test_value(name, classes, options, ignored, write_config):
    logits, label = sample(classes, ignored)
    loss = build(write_config, {"type": name, **options}, classes, ignored)
    value, gradient = compute(loss, logits, label)
    assert value == pytest.approx(expected(name, logits.astype("float64"), label, ignored, options), rel=TOLERANCE)
    assert (np.moveaxis(gradient, 1, -1)[label == ignored] == 0).all()


@pytest.mark.parametrize("name, classes, options", CASES)
def test_gradient(name, classes, options, write_config):
    """Against differences of the formula, at a few logits."""
    logits, label = sample(classes, 255)
    _, gradient = compute(build(write_config, {"type": name, **options}, classes), logits, label)
    logits, step = logits.astype("float64"), 1e-6
    for place in np.random.RandomState(1).randint(0, logits.size, 12):
        shift = np.zeros(logits.size)
        shift[place] = step
        sides = [expected(name, logits + sign * shift.reshape(logits.shape), label, 255, options) for sign in (1, -1)]
        assert gradient.ravel()[place] == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("name, classes, options", CASES)
def test_labels_stay_and_ignored_pixels_alone_cost_nothing(name, classes, options, write_config):
    """The next loss, of an auxiliary output or of a mixture, gets the same labels."""
    logits, label = sample(classes, 255)
    loss, tensor = build(write_config, {"type": name, **options}, classes), paddle.to_tensor(label, dtype="int64")
    loss(paddle.to_tensor(logits), tensor)
    np.testing.assert_array_equal(tensor.numpy(), label)
    value, gradient = compute(loss, logits, np.full_like(label, 255))
    assert value == pytest.approx(0, abs=1e-6) and not gradient.any()


def test_lovasz_hinge_costs_nothing_where_all_is_right(write_config):
    loss, label = build(write_config, {"type": "LovaszHingeLoss"}, 2), np.random.RandomState(0).randint(0, 2, (1, 6, 7))
    right = 5.0 * np.stack([1 - 2 * label, 2 * label - 1], 1).astype("float32")
    assert compute(loss, right, label)[0] == 0
    assert compute(loss, right[:, 1:], label)[0] == 0  # one channel, the score itself
    assert compute(loss, -right, label)[0] == pytest.approx(11)  # all is wrong, by a margin of 10 + 1
    _, gradient = compute(loss, np.zeros_like(right), label)
    assert (gradient[:, 1][label == 0] > 0).any() and (gradient[:, 1][label == 1] < 0).any()  # both classes are learned


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, write_config):
    for spec, where in (
        ({"type": name}, "loss.types.0"),
        ({"type": "MixedLoss", "losses": [{"type": "DiceLoss"}, {"type": name}], "coef": [1, 1]}, "loss.types.0.losses.1"),
    ):
        with pytest.raises(UserError, match=rf"config\.yml: {where}\.type: {name} (wants|does|compares|teaches)") as raised:
            build(write_config, spec, 4)
        assert "take " in str(raised.value) or "leave it out" in str(raised.value)


@pytest.mark.parametrize("name", ["DetailAggregateLoss", "KLLoss", "PointCrossEntropyLoss", "RMILoss", "RelaxBoundaryLoss"])
def test_what_is_refused_does_not_compute(name):
    logits, label = sample(4, 255)
    arguments = {"num_classes": 4} if name == "RMILoss" else {}
    with pytest.raises(Exception):  # noqa: B017 (TypeError, ValueError and others of paddle)
        manager.LOSSES[name](**arguments)(paddle.to_tensor(logits), paddle.to_tensor(label))


def test_no_gradient_comes_from_connectivity():
    logits, label = sample(4, 255)
    logits = paddle.to_tensor(logits, stop_gradient=False)
    manager.LOSSES["SemanticConnectivityLoss"]()(logits, paddle.to_tensor(label)).backward()
    assert logits.grad is None


@pytest.mark.parametrize("name", TWO_CLASSES)
def test_losses_of_two_classes(name, write_config):
    with pytest.raises(
        UserError, match=rf"loss.types.0.type: {name} is for 2 classes, and there are 19; take {TWO_CLASSES[name]}"
    ):
        Config(write_config(loss={"types": [{"type": name}], "coef": [1, 0.4]})).build_losses()


@pytest.mark.parametrize(
    "spec, message",
    [
        ({"type": "DiceLoss", "weight": [1, 2, 3]}, "loss.types.0.weight: 3 class weights for 4 classes"),
        (
            {"type": "MixedLoss", "losses": [{"type": "CrossEntropyLoss", "weight": [1, 2]}], "coef": [1]},
            "loss.types.0.losses.0.weight: 2 class weights for 4 classes",
        ),
        (
            {"type": "MixedLoss", "losses": [{"type": "DiceLoss", "ignore_index": 3}], "coef": [1]},
            "loss.types.0.losses.0.ignore_index: 3, but the data set ignores 255",
        ),
        ({"type": "MultiClassFocalLoss", "num_class": 3}, "loss.types.0.num_class: 3, but the network has 4 classes"),
        ({"type": "MultiClassFocalLoss", "alpha": [0.5, 0.5]}, "loss.types.0.alpha: expected a number"),
        ({"type": "BCELoss", "edge_label": True}, "loss.types.0.edge_label: data sets here have no labels of edges"),
        (
            {"type": "MixedLoss", "losses": [{"type": "DiceLos"}], "coef": [1]},
            "types.0.losses.0.type: there is no .*DiceLoss",
        ),
        ({"type": "MixedLoss", "losses": [{"type": "DiceLoss"}], "coef": [1, 2]}, "loss.types.0: MixedLoss could not be built"),
        ("DiceLoss", "loss.types.0: expected a mapping with the key 'type', found 'DiceLoss'"),
    ],
)
def test_arguments_that_do_not_fit(spec, message, write_config):
    with pytest.raises(UserError, match=message):
        build(write_config, spec, 4)


def test_nested_losses_get_what_the_data_set_says(write_config):
    loss = build(write_config, {"type": "MixedLoss", **MIXTURE}, 4, ignored=77)
    nested = [loss.losses[0], *loss.losses[1].losses]
    assert [item.ignore_index for item in nested] == [77] * 3
    config = Config(write_config(loss={"types": [{"type": "MixedLoss", **MIXTURE}], "coef": [1]}))
    before = str(config)
    config.build_losses()
    assert str(config) == before


def test_a_loss_of_ones_own_by_a_refused_name(write_config, tmp_path):
    (tmp_path / "parts.py").write_text(
        "from paddle import nn\nfrom paddleseg_psp.registry import register\n\n@register\nclass RMILoss(nn.Layer):\n"
        "    def __init__(self, num_classes=19, ignore_index=255):\n        super().__init__()\n"
        "        self.num_classes, self.ignore_index = num_classes, ignore_index\n"
    )
    loss = build(write_config, {"type": "RMILoss"}, 4, ignored=5, plugins=["parts.py"])
    try:
        assert (loss.num_classes, loss.ignore_index) == (4, 5)
    finally:
        del registry._own["RMILoss"]


def test_the_refused_are_paddlesegs():
    for name in REFUSED:
        assert inspect.getmodule(registry.find(name, "loss")).__name__.startswith("paddleseg.")


# The loss sections of PaddleSeg's own configurations, and their numbers of classes.
CE, OHEM, SOFTMAX = ({"type": f"{name}Loss"} for name in ("CrossEntropy", "OhemCrossEntropy", "LovaszSoftmax"))
BOOTSTRAPPED = {"type": "BootstrappedCrossEntropyLoss", "min_K": 4096, "loss_th": 0.3}
ROADS = {"type": "MixedLoss", "losses": [CE, {"type": "LovaszHingeLoss"}], "coef": [1, 0.01]}
SECTIONS = {
    "ocrnet_hrnetw18_road_extraction_768x768_15k_lovasz_hinge": ({"types": [ROADS] * 2, "coef": [1, 0.4]}, 2),
    "ocrnet_hrnetw18_cityscapes_1024x512_160k_lovasz_softmax": (
        {"types": [{"type": "MixedLoss", "losses": [CE, SOFTMAX], "coef": [0.8, 0.2]}] * 2, "coef": [1, 0.4]},
        19,
    ),
    "smrt/ocrnet_hrnetw18": (
        {
            "types": [{"type": "MixedLoss", "losses": [{**OHEM, "min_kept": 65000}, SOFTMAX], "coef": [0.8, 0.2]}],
            "coef": [1, 0.4],
        },
        4,
    ),
    "_base_/chase_db1": ({"types": [{"type": "DiceLoss"}], "coef": [1]}, 2),
    "hardnet_cityscapes_1024x1024_160k": ({"types": [BOOTSTRAPPED], "coef": [1]}, 19),
    "AutoNUE/auto_nue_auto_label": ({"types": [{"type": "DiceLoss"}, BOOTSTRAPPED], "coef": [0.4, 1.0]}, 26),
}


@pytest.mark.parametrize("name", SECTIONS)
def test_loss_sections_of_paddlesegs_configurations_train(name, write_config):
    section, classes = SECTIONS[name]
    dataset = {"type": "Dataset", "num_classes": classes, "transforms": [], "dataset_root": "."}
    outputs = len(section["coef"])
    overrides = [TINY, f"model.enable_auxiliary_loss={outputs == 2}"]
    config = Config(write_config(train_dataset=dataset, loss=section), overrides)
    model, losses = config.build_model(), config.build_losses()
    optimizer = config.build_optimizer(model, config.build_scheduler())
    _, label = sample(classes, 255, (48, 64))
    image, label, totals = paddle.randn([2, 3, 48, 64]), paddle.to_tensor(label), []
    for _ in range(2):
        terms = loss_terms(model(image), label, losses)
        assert len(terms) == outputs
        total = paddle.stack(terms).sum()
        total.backward()
        optimizer.step()
        optimizer.clear_grad()
        totals.append(float(total))
    assert np.isfinite(totals).all() and totals[1] != totals[0]


def test_lovasz_hinge_with_three_classes_as_in_uwmgi(write_config):
    """PaddleSeg's configs/_base_/uwmgi.yml: there pixels and labels are taken from different places, without a word."""
    section = {"type": "MixedLoss", "losses": [{"type": "BCELoss"}, {"type": "LovaszHingeLoss"}], "coef": [0.5, 0.5]}
    with pytest.raises(UserError, match=r"loss.types.0.losses.1.type: LovaszHingeLoss is for 2 classes, and there are 3; take"):
        build(write_config, section, 3)
