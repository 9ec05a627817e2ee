"""The output of a training: log lines in PaddleSeg's format, a bar on a terminal, scalars and pictures for VisualDL,
metrics.jsonl and curves.png."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator

import numpy as np
import paddle
from paddle import Tensor, nn
from paddle.io import Dataset
from paddleseg.utils import calculate_eta
from tqdm import tqdm

from paddleseg_psp.data.reading.sampler import TrainingSampler
from paddleseg_psp.engine import distributed
from paddleseg_psp.engine.checkpoint import Progress
from paddleseg_psp.engine.interruption import Interrupted
from paddleseg_psp.engine.metrics import ConfusionMatrix
from paddleseg_psp.errors import UserError
from paddleseg_psp.files import append, atomic_path
from paddleseg_psp.log import logger, output
from paddleseg_psp.visual import draw_curves

RECORDS, _CURVES = "metrics.jsonl", "curves.png"
_SLOW_READING = 0.5  # share of an iteration's time
_AGAINST_DIVERGENCE = (
    "Lower --learning_rate, lengthen lr_scheduler.warmup_iters, clip gradients (optimizer.grad_clip_cfg), or use --precision "
    "fp32 or bf16; --resume_model auto resumes from the last checkpoint"
)


class TrainingLog:
    """Averages losses and times over log_iters iterations and reports them; only the first process writes.

    If something cannot be written, one warning is logged and the training continues.

    Args:
        save_dir: gets metrics.jsonl, curves.png and VisualDL's log.
        progress: where the run starts; later records of an earlier run are dropped.
        iters, log_iters: iterations of the whole run, and between log lines.
        sampler: has images an iteration and iterations an epoch, and knows which images were read.
        dataset: `files(index)` names the files of a sample.
        num_workers: processes that read.
        use_vdl: write for VisualDL.
    """

    def __init__(
        self,
        save_dir: str,
        progress: Progress,
        iters: int,
        log_iters: int,
        sampler: TrainingSampler,
        dataset: Dataset,
        num_workers: int,
        use_vdl: bool,
    ) -> None:
        self._save_dir, self._iters, self._log_iters = save_dir, iters, log_iters
        self._sampler, self._dataset, self._num_workers = sampler, dataset, num_workers
        self._writes, self._use_vdl = distributed.rank() == 0, use_vdl
        self._done, self._evaluated = progress.iteration, progress.evaluated
        self._failed: set[str] = set()
        self._terms: list[Tensor] = []
        self._seconds = self._reader_seconds = 0.0

    def __enter__(self) -> TrainingLog:
        self._writer, self._out = None, output()
        if self._writes:
            with self.dispensable(RECORDS):
                self._drop_later_records()
            if self._use_vdl:
                with self.dispensable("VisualDL's log"):
                    from paddleseg_psp.engine.visualdl_log import VisualDLLog

                    self._writer = VisualDLLog(self._save_dir, lambda tag, at: self._is_kept(tag.split("/")[0], at))
        shown = self._writes and self._out.isatty()
        self._bar = tqdm(total=self._iters, initial=self._done, unit="it", file=self._out, leave=False, disable=not shown)
        self.restart_timer()
        return self

    def __exit__(self, error: type | None, *_: object) -> None:
        self._bar.close()
        if error in (None, Interrupted) and self._writes and os.path.exists(self._metrics):
            with self.dispensable(_CURVES), atomic_path(os.path.join(self._save_dir, _CURVES)) as path:
                draw_curves({"": read_records(self._metrics)}, path)

    @contextlib.contextmanager
    def dispensable(self, what: str) -> Iterator[None]:
        """Inside the block an error becomes a warning, logged once for each `what`."""
        try:
            yield
        except Interrupted:
            raise
        except Exception as error:
            if what not in self._failed:
                self._failed.add(what)
                logger.warning(f"{what} could not be written, the training continues: {type(error).__name__}: {error}")

    def _is_kept(self, group, iteration):
        """Whether a record is kept: of a training up to the checkpoint, of evaluations up to the last complete one."""
        return iteration <= (self._done if group == "Train" else self._evaluated)

    def _drop_later_records(self):
        if os.path.exists(self._metrics):
            kept = [item for item in read_records(self._metrics) if self._is_kept(item["group"], item["iteration"])]
            with atomic_path(self._metrics) as temporary, open(temporary, "w", encoding="utf-8") as file:
                file.writelines(json.dumps(record) + "\n" for record in kept)

    @property
    def _metrics(self):
        return os.path.join(self._save_dir, RECORDS)

    def restart_timer(self) -> None:
        """Excludes the time since the last step from the measurement."""
        self._last = time.perf_counter()

    def step(self, iteration: int, terms: Tensor, lr: float, reader_seconds: float) -> None:
        """Adds an iteration's loss terms (a tensor, which is only read for a log line), and logs a line if one is due.

        Raises:
            UserError: a loss since the last line is not finite, in any process.
        """
        self._terms.append(terms)
        self._last_iteration = iteration
        now = time.perf_counter()
        self._seconds, self._last = self._seconds + now - self._last, now
        self._reader_seconds += reader_seconds
        self._bar.update()
        if iteration % self._log_iters == 0 or iteration == self._iters:
            self._report(iteration, lr)
            self._terms, self._seconds, self._reader_seconds = [], 0.0, 0.0

    def require_finite(self, model: nn.Layer) -> None:
        """Raises UserError if a loss since the last line, or a weight of the model, is not finite."""
        self._losses()
        for name, value in model.state_dict().items():
            if paddle.is_floating_point(value) and not bool(paddle.isfinite(value).all()):
                raise UserError(f"the training diverged: {name} is not finite, so nothing was saved. {_AGAINST_DIVERGENCE}")

    def _losses(self):
        """Returns the losses since the last line, [processes, iterations, terms], all finite."""
        if not self._terms:
            return np.zeros((distributed.world_size(), 0, 1))
        losses = distributed.gather(paddle.stack(self._terms).astype("float32").numpy())
        wrong = np.argwhere(~np.isfinite(losses.sum(-1)).T)  # (iteration, process) pairs, the earliest first
        if len(wrong):
            place, rank = wrong[0].tolist()
            iteration = self._last_iteration - losses.shape[1] + 1 + place
            files = ", ".join(self._dataset.files(index) for index in self._sampler.indices(iteration, rank))
            raise UserError(
                f"the loss is {losses[rank, place].sum()} at iteration {iteration}, whose images were {files}. If their labels "
                f"are right, the training diverged. {_AGAINST_DIVERGENCE}"
            )
        return losses

    def _report(self, iteration, lr):
        losses = self._losses()
        count = losses.shape[1]
        terms = losses.mean((0, 1))
        batch_cost, reader_cost = self._seconds / count, self._reader_seconds / count
        epoch, ips = (iteration - 1) // self._sampler.iters_per_epoch + 1, self._sampler.images / batch_cost
        self._say(
            f"[TRAIN] epoch: {epoch}, iter: {iteration}/{self._iters}, loss: {terms.sum():.4f}, lr: {lr:.6f}, "
            f"batch_cost: {batch_cost:.4f}, reader_cost: {reader_cost:.5f}, ips: {ips:.4f} samples/sec | "
            f"ETA {calculate_eta(self._iters - iteration, batch_cost)}"
        )
        if reader_cost > _SLOW_READING * batch_cost and iteration > self._done + count:
            self._say(
                f"Reading takes {reader_cost / batch_cost:.0%} of the time: raise --num_workers ({self._num_workers} now)"
            )
        scalars = {"loss": terms.sum(), "lr": lr, "batch_cost": batch_cost, "reader_cost": reader_cost, "ips": ips}
        if len(terms) > 1:
            scalars.update({f"loss_{index}": value for index, value in enumerate(terms)})
        self._record("Train", iteration, scalars, epoch=epoch)

    def evaluation(self, matrix: ConfusionMatrix, progress: Progress) -> None:
        """Reports an evaluation and the best one so far."""
        self._say(
            f"[EVAL] The model with the best validation mIoU ({progress.best_miou:.4f}) was saved at iter "
            f"{progress.best_iteration}."
        )
        scalars = {"mIoU": matrix.mean_iou(), "Acc": matrix.pixel_accuracy(), "mAcc": matrix.mean_accuracy()}
        self._record("Evaluate", progress.evaluated, scalars, class_iou=[_json_number(value) for value in matrix.class_iou()])

    def picture(self, index: int, picture: np.ndarray, iteration: int) -> None:
        """Gives VisualDL a picture of an evaluation, [H, W, 3] (blue, green, red) uint8."""
        if self._writer:
            with self.dispensable("VisualDL's log"):
                self._writer.add_image(f"Validation/{index}", picture, iteration)

    def _say(self, line):
        with tqdm.external_write_mode(file=self._out):
            logger.info(line)

    def _record(self, group, iteration, scalars, **more):
        if not self._writes:
            return
        record = {
            "group": group,
            "iteration": iteration,
            **{key: _json_number(value) for key, value in scalars.items()},
            **more,
        }
        with self.dispensable(RECORDS):
            append(self._metrics, (json.dumps(record) + "\n").encode())
        if self._writer:
            with self.dispensable("VisualDL's log"):
                for name, value in scalars.items():
                    self._writer.add_scalar(f"{group}/{name}", value, iteration)


def _json_number(value):
    return float(value) if np.isfinite(value) else None


def read_records(path: str) -> list[dict]:
    """Returns the records of a metrics.jsonl, dicts with `group` ("Train" or "Evaluate") and `iteration`.

    A last line that was cut off is left out.
    """
    records = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
    return records
