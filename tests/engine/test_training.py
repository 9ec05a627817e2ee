import glob
import json
import os
import re
import sys
import threading
import time

import cv2
import numpy as np
import paddle
import pytest
import yaml
from visualdl import LogReader

from paddleseg_psp.config import Config
from paddleseg_psp.data import TrainingSampler
from paddleseg_psp.engine import evaluate, predict, train
from paddleseg_psp.engine.metrics import ConfusionMatrix
from paddleseg_psp.engine.training_log import read_records
from paddleseg_psp.engine.views import Views
from paddleseg_psp.errors import UserError
from paddleseg_psp.losses import CrossEntropyLoss
from paddleseg_psp.models.weights import read_weights
from tests.helpers import TINY, relative_error, run_training, write_sums

TRAIN_LINE = (
    r"\[TRAIN\] epoch: \d+, iter: (\d+)/(\d+), loss: [\d.]+, lr: [\d.]+, batch_cost: [\d.]+, reader_cost: [\d.]+, "
    r"ips: [\d.]+ samples/sec \| ETA \d\d:\d\d:\d\d"
)


@pytest.mark.parametrize("network", ["PSPNet", "PSANet"])
def test_training_logs_evaluates_and_saves(write_config, tmp_path, capsys, network):
    best, _ = run_training(Config(write_config(network)), tmp_path / "out", use_vdl=True)
    output = capsys.readouterr().out
    assert re.findall(TRAIN_LINE, output) == [(str(i), "4") for i in range(1, 5)]
    assert len(re.findall(r"\[EVAL\] #Images: 3 mIoU: [\d.]+ Acc: [\d.]+ Kappa: -?[\d.]+ Dice: [\d.]+", output)) == 2
    assert 0 <= best <= 1
    names = {os.path.basename(path) for path in glob.glob(str(tmp_path / "out" / "*"))}
    assert {"iter_2", "iter_4", "best_model"} < names
    assert len(glob.glob(str(tmp_path / "out" / "vdlrecords.*.log"))) == 1
    assert set(os.listdir(tmp_path / "out" / "iter_4")) == {"model.pdparams", "model.pdopt", "state.json", "SHA256SUMS"}


def test_loss_falls_on_a_single_batch(write_config, tmp_path, capsys):
    rates = {"type": "PolynomialDecay", "learning_rate": 0.05, "power": 0.9}
    config = Config(write_config(iters=25, batch_size=4, lr_scheduler=rates))
    dataset = config.build_dataset("train_dataset")
    dataset.file_list = dataset.file_list[:1] * 4
    model = config.build_model()
    optimizer = config.build_optimizer(model, config.build_scheduler())
    train(model, dataset, None, optimizer, str(tmp_path / "out"), 25, 4, losses=config.build_losses(), log_iters=5)
    losses = [float(value) for value in re.findall(r"loss: ([\d.]+)", capsys.readouterr().out)]
    assert losses[-1] < 0.5 * losses[0]


def test_best_model_is_the_one_evaluated(write_config, tmp_path):
    config = Config(write_config(), [TINY])
    best, _ = run_training(config, tmp_path / "out")
    model = config.build_model()
    model.set_state_dict(read_weights(str(tmp_path / "out" / "best_model" / "model.pdparams")))
    matrix = evaluate(model, config.build_dataset("val_dataset"), print_detail=False)
    assert matrix.mean_iou() == pytest.approx(best, abs=1e-9)


def test_resumed_training_goes_on_from_the_checkpoint(write_config, tmp_path, capsys):
    config = Config(write_config(), [TINY])
    run_training(config, tmp_path / "whole")
    _, resumed = run_training(config, tmp_path / "resumed", resume_model=str(tmp_path / "whole" / "iter_2"))
    assert [int(i) for i, _ in re.findall(TRAIN_LINE, capsys.readouterr().out)] == [1, 2, 3, 4, 3, 4]
    rate = read_weights(str(tmp_path / "resumed" / "iter_4" / "model.pdopt"))["LR_Scheduler"]["last_epoch"]
    assert rate == 4
    states = [json.load(open(tmp_path / name / "iter_4" / "state.json")) for name in ("whole", "resumed")]
    assert states[0]["iteration"] == states[1]["iteration"] == 4
    assert states[1]["best_miou"] is not None


