import numpy as np
import paddle
import pytest

from paddleseg_psp.losses import CrossEntropyLoss, OhemCrossEntropyLoss
from tests.helpers import load_golden, relative_error

TOLERANCE = 1e-6  # relative, float32


@pytest.fixture
def logits_and_label():
    random = np.random.RandomState(0)
    logits, label = random.randn(2, 5, 7, 9).astype("float32"), random.randint(0, 5, (2, 7, 9))
    label[0, :2] = 255
    return logits, label


def pixel_losses(logits, label):
    """Returns the losses of the pixels that count, and their labels, in float64."""
    logits = np.moveaxis(logits.astype("float64"), 1, -1)[label != 255]
    label = label[label != 255]
    logits -= logits.max(1, keepdims=True)
    return np.log(np.exp(logits).sum(1)) - logits[np.arange(len(label)), label], label


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_mean_over_the_pixels_that_count(logits_and_label, dtype):
    logits, label = logits_and_label
    loss = CrossEntropyLoss()(paddle.to_tensor(logits), paddle.to_tensor(label.astype(dtype)))
    assert float(loss) == pytest.approx(pixel_losses(logits, label)[0].mean(), rel=TOLERANCE)


def test_class_weights_weigh_the_mean(logits_and_label):
    logits, label = logits_and_label
    weight = np.array([1.0, 0.5, 2.0, 0.0, 3.0])
    losses, labels = pixel_losses(logits, label)
    expected = (losses * weight[labels]).sum() / weight[labels].sum()
    loss = CrossEntropyLoss(weight=weight.tolist())(paddle.to_tensor(logits), paddle.to_tensor(label))
    assert float(loss) == pytest.approx(expected, rel=TOLERANCE)


def test_hardest_pixels_alone(logits_and_label):
    logits, label = logits_and_label
    hardest = np.sort(pixel_losses(logits, label)[0])[::-1][: int(0.2 * label.size)]
    loss = CrossEntropyLoss(top_k_percent_pixels=0.2)(paddle.to_tensor(logits), paddle.to_tensor(label))
    assert float(loss) == pytest.approx(hardest.mean(), rel=TOLERANCE)


def test_division_by_all_pixels_equals_mmsegmentation():
    golden = load_golden("model_mmseg_r50c8_psphead_ac0")
    label = paddle.to_tensor(golden["label"].astype("int64"))
    loss = CrossEntropyLoss(avg_non_ignore=False)(paddle.to_tensor(golden["logits_full"]), label)
    assert relative_error(float(loss), golden["loss_eval/decode.loss_ce"]) < 1e-5


def test_nothing_counts():
    logits = paddle.randn([1, 3, 2, 2])
    logits.stop_gradient = False
    for criterion in (CrossEntropyLoss(), OhemCrossEntropyLoss()):
        loss = criterion(logits, paddle.full([1, 2, 2], 255, "int64"))
        assert float(loss) == 0
        assert float(paddle.grad(loss, logits)[0].abs().sum()) == 0


def test_gradient(logits_and_label):
    logits, label = logits_and_label
    x = paddle.to_tensor(logits, stop_gradient=False)
    grad = paddle.grad(CrossEntropyLoss()(x, paddle.to_tensor(label)), x)[0].numpy()
    exponentials = np.exp(logits.astype("float64"))
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    one_hot = np.moveaxis(np.eye(256)[label][..., :5], -1, 1)
    expected = (probabilities - one_hot) * (label != 255)[:, None] / (label != 255).sum()
    assert relative_error(grad, expected) < TOLERANCE


@pytest.mark.parametrize("min_kept", [0, 10, 60, 10**6])
@pytest.mark.parametrize("thresh", [0.1, 0.5])
def test_ohem_keeps_the_pixels_below_the_threshold_and_at_least_so_many(logits_and_label, thresh, min_kept):
    logits, label = logits_and_label
    losses, _ = pixel_losses(logits, label)
    probabilities = np.sort(np.exp(-losses))
    least = probabilities[min(min_kept, len(probabilities)) - 1] if min_kept else 0
    kept = losses[np.exp(-losses) <= max(thresh, least) + 1e-9]
    loss = OhemCrossEntropyLoss(thresh, min_kept)(paddle.to_tensor(logits), paddle.to_tensor(label))
    assert float(loss) == pytest.approx(kept.mean(), rel=1e-5)


def test_wrong_arguments_are_refused(logits_and_label):
    logits, label = (paddle.to_tensor(value) for value in logits_and_label)
    with pytest.raises(ValueError, match="2 class weights for 5 classes"):
        CrossEntropyLoss(weight=[1.0, 2.0])(logits, label)
    with pytest.raises(ValueError, match="top_k_percent_pixels"):
        CrossEntropyLoss(top_k_percent_pixels=0)
