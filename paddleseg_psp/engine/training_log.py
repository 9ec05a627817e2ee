"""What a training run says of itself: log lines in PaddleSeg's format, and scalars for VisualDL."""

import math
import time

from paddleseg.utils import calculate_eta, logger

from paddleseg_psp.errors import UserError


class TrainingLog:
    """Averages losses and times over log_iters iterations and reports them.

    Args:
        vdl_dir (str|None): where VisualDL's log goes; None writes none.
        iters, log_iters (int): iterations of the run, and between log lines.
        batch_size (int): images an iteration.
        iters_per_epoch (int): iterations an epoch.
    """

    def __init__(self, vdl_dir, iters, log_iters, batch_size, iters_per_epoch):
        self._writer = None
        if vdl_dir is not None:
            from visualdl import LogWriter

            self._writer = LogWriter(vdl_dir)
        self._iters, self._log_iters = iters, log_iters
        self._batch_size, self._iters_per_epoch = batch_size, iters_per_epoch
        self._sums, self._seconds, self._reader_seconds, self._count = None, 0.0, 0.0, 0
        self.restart_timer()

    def restart_timer(self):
        """Leaves out the time since the last step, which went into something else than training."""
        self._last = time.perf_counter()

    def step(self, iteration, terms, lr, reader_cost):
        """Takes in an iteration's loss terms (tensors, which are read only when a line is due), and may log a line.

        Raises:
            UserError: the losses since the last line are not finite.
        """
        terms = [term.detach() for term in terms]
        self._sums = terms if self._sums is None else [total + term for total, term in zip(self._sums, terms)]
        now = time.perf_counter()
        self._seconds, self._last = self._seconds + now - self._last, now
        self._reader_seconds += reader_cost
        self._count += 1
        if iteration % self._log_iters == 0 or iteration == self._iters:
            self._report(iteration, lr)

    def _report(self, iteration, lr):
        losses = [float(total) / self._count for total in self._sums]
        loss = sum(losses)
        if not math.isfinite(loss):
            raise UserError(
                f"the loss is {loss} in the last {self._count} iterations up to {iteration}: lower --learning_rate, or "
                "check the labels"
            )
        batch_cost, reader_cost = self._seconds / self._count, self._reader_seconds / self._count
        logger.info(
            f"[TRAIN] epoch: {(iteration - 1) // self._iters_per_epoch + 1}, iter: {iteration}/{self._iters}, "
            f"loss: {loss:.4f}, lr: {lr:.6f}, batch_cost: {batch_cost:.4f}, reader_cost: {reader_cost:.5f}, "
            f"ips: {self._batch_size / batch_cost:.4f} samples/sec | ETA {calculate_eta(self._iters - iteration, batch_cost)}"
        )
        scalars = {"loss": loss, "lr": lr, "batch_cost": batch_cost, "reader_cost": reader_cost}
        if len(losses) > 1:
            scalars.update({f"loss_{index}": value for index, value in enumerate(losses)})
        self._write("Train", scalars, iteration)
        self._sums, self._seconds, self._reader_seconds, self._count = None, 0.0, 0.0, 0

    def evaluation(self, iteration, matrix, state):
        """Reports an evaluation and the best one so far."""
        logger.info(
            f"[EVAL] The model with the best validation mIoU ({state['best_miou']:.4f}) was saved at iter "
            f"{state['best_iteration']}."
        )
        self._write("Evaluate", {"mIoU": matrix.mean_iou(), "Acc": matrix.pixel_accuracy()}, iteration)

    def _write(self, group, scalars, iteration):
        if self._writer:
            for name, value in scalars.items():
                self._writer.add_scalar(f"{group}/{name}", value, iteration)

    def close(self):
        if self._writer:
            self._writer.close()