def test_resumed_training_keeps_the_best_so_far(write_config, tmp_path):
    config = Config(write_config(), [TINY])
    run_training(config, tmp_path / "out")
    folder = tmp_path / "out" / "iter_2"
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "best_miou": 0.99, "best_iteration": 1}))
    write_sums(folder)
    before = (tmp_path / "out" / "best_model" / "model.pdparams").read_bytes()
    best, _ = run_training(config, tmp_path / "out", resume_model=str(folder))
    assert best == 0.99
    assert (tmp_path / "out" / "best_model" / "model.pdparams").read_bytes() == before


def test_resuming_a_finished_run_does_nothing(write_config, tmp_path, capsys):
    config = Config(write_config(), [TINY])
    run_training(config, tmp_path / "out")
    capsys.readouterr()
    run_training(config, tmp_path / "out", resume_model=str(tmp_path / "out" / "iter_4"))
    assert "[TRAIN]" not in capsys.readouterr().out


def test_old_checkpoints_go(write_config, tmp_path):
    run_training(
        Config(write_config(iters=5), [TINY]), tmp_path / "out", with_evaluation=False, save_interval=1, keep_checkpoint_max=2
    )
    assert sorted(name for name in os.listdir(tmp_path / "out") if name.startswith("iter")) == ["iter_4", "iter_5"]


class _DivergingLoss(paddle.nn.Layer):
    """A loss that is not a number when it is called for the n-th time."""

    def __init__(self, loss, call):
        super().__init__()
        self.loss, self.call = loss, call

    def forward(self, logits, label):
        self.call -= 1
        return self.loss(logits, label) * (float("nan") if self.call == 0 else 1)


def test_loss_that_is_not_finite_stops_the_run(write_config, tmp_path):
    """At the next log line, which names the iteration and its images, and before anything is saved."""
    config = Config(write_config(iters=20), [TINY])
    for options, saved in (({"log_iters": 5, "save_interval": 4}, ["iter_4"]), ({"log_iters": 100, "save_interval": 8}, [])):
        losses = config.build_losses()
        losses[1] = (0.4, _DivergingLoss(losses[1][1], call=7))
        out = tmp_path / str(options["log_iters"])
        with pytest.raises(
            UserError, match="the loss is nan at iteration 7, whose images were .* Lower --learning_rate"
        ) as error:
            run_training(config, out, with_evaluation=False, losses=losses, **options)
        sampler = TrainingSampler(6, 2, range(1, 21), seed=0)
        pairs = config.build_dataset("train_dataset").file_list
        assert all(path in str(error.value) for index in sampler.indices(7, 0) for path in pairs[index])
        assert sum(path in str(error.value) for pair in pairs for path in pair) == 4
        assert [name for name in os.listdir(out) if name.startswith("iter")] == saved


def test_weights_that_are_not_finite_are_not_saved(write_config, tmp_path):
    """The loss is computed before the step that spoils them."""
    rates = {"type": "PolynomialDecay", "learning_rate": 1.0e39}
    with pytest.raises(UserError, match="the training diverged: .* is not finite, so nothing was saved"):
        run_training(Config(write_config(iters=1, lr_scheduler=rates), [TINY]), tmp_path / "out", with_evaluation=False)
    assert not [name for name in os.listdir(tmp_path / "out") if name.startswith("iter")]


