"""The training loop."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.io import Dataset
from paddle.optimizer import Optimizer

from paddleseg_psp.data import SeededDataset, TrainingSampler, checked, load_batches
from paddleseg_psp.data.reading.sampler import derived_seed
from paddleseg_psp.engine import distributed
from paddleseg_psp.engine.checkpoint import Checkpoints, Progress
from paddleseg_psp.engine.interruption import Interrupted, Interruption
from paddleseg_psp.engine.lock import only_training
from paddleseg_psp.engine.precision import LossScaler, autocast, cast_weights
from paddleseg_psp.engine.resume import start
from paddleseg_psp.engine.training_log import TrainingLog
from paddleseg_psp.engine.validation import Validation
from paddleseg_psp.engine.views import WHOLE, Views
from paddleseg_psp.engine.weight_average import WeightAverage
from paddleseg_psp.errors import UserError
from paddleseg_psp.files import require_writable
from paddleseg_psp.log import logger
from paddleseg_psp.paddle_internals import schedule_of


@dataclass(frozen=True)
class RunOptions:
    """How a training runs.

    Attributes:
        save_dir: gets iter_<n>/ checkpoints, best_model/, validation/, metrics.jsonl, curves.png, VisualDL's log.
        iters: total number of iterations, those before a resume included.
        batch_size: of each process.
        accumulate: batches whose gradients are averaged for one iteration.
        resume_model: a checkpoint folder to resume from, or "auto": the newest whole one in save_dir, if any.
        save_interval: iterations between checkpoints.
        log_iters: iterations between log lines.
        num_workers: processes that read files.
        use_vdl: write scalars and pictures for VisualDL.
        keep_checkpoint_max: checkpoints kept; 0 keeps all.
        views: how the network sees images in evaluation.
        precision: "fp32", "fp16" or "bf16"; see `paddleseg_psp.engine.precision`.
        amp_level: "O1" or "O2".
        ema_decay: average the weights (`WeightAverage`); the averaged ones are evaluated and kept as best_model.
        early_stop_intervals: end after this many evaluations without a better one.
        seed: of order, transforms and dropout; a resumed run has its checkpoint's.
        palette: a (red, green, blue) color for each class, for pictures.
        config: the configuration as YAML, kept in checkpoints to notice what changed.
    """

    save_dir: str = "output"
    iters: int = 10000
    batch_size: int = 2
    accumulate: int = 1
    resume_model: str | None = None
    save_interval: int = 1000
    log_iters: int = 10
    num_workers: int = 0
    use_vdl: bool = False
    keep_checkpoint_max: int = 5
    views: Views = WHOLE
    precision: str = "fp32"
    amp_level: str = "O1"
    ema_decay: float | None = None
    early_stop_intervals: int | None = None
    seed: int = 0
    palette: Sequence[Sequence[int]] | None = None
    config: str | None = None


def train(
    model: nn.Layer,
    train_dataset: Dataset,
    val_dataset: Dataset | None = None,
    optimizer: Optimizer | None = None,
    save_dir: str = "output",
    iters: int = 10000,
    batch_size: int = 2,
    *,
    losses: Sequence[tuple[float, nn.Layer]] = (),
    **options: Any,
) -> float | None:
    """Trains a network: each iteration takes a batch, steps, logs; each save_interval evaluates and saves.

    What it computes depends on its arguments alone: a run that was interrupted and resumed ends, on a CPU, in the same
    parameters to the bit.

    Args:
        model: returns a list of logits [N, C, H, W].
        train_dataset: a data set of paddleseg or this package.
        val_dataset: another one, for evaluation; None evaluates nothing.
        optimizer: a paddle optimizer over the model's parameters.
        save_dir: folder of the run.
        iters: total number of iterations.
        batch_size: of each process.
        losses: a (weight, loss) pair for each output of the network.
        options: further fields of `RunOptions`; PaddleSeg's test_config in place of views.

    Returns:
        The best mean IoU; None without evaluation.

    Raises:
        ValueError: no optimizer, or no losses.
        UserError: wrong files, a loss that is not finite, no place to save, another training in save_dir.
        Interrupted: SIGTERM, SIGINT or SIGHUP came; a checkpoint was saved.
    """
    if optimizer is None or not losses:
        raise ValueError("train needs an optimizer and losses")
    if "test_config" in options:
        options["views"] = Views.from_options(options.pop("test_config") or {})
    run = RunOptions(save_dir, iters, batch_size, **options)
    require_writable(save_dir)
    with only_training(save_dir):
        return Training(model, train_dataset, val_dataset, optimizer, losses, run).run()


class Training:
    """One run: its network, data and optimizer, and where it is. `run` is the loop, `step` one iteration of it."""

    def __init__(
        self,
        model: nn.Layer,
        train_dataset: Dataset,
        val_dataset: Dataset | None,
        optimizer: Optimizer,
        losses: Sequence[tuple[float, nn.Layer]],
        options: RunOptions,
    ) -> None:
        self.options, self.model, self.optimizer, self.losses = options, model, optimizer, losses
        precision = {"precision": options.precision, "amp_level": options.amp_level}
        cast_weights(model, optimizer, *precision.values())
        self.scaler, self.average = LossScaler(options.precision == "fp16"), WeightAverage(model, options.ema_decay)
        self.checkpoints = Checkpoints(
            options.save_dir, options.keep_checkpoint_max, model, optimizer, self.scaler, self.average
        )
        fresh = Progress(options.seed, config=options.config)
        self.progress = start(self.checkpoints, options.save_dir, options.resume_model, fresh)
        self.iterations = range(self.progress.iteration + 1, options.iters + 1)
        dataset = checked(train_dataset)
        dataset.hold()
        sampler = _sampler(dataset, options, self.iterations, self.progress.seed)
        self.batches = load_batches(SeededDataset(dataset), sampler, options.num_workers)
        given = {"num_workers": options.num_workers, **precision}
        self.validation = Validation(
            model, self.average, self.checkpoints, val_dataset, options.save_dir, options.views, given, options.palette
        )
        self.log = TrainingLog(
            options.save_dir, self.progress, options.iters, options.log_iters, sampler, dataset, options.num_workers,
            options.use_vdl,
        )  # fmt: skip
        self.network, self.schedule = distributed.wrapped(model), schedule_of(optimizer)

    def run(self) -> float | None:
        """Trains to the end; returns and raises as `train` does."""
        progress, options = self.progress, self.options
        with Interruption(options.log_iters) as interruption, self.log, contextlib.closing(self.batches):
            try:
                if progress.iteration and self._saves_at(progress.iteration):
                    self.validation.run(progress, interruption, self.log)  # an interruption had cut it short
                if not self.iterations:
                    done = f"{progress.iteration} of {options.iters} iterations are done"
                    logger.info(f"Nothing is left to train: {done}; --iters takes more")
                self.model.train()
                for iteration in self.iterations:
                    if self._stops_early():
                        break
                    self.step(iteration)
                    if signum := interruption.after(iteration):
                        self.log.require_finite(self.model)
                        raise Interrupted(signum)
                    if self._saves_at(iteration):
                        self.log.require_finite(self.model)
                        self.checkpoints.save(progress)
                        self.validation.run(progress, interruption, self.log)
                        self.log.restart_timer()
            except Interrupted as interrupted:
                folder = self.checkpoints.save(progress)
                message = f"{folder} is saved; --resume_model auto resumes from there"
                raise Interrupted(interrupted.signum, message) from None
            except Exception as error:
                raise self._with_place(error) from error
        return progress.best_miou

    def step(self, iteration: int) -> None:
        """Trains on the batches of one iteration: loss, gradients, weights, log, learning rate."""
        seed_everything(self.progress.seed, iteration, distributed.rank())
        turns, terms, waited = self.options.accumulate, 0, 0.0
        for turn in range(turns):
            asked = time.perf_counter()
            batch = next(self.batches)
            waited += time.perf_counter() - asked
            with distributed.exchanging_gradients(self.network, turn == turns - 1):
                with autocast(self.model, self.options.precision, self.options.amp_level):
                    parts = paddle.stack(loss_terms(self.network(batch["img"]), batch["label"], self.losses))
                self.scaler.scale(parts.sum() / turns).backward()
            terms += parts.detach() / turns
        self.scaler.step(self.optimizer, self.model.parameters())
        self.optimizer.clear_grad(set_to_zero=False)
        self.average.update(iteration)
        self.log.step(iteration, terms, self.optimizer.get_lr(), waited)
        if self.schedule is not None:
            self.schedule.step()
        self.progress.iteration = iteration

    def _saves_at(self, iteration):
        return iteration % self.options.save_interval == 0 or iteration == self.options.iters

    def _stops_early(self):
        most = self.options.early_stop_intervals
        stops = bool(most) and self.progress.without_gain >= most
        if stops:
            logger.info(f"Stopped early: no better mIoU in {most} evaluations up to {self.progress.iteration}")
        return stops

    def _with_place(self, error):
        """Saves the training, and returns an error with the place of the checkpoint added.

        A network that has diverged is not saved, nor that of one process where others wait for it.
        """
        progress = self.progress
        if not progress.iteration or (distributed.world_size() > 1 and not self.checkpoints.has(progress)):
            return error
        try:
            self.log.require_finite(self.model)
            folder = self.checkpoints.keep(progress)
        except UserError:
            return error
        reason = f"{type(error).__name__}: {error} (--debug shows where)"
        reason = str(error).rstrip(".") if isinstance(error, UserError) else reason
        return UserError(f"{reason}. The training is saved in {folder}: --resume_model auto resumes from there")


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


def _sampler(dataset, options, iterations, seed):
    """Returns the sampler of the iterations to come.

    Raises:
        UserError: too few images for one iteration.
    """
    place, (batch_size, accumulate) = (distributed.rank(), distributed.world_size()), (options.batch_size, options.accumulate)
    sampler = TrainingSampler(len(dataset), batch_size, iterations, seed, accumulate, *place)
    if sampler.iters_per_epoch == 0:
        raise UserError(
            f"the training data set has {len(dataset)} images, fewer than the {sampler.images} of one iteration (--batch_size "
            f"{batch_size} x --accumulate {accumulate} x {place[1]} processes): lower them"
        )
    return sampler


def seed_everything(*numbers: int) -> None:
    """Seeds Python, NumPy and paddle with what the numbers (not negative) give together."""
    seed = derived_seed(*numbers)
    random.seed(seed)
    np.random.seed(seed)
    paddle.seed(seed)
