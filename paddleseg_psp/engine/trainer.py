"""The training loop."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Sequence

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.io import Dataset
from paddle.optimizer import Optimizer

from paddleseg_psp.data import SeededDataset, TrainingSampler, checked, load_batches
from paddleseg_psp.data.sampler import derived_seed
from paddleseg_psp.engine import distributed
from paddleseg_psp.engine.checkpoint import Checkpoints, Progress
from paddleseg_psp.engine.interruption import Interrupted, Interruption
from paddleseg_psp.engine.lock import only_training
from paddleseg_psp.engine.precision import LossScaler, autocast, cast_weights
from paddleseg_psp.engine.resume import start
from paddleseg_psp.engine.training_log import TrainingLog
from paddleseg_psp.engine.validation import Validation
from paddleseg_psp.engine.weight_average import WeightAverage
from paddleseg_psp.errors import UserError
from paddleseg_psp.files import require_writable
from paddleseg_psp.log import logger


def train(
    model: nn.Layer,
    train_dataset: Dataset,
    val_dataset: Dataset | None = None,
    optimizer: Optimizer | None = None,
    save_dir: str = "output",
    iters: int = 10000,
    batch_size: int = 2,
    resume_model: str | None = None,
    save_interval: int = 1000,
    log_iters: int = 10,
    num_workers: int = 0,
    use_vdl: bool = False,
    losses: Sequence[tuple[float, nn.Layer]] = (),
    keep_checkpoint_max: int = 5,
    test_config: dict | None = None,
    precision: str = "fp32",
    amp_level: str = "O1",
    accumulate: int = 1,
    ema_decay: float | None = None,
    early_stop_intervals: int | None = None,
    seed: int = 0,
    palette: Sequence[Sequence[int]] | None = None,
    config: str | None = None,
) -> float | None:
    """Trains a network: each iteration takes a batch, steps, logs; each save_interval evaluates and saves.

    What it computes depends on its arguments alone: a run that was interrupted and resumed ends, on a CPU, in the same
    parameters to the bit.

    Args:
        model: returns a list of logits [N, C, H, W].
        train_dataset, val_dataset: data sets of paddleseg or this package; without val_dataset nothing is evaluated.
        optimizer: a paddle optimizer over the model's parameters.
        save_dir: gets iter_<n>/ checkpoints, best_model/, validation/, metrics.jsonl, curves.png, VisualDL's log.
        iters: iterations in all, those before a resume included.
        batch_size: images that a process takes at once.
        resume_model: a checkpoint folder to go on from, or "auto": the newest whole one in save_dir, if any.
        save_interval, log_iters: iterations between checkpoints, and between log lines.
        num_workers: processes that read files.
        use_vdl: write scalars and pictures for VisualDL.
        losses: a (weight, loss) pair for each output of the network.
        keep_checkpoint_max: checkpoints kept; 0 keeps all.
        test_config: further arguments of `evaluate`.
        precision, amp_level: see `paddleseg_psp.engine.precision`.
        accumulate: batches whose gradients are averaged for one step.
        ema_decay: average the weights (`WeightAverage`); the averaged ones are evaluated and kept as best_model.
        early_stop_intervals: end after this many evaluations without a better one.
        seed: of order, transforms and dropout; a resumed run has its checkpoint's.
        palette: a (red, green, blue) colour for each class, for pictures.
        config: the configuration as YAML, kept in checkpoints to notice what changed.

    Returns:
        The best mean IoU; None without evaluation.

    Raises:
        ValueError: no optimizer, or no losses.
        UserError: wrong files, a loss that is not finite, no place to save, another training in save_dir.
        Interrupted: SIGTERM, SIGINT or SIGHUP came; a checkpoint was saved.
    """
    if optimizer is None or not losses:
        raise ValueError("train needs an optimizer and losses")
    require_writable(save_dir)
    with only_training(save_dir):
        cast_weights(model, optimizer, precision, amp_level)
        scaler, average = LossScaler(precision == "fp16"), WeightAverage(model, ema_decay)
        checkpoints = Checkpoints(save_dir, keep_checkpoint_max, model, optimizer, scaler, average)
        progress = start(checkpoints, save_dir, resume_model, Progress(seed, config=config))
        steps = range(progress.iteration + 1, iters + 1)
        dataset = checked(train_dataset)
        dataset.hold()
        sampler = _sampler(dataset, batch_size, steps, progress.seed, accumulate)
        batches = load_batches(SeededDataset(dataset), sampler, num_workers)
        options = {"num_workers": num_workers, "precision": precision, "amp_level": amp_level, **(test_config or {})}
        validation = Validation(model, average, checkpoints, val_dataset, save_dir, options, palette)
        log = TrainingLog(save_dir, progress, iters, log_iters, sampler, dataset, num_workers, use_vdl)
        network, schedule = distributed.wrapped(model), optimizer._learning_rate

        with Interruption(log_iters) as interruption, log, contextlib.closing(batches):
            try:
                if progress.iteration and _due(progress.iteration, save_interval, iters):
                    validation.run(progress, interruption, log)  # an interruption had cut it short
                if not steps:
                    logger.info(
                        f"Nothing is left to train: {progress.iteration} of {iters} iterations are done; --iters takes more"
                    )
                model.train()
                for iteration in steps:
                    if early_stop_intervals and progress.without_gain >= early_stop_intervals:
                        logger.info(
                            f"Stopped early: no better mIoU in {early_stop_intervals} evaluations up to {iteration - 1}"
                        )
                        break
                    seed_everything(progress.seed, iteration, distributed.rank())
                    terms, waited = 0, 0.0
                    for turn in range(accumulate):
                        asked = time.perf_counter()
                        batch = next(batches)
                        waited += time.perf_counter() - asked
                        with distributed.exchanging_gradients(network, turn == accumulate - 1):
                            with autocast(model, precision, amp_level):
                                parts = paddle.stack(loss_terms(network(batch["img"]), batch["label"], losses))
                            scaler.scale(parts.sum() / accumulate).backward()
                        terms += parts.detach() / accumulate
                    scaler.step(optimizer, model.parameters())
                    optimizer.clear_grad(set_to_zero=False)
                    average.update(iteration)
                    log.step(iteration, terms, optimizer.get_lr(), waited)
                    if isinstance(schedule, paddle.optimizer.lr.LRScheduler):
                        schedule.step()
                    progress.iteration = iteration
                    if signum := interruption.after(iteration):
                        log.require_finite(model)
                        raise Interrupted(signum)
                    if _due(iteration, save_interval, iters):
                        log.require_finite(model)
                        checkpoints.save(progress)
                        validation.run(progress, interruption, log)
                        log.restart_timer()
            except Interrupted as interrupted:
                folder = checkpoints.save(progress)
                raise Interrupted(interrupted.signum, f"{folder} is saved; --resume_model auto goes on from there") from None
            except Exception as error:
                raise _with_place(error, model, checkpoints, progress, log) from error
        return progress.best_miou


def _with_place(error, model, checkpoints, progress, log):
    """Returns an error of the data or the network as one that says where the training is saved, after saving it.

    A network that has diverged is not saved, nor that of one process where others wait for it.
    """
    if not progress.iteration or (distributed.world_size() > 1 and not checkpoints.has(progress)):
        return error
    try:
        log.require_finite(model)
        folder = checkpoints.keep(progress)
    except UserError:
        return error
    reason = f"{type(error).__name__}: {error} (--debug shows where)"
    reason = str(error).rstrip(".") if isinstance(error, UserError) else reason
    return UserError(f"{reason}. The training is saved in {folder}: --resume_model auto goes on from there")


def _due(iteration, save_interval, iters):
    return iteration % save_interval == 0 or iteration == iters


def loss_terms(outputs: Sequence[Tensor], label: Tensor, losses: Sequence[tuple[float, nn.Layer]]) -> list[Tensor]:
    """Returns the weighted loss of each output of a network, as a list of scalars.

    Raises:
        UserError: not one loss for each output.
    """
    if len(outputs) != len(losses):
        raise UserError(
            f"the network has {len(outputs)} outputs in training, but the configuration's loss.coef has {len(losses)} weights"
        )
    terms = []
    for logits, (weight, loss) in zip(outputs, losses):
        value = loss(logits, label)
        terms.append(weight * (sum(value) if isinstance(value, (list, tuple)) else value))  # MixedLoss returns a list
    return terms


def _sampler(dataset, batch_size, steps, seed, accumulate):
    """Returns the sampler of the iterations to come.

    Raises:
        UserError: too few images for one iteration.
    """
    processes = distributed.world_size()
    sampler = TrainingSampler(len(dataset), batch_size, steps, seed, accumulate, distributed.rank(), processes)
    if sampler.iters_per_epoch == 0:
        raise UserError(
            f"the training data set has {len(dataset)} images, fewer than the {sampler.images} of one iteration (--batch_size "
            f"{batch_size} x --accumulate {accumulate} x {processes} processes): lower them"
        )
    return sampler


def seed_everything(*numbers: int) -> None:
    """Seeds Python, NumPy and paddle with what the numbers (not negative) give together."""
    seed = derived_seed(*numbers)
    random.seed(seed)
    np.random.seed(seed)
    paddle.seed(seed)