def test_what_a_run_leaves_beside_its_checkpoints(write_config, tmp_path):
    config = Config(write_config(), [TINY])
    best, _ = run_training(config, tmp_path / "out", use_vdl=True, palette=config.palette())
    records = read_records(str(tmp_path / "out" / "metrics.jsonl"))
    assert [(record["group"], record["iteration"]) for record in records] == [
        ("Train", 1), ("Train", 2), ("Evaluate", 2), ("Train", 3), ("Train", 4), ("Evaluate", 4)
    ]  # fmt: skip
    for record in records:
        if record["group"] == "Train":
            assert record["loss"] == pytest.approx(record["loss_0"] + record["loss_1"], rel=1e-6) and record["ips"] > 0
    assert max(record["mIoU"] for record in records if "mIoU" in record) == best
    assert records[-1]["class_iou"].count(None) > 0
    assert yaml.safe_load((tmp_path / "out" / "config.yml").read_text()) == config.data
    assert "paddle 3.3.1" in (tmp_path / "out" / "environment.txt").read_text()
    assert cv2.imread(str(tmp_path / "out" / "curves.png")).std() > 0
    names = sorted(os.listdir(tmp_path / "out" / "validation"))
    assert names == [f"iter_{iteration}_{number}.png" for iteration in (2, 4) for number in range(3)]
    pictures = LogReader(file_path=glob.glob(str(tmp_path / "out" / "vdlrecords.*.log"))[0])
    shown = pictures.get_data("image", "Validation/0")
    assert [item.id for item in shown] == [2, 4]
    image = cv2.imread(str(tmp_path / "out" / "validation" / "iter_2_0.png"))
    decoded = cv2.imdecode(np.frombuffer(shown[0].image.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    np.testing.assert_array_equal(decoded, image)
    scalars = [item.value for item in pictures.get_data("scalar", "Train/loss")]
    np.testing.assert_allclose(scalars, [record["loss"] for record in records if "loss" in record], rtol=1e-6)


def test_slow_reading_is_told(write_config, tmp_path, capsys, monkeypatch):
    config = Config(write_config(iters=3), [TINY])
    dataset = config.build_dataset("train_dataset")
    read = dataset.transforms.transforms[0].__class__.__call__
    monkeypatch.setattr(dataset.transforms.transforms[0].__class__, "__call__", lambda *args: time.sleep(0.3) or read(*args))
    run_training(config, tmp_path / "out", with_evaluation=False)
    assert re.search(r"Reading takes \d\d% of the time: raise --num_workers \(0 now\)", capsys.readouterr().out)


def scripted_evaluations(monkeypatch, values):
    """Makes evaluations give these mean IoUs, one after the other."""
    values = iter(values)

    class Scripted(ConfusionMatrix):
        def mean_iou(self):
            return self.value

    def scripted(model, dataset, views, **_):
        matrix = Scripted(dataset.num_classes)
        matrix.value = next(values)
        return matrix

    monkeypatch.setattr("paddleseg_psp.engine.validation.evaluate", scripted)


def test_early_stopping(write_config, tmp_path, capsys, monkeypatch):
    config = Config(write_config(iters=9), [TINY])
    scripted_evaluations(monkeypatch, [0.1, 0.3, 0.2, 0.3, 0.5])
    options = {"save_interval": 1, "early_stop_intervals": 2}
    best, _ = run_training(config, tmp_path / "out", **options)
    assert best == 0.3
    assert "Stopped early: no better mIoU in 2 evaluations up to 4" in capsys.readouterr().out
    run_training(config, tmp_path / "out", resume_model="auto", **options)  # and stays so
    assert "[TRAIN]" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["views", "test_config"])
def test_evaluations_use_the_views(write_config, tmp_path, monkeypatch, name):
    """Given as they are, or as PaddleSeg's mapping, whose sizes are width and height."""
    mapping, seen = {"is_slide": True, "crop_size": [33, 25], "stride": [22, 25]}, []
    monkeypatch.setattr(
        "paddleseg_psp.engine.validation.evaluate",
        lambda model, dataset, views, **options: seen.append(views) or ConfusionMatrix(dataset.num_classes),
    )
    options = {name: mapping if name == "test_config" else Views.from_options(mapping)}
    run_training(Config(write_config(iters=2), [TINY]), tmp_path / "out", **options)
    assert [(views.window, views.step) for views in seen] == [((25, 33), (25, 22))]


def test_accumulated_batches_equal_a_large_one(write_config, tmp_path):
    """Without batch normalization, which sees each batch for itself."""
    config = Config(write_config(iters=3, freeze_batch_norm="all"), [TINY, "model.dropout=0", "optimizer.weight_decay=0.01"])
    losses = [(weight, CrossEntropyLoss(avg_non_ignore=False)) for weight, _ in config.build_losses()]
    weights = {}
    for batch_size, accumulate in ((6, 1), (2, 3)):
        batches = config.replaced({**config.data, "batch_size": batch_size, "accumulate": accumulate})
        _, model = run_training(batches, tmp_path / str(batch_size), with_evaluation=False, losses=losses)
        weights[batch_size] = np.concatenate([value.numpy().ravel() for value in model.parameters()])
    start = np.concatenate([value.numpy().ravel() for value in seeded_model(config).parameters()])
    assert relative_error(weights[2] - start, weights[6] - start) < 1e-5


def seeded_model(config):
    paddle.seed(0)
    return config.build_model()


def test_frozen_batch_normalization(write_config, tmp_path):
    config = Config(write_config(iters=2, freeze_batch_norm="backbone"))
    before = {name: value.numpy().copy() for name, value in seeded_model(config).state_dict().items()}
    _, model = run_training(config, tmp_path / "out")
    after = {name: value.numpy() for name, value in model.state_dict().items()}
    norms = [name for name in before if "_batch_norm" in name]
    same = [name for name in norms if np.array_equal(before[name], after[name])]
    assert same == [name for name in norms if name.startswith("backbone.")] and len(same) < len(norms)
    assert not np.array_equal(before["backbone.conv1_1._conv.weight"], after["backbone.conv1_1._conv.weight"])


def test_fewer_images_than_a_batch(write_config, tmp_path):
    with pytest.raises(UserError, match="6 images, fewer than the 7 of one iteration"):
        run_training(Config(write_config(batch_size=7)), tmp_path / "out")
    with pytest.raises(UserError, match="fewer than the 8 of one iteration .--batch_size 2 x --accumulate 4 x 1 processes"):
        run_training(Config(write_config(accumulate=4)), tmp_path / "out")


def test_losses_and_outputs_must_match(write_config, tmp_path):
    loss = {"types": [{"type": "CrossEntropyLoss"}], "coef": [1]}
    with pytest.raises(UserError, match="2 outputs in training, but .*loss.coef has 1"):
        run_training(Config(write_config(loss=loss)), tmp_path / "out")


def test_training_and_evaluation_in_a_thread(write_config, tmp_path):
    """As in a web server or a window."""
    results = []
    config = Config(write_config(), [TINY])

    def work():
        best, model = run_training(config, tmp_path / "out", num_workers=1)
        matrix = evaluate(model, config.build_dataset("val_dataset"), num_workers=1, print_detail=False)
        results.append((best, matrix.counts.sum()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(results) == 1 and results[0][1] > 0


class Notebook:
    """A stdout that has nothing but what print needs."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_training_in_a_notebook(write_config, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Notebook())
    run_training(Config(write_config(), [TINY]), tmp_path / "out")
    assert len(re.findall(TRAIN_LINE, sys.stdout.text)) == 4 and "[EVAL] #Images: 3" in sys.stdout.text


def test_reading_processes_are_used(write_config, tmp_path, capsys):
    run_training(Config(write_config()), tmp_path / "out", num_workers=2)
    assert len(re.findall(TRAIN_LINE, capsys.readouterr().out)) == 4


@pytest.mark.parametrize("precision", ["bf16"])
def test_mixed_precision(write_config, tmp_path, precision):
    _, model = run_training(Config(write_config()), tmp_path / "out", precision=precision)
    assert all(bool(paddle.isfinite(value).all()) for value in model.parameters())


class _Marked(paddle.nn.Layer):
    """A network whose class at each pixel is read off the first channel of the image: 0 below 0, otherwise 1."""

    def forward(self, x):
        return [paddle.concat([-x[:, :1], x[:, :1]], axis=1)]


def test_evaluation_counts_every_pixel_once(write_config):
    dataset = Config(write_config()).build_dataset("val_dataset")
    expected = ConfusionMatrix(19)
    for image, label in dataset.file_list:
        from PIL import Image

        red = np.asarray(Image.open(image))[..., 0] / 255
        expected.update((red > 0.5).astype(int), np.asarray(Image.open(label)))
    whole = evaluate(_Marked(), dataset, print_detail=False)
    np.testing.assert_array_equal(whole.counts, expected.counts)
    for options in (
        {"is_slide": True, "crop_size": [32, 32], "stride": [16, 24]},
        {"aug_eval": True, "scales": [1.0], "flip_horizontal": True, "flip_vertical": True},
        {"num_workers": 2},
    ):
        np.testing.assert_array_equal(evaluate(_Marked(), dataset, print_detail=False, **options).counts, expected.counts)


def test_predictions_are_written_under_the_names_of_the_images(write_config, tmp_path):
    from PIL import Image

    config = Config(write_config())
    dataset = config.build_dataset("val_dataset")
    folder = os.path.join(dataset.dataset_root, "leftImg8bit", "val")
    images = [image for image, _ in dataset.file_list]
    palette = [(200, 10, 20), (30, 40, 250)]
    predict(_Marked(), config.build_transforms(), images, folder, str(tmp_path / "out"), palette=palette)
    for image in images:
        name = os.path.relpath(image, folder)
        red = np.asarray(Image.open(image))[..., 0] / 255
        result = Image.open(tmp_path / "out" / "pseudo_color_prediction" / name)
        np.testing.assert_array_equal(np.asarray(result), red > 0.5)
        assert result.getpalette()[:6] == [200, 10, 20, 30, 40, 250]
        added = np.asarray(Image.open(tmp_path / "out" / "added_prediction" / name)).astype(float)
        color = np.where((red > 0.5)[..., None], palette[1], palette[0])
        np.testing.assert_allclose(added, 0.6 * np.asarray(Image.open(image)) + 0.4 * color, atol=1)
