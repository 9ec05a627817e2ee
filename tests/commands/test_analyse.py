import csv
import re

import cv2
import numpy as np
import yaml
from PIL import Image
from sklearn.metrics import confusion_matrix

from paddleseg_psp.commands import predict
from tests.helpers import run_tool


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_tables_and_pictures(trained, tmp_path, capfd):
    """Equal what scikit-learn counts in the predictions of predict.py."""
    config, weights, training = trained
    out = tmp_path / "analysis"
    command = [
        "--config",
        config,
        "--model_path",
        weights,
        "--save_dir",
        out,
        "--worst",
        2,
        "--device",
        "cpu",
    ]
    process = run_tool("tools/analyse.py", command, capfd)
    assert process.returncode == 0, process.stderr
    root = yaml.safe_load(open(config))["val_dataset"]["dataset_root"]
    arguments = ["--config", config, "--model_path", weights, "--image_path", f"{root}/leftImg8bit/val", "--device", "cpu"]
    predict.main([*arguments, "--save_dir", str(tmp_path)])
    labels, predictions = [], []
    for path in sorted((tmp_path / "pseudo_color_prediction").glob("*/*.png")):
        predictions.append(np.asarray(Image.open(path)))
        name = path.name.replace("leftImg8bit", "gtFine_labelTrainIds")
        labels.append(np.asarray(Image.open(f"{root}/gtFine/val/{path.parent.name}/{name}")))
    valid = [label != 255 for label in labels]
    pairs = [(label[mask], pred[mask]) for label, pred, mask in zip(labels, predictions, valid)]
    expected = sum(confusion_matrix(label, pred, labels=range(19)) for label, pred in pairs)
    table = rows(out / "confusion.csv")
    np.testing.assert_array_equal(np.array([row[1:] for row in table[1:]], int), expected)
    assert table[0][1:4] == ["road", "sidewalk", "building"] and table[1][0] == "road"
    iou = np.diag(expected) / np.maximum(expected.sum(0) + expected.sum(1) - np.diag(expected), 1)
    for value, row in zip(iou, rows(out / "classes.csv")[1:]):
        assert row[1] == "nan" or abs(float(row[1]) - value) < 1e-9
    accuracies = sorted(np.mean(label == pred) for label, pred in pairs)
    images = rows(out / "images.csv")[1:]
    np.testing.assert_allclose([float(row[1]) for row in images], accuracies)
    wrong = 1 - np.trace(expected) / expected.sum()
    assert re.search(
        rf"Wrong on {wrong:.2%} of the pixels; most of all [\w ]+ taken for [\w ]+ \(\d+% of them\)", process.stdout
    )
    assert sorted(path.name for path in (out / "worst").iterdir()) == ["1.png", "2.png"]
    worst = cv2.imread(str(out / "worst" / "1.png"))
    assert worst.shape == (48, 4 * 64, 3)
    index = int(np.argmin([np.mean(label == pred) for label, pred in pairs]))
    np.testing.assert_array_equal(worst[:, 192:, 0] > 0, (labels[index] != predictions[index]) & valid[index])
    assert cv2.imread(str(out / "confusion.png")).std() > 0
