import glob
import json
import os
import re

import numpy as np
import paddle
import pytest

from paddleseg_psp.config import Config
from paddleseg_psp.engine import evaluate, predict, train
from paddleseg_psp.engine.metrics import ConfusionMatrix
from paddleseg_psp.errors import UserError
from paddleseg_psp.models.weights import read_weights

TRAIN_LINE = (
    r"\[TRAIN\] epoch: \d+, iter: (\d+)/(\d+), loss: [\d.]+, lr: [\d.]+, batch_cost: [\d.]+, reader_cost: [\d.]+, "
    r"ips: [\d.]+ samples/sec \| ETA \d\d:\d\d:\d\d"
)


def run(config, save_dir, with_evaluation=True, **options):
    """Trains a configuration as train.py does, and returns (the best mIoU, the network)."""
    paddle.seed(0)
    model = config.build_model()
    return (
        train(
            model,
            config.build_dataset("train_dataset"),
            config.build_dataset("val_dataset") if with_evaluation else None,
            optimizer=config.build_optimizer(model, config.build_scheduler()),
            losses=config.build_losses(),
            save_dir=str(save_dir),
            iters=config.iters,
            batch_size=config.batch_size,
            **{"save_interval": 2, "log_iters": 1, **options},
        ),
        model,
    )


@pytest.mark.parametrize("network", ["PSPNet", "PSANet"])
def test_training_logs_evaluates_and_saves(write_config, tmp_path, capsys, network):
    best, _ = run(Config(write_config(network)), tmp_path / "out", use_vdl=True)
    output = capsys.readouterr().out
    assert re.findall(TRAIN_LINE, output) == [(str(i), "4") for i in range(1, 5)]
    assert len(re.findall(r"\[EVAL\] #Images: 3 mIoU: [\d.]+ Acc: [\d.]+ Kappa: -?[\d.]+ Dice: [\d.]+", output)) == 2
    assert 0 <= best <= 1
    names = {os.path.basename(path) for path in glob.glob(str(tmp_path / "out" / "*"))}
    assert {"iter_2", "iter_4", "best_model"} < names
    assert len(glob.glob(str(tmp_path / "out" / "vdlrecords.*.log"))) == 1
    assert set(os.listdir(tmp_path / "out" / "iter_4")) == {"model.pdparams", "model.pdopt", "state.json"}


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
    config = Config(write_config())
    best, _ = run(config, tmp_path / "out")
    model = config.build_model()
    model.set_state_dict(read_weights(str(tmp_path / "out" / "best_model" / "model.pdparams")))
    matrix = evaluate(model, config.build_dataset("val_dataset"), print_detail=False)
    assert matrix.mean_iou() == pytest.approx(best, abs=1e-9)


def test_resumed_training_goes_on_from_the_checkpoint(write_config, tmp_path, capsys):
    config = Config(write_config())
    run(config, tmp_path / "whole")
    _, resumed = run(config, tmp_path / "resumed", resume_model=str(tmp_path / "whole" / "iter_2"))
    assert [int(i) for i, _ in re.findall(TRAIN_LINE, capsys.readouterr().out)] == [1, 2, 3, 4, 3, 4]
    rate = read_weights(str(tmp_path / "resumed" / "iter_4" / "model.pdopt"))["LR_Scheduler"]["last_epoch"]
    assert rate == 4
    states = [json.load(open(tmp_path / name / "iter_4" / "state.json")) for name in ("whole", "resumed")]
    assert states[0]["iteration"] == states[1]["iteration"] == 4
    assert states[1]["best_miou"] is not None


def test_resumed_training_keeps_the_best_so_far(write_config, tmp_path):
    config = Config(write_config())
    run(config, tmp_path / "out")
    folder = tmp_path / "out" / "iter_2"
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "best_miou": 0.99, "best_iteration": 1}))
    before = (tmp_path / "out" / "best_model" / "model.pdparams").read_bytes()
    best, _ = run(config, tmp_path / "out", resume_model=str(folder))
    assert best == 0.99
    assert (tmp_path / "out" / "best_model" / "model.pdparams").read_bytes() == before


def test_resuming_a_finished_run_does_nothing(write_config, tmp_path, capsys):
    config = Config(write_config())
    run(config, tmp_path / "out")
    capsys.readouterr()
    run(config, tmp_path / "out", resume_model=str(tmp_path / "out" / "iter_4"))
    assert "[TRAIN]" not in capsys.readouterr().out


def test_old_checkpoints_go(write_config, tmp_path):
    run(Config(write_config(iters=5)), tmp_path / "out", with_evaluation=False, save_interval=1, keep_checkpoint_max=2)
    assert sorted(name for name in os.listdir(tmp_path / "out") if name.startswith("iter")) == ["iter_4", "iter_5"]


def test_loss_that_is_not_finite_stops_the_run(write_config, tmp_path):
    rates = {"type": "PolynomialDecay", "learning_rate": 1.0e30}
    with pytest.raises(UserError, match="the loss is (nan|inf)"):
        run(Config(write_config(iters=20, lr_scheduler=rates)), tmp_path / "out", with_evaluation=False)


def test_fewer_images_than_a_batch(write_config, tmp_path):
    with pytest.raises(UserError, match="6 images, fewer than one batch of 7"):
        run(Config(write_config(batch_size=7)), tmp_path / "out")


def test_losses_and_outputs_must_match(write_config, tmp_path):
    loss = {"types": [{"type": "CrossEntropyLoss"}], "coef": [1]}
    with pytest.raises(UserError, match="2 outputs in training, but .*loss.coef has 1"):
        run(Config(write_config(loss=loss)), tmp_path / "out")


def test_reading_processes_are_used(write_config, tmp_path, capsys):
    run(Config(write_config()), tmp_path / "out", num_workers=2)
    assert len(re.findall(TRAIN_LINE, capsys.readouterr().out)) == 4


@pytest.mark.parametrize("precision", ["bf16"])
def test_mixed_precision(write_config, tmp_path, precision):
    _, model = run(Config(write_config()), tmp_path / "out", precision=precision)
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
