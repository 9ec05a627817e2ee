import numpy as np
import pytest
from sklearn import metrics

from paddleseg_psp.engine.metrics import ConfusionMatrix


@pytest.fixture
def random_maps():
    random = np.random.RandomState(0)
    label = random.randint(0, 5, (3, 40, 50))
    pred = np.where(random.rand(*label.shape) < 0.6, label, random.randint(0, 5, label.shape))
    label[random.rand(*label.shape) < 0.1] = 255
    return pred, label


@pytest.fixture
def matrix(random_maps):
    matrix = ConfusionMatrix(7)  # classes 5 and 6 occur nowhere
    for pred, label in zip(*random_maps):
        matrix.update(pred.astype("int32"), label.astype("uint8"))
    return matrix


def test_agrees_with_scikit_learn(matrix, random_maps):
    pred, label = (values[random_maps[1] != 255] for values in random_maps)
    np.testing.assert_array_equal(matrix.counts, metrics.confusion_matrix(label, pred, labels=range(7)))
    assert matrix.mean_iou() == pytest.approx(metrics.jaccard_score(label, pred, average="macro"))
    assert matrix.pixel_accuracy() == pytest.approx(metrics.accuracy_score(label, pred))
    assert matrix.mean_accuracy() == pytest.approx(metrics.balanced_accuracy_score(label, pred))
    assert matrix.mean_dice() == pytest.approx(metrics.f1_score(label, pred, average="macro"))
    assert matrix.kappa() == pytest.approx(metrics.cohen_kappa_score(label, pred))
    np.testing.assert_allclose(matrix.class_iou()[:5], metrics.jaccard_score(label, pred, average=None))
    np.testing.assert_allclose(matrix.class_precision()[:5], metrics.precision_score(label, pred, average=None))


def test_absent_classes_are_left_out(matrix):
    assert np.isnan(matrix.class_iou()[5:]).all()
    np.testing.assert_array_equal(matrix.present(), [True] * 5 + [False] * 2)


def test_predicted_but_never_labelled_counts_as_zero():
    matrix = ConfusionMatrix(3)
    matrix.update(np.array([0, 1]), np.array([0, 0]))
    assert matrix.mean_iou() == pytest.approx((0.5 + 0) / 2)
    assert matrix.mean_accuracy() == pytest.approx(0.5)  # over the classes that labels have


def test_nothing_counted():
    matrix = ConfusionMatrix(3)
    matrix.update(np.zeros((2, 2), int), np.full((2, 2), 255))
    assert np.isnan(matrix.mean_iou()) and np.isnan(matrix.pixel_accuracy()) and np.isnan(matrix.kappa())


def test_predictions_on_ignored_pixels_may_be_anything():
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([7, 1]), np.array([255, 1]))
    assert matrix.counts.sum() == 1


@pytest.mark.parametrize("pred, label", [([0, 1], [0, 2]), ([0, 2], [0, 1]), ([0, -1], [0, 1])])
def test_values_outside_the_classes_are_refused(pred, label):
    with pytest.raises(ValueError, match="outside the 2 classes"):
        ConfusionMatrix(2).update(np.array(pred), np.array(label))


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="shape"):
        ConfusionMatrix(2).update(np.zeros((2, 2), int), np.zeros((2, 3), int))
