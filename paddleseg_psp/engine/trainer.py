"""The training loop."""

import time

import paddle
import paddle.distributed as dist
from paddleseg.utils import logger

from paddleseg_psp.data import CheckedDataset, load_batches
from paddleseg_psp.engine.checkpoint import load_checkpoint, save_best, save_checkpoint
from paddleseg_psp.engine.evaluator import evaluate
from paddleseg_psp.engine.precision import autocast, gradient_scaler
from paddleseg_psp.engine.training_log import TrainingLog
from paddleseg_psp.errors import UserError
from paddleseg_psp.files import require_writable


def train(
    model,
    train_dataset,
    val_dataset=None,
    optimizer=None,
    save_dir="output",
    iters=10000,
    batch_size=2,
    resume_model=None,
    save_interval=1000,
    log_iters=10,
    num_workers=0,
    use_vdl=False,
    losses=(),
    keep_checkpoint_max=5,
    test_config=None,
    precision="fp32",
    amp_level="O1",
):
    """Trains a network: each iteration takes a batch, steps, logs; each save_interval evaluates and saves.

    Args:
        model (Layer): returns a list of logits [N, C, H, W].
        train_dataset, val_dataset: data sets of paddleseg or this package; without val_dataset nothing is evaluated.
        optimizer: a paddle optimizer over the model's parameters.
        save_dir (str): gets iter_<n>/ checkpoints, best_model/, and VisualDL's log.
        iters (int): iterations in all, those before a resume included.
        batch_size (int): images a process and iteration.
        resume_model (str|None): a checkpoint folder to go on from.
        save_interval, log_iters (int): iterations between checkpoints, and between log lines.
        num_workers (int): processes that read files.
        use_vdl (bool): write scalars for VisualDL.
        losses: a (weight, loss) pair for each output of the network.
        keep_checkpoint_max (int): checkpoints kept; 0 keeps all.
        test_config (dict|None): further arguments of `evaluate`.
        precision, amp_level: see `paddleseg_psp.engine.precision`.

    Returns:
        float|None: the best mean IoU; None without evaluation.

    Raises:
        UserError: wrong files, a loss that is not finite, no place to save.
    """
    require_writable(save_dir)
    is_main = dist.get_rank() == 0
    state = {"iteration": 0, "best_miou": None, "best_iteration": None}
    if resume_model is not None:
        state = load_checkpoint(resume_model, model, optimizer)
        logger.info(f"Resuming from {resume_model} at iteration {state['iteration']} of {iters}")
    network = paddle.DataParallel(model) if dist.get_world_size() > 1 else model
    sampler = _sampler(train_dataset, batch_size)
    batches = _batches(CheckedDataset(train_dataset), sampler, num_workers, state["iteration"], iters)
    scaler = gradient_scaler(precision)
    schedule = optimizer._learning_rate
    log = TrainingLog(save_dir if use_vdl and is_main else None, iters, log_iters, batch_size, len(sampler))

    model.train()
    for iteration, batch, reader_cost in batches:
        with autocast(precision, amp_level):
            terms = loss_terms(network(batch["img"]), batch["label"], losses)
        scaler.scale(sum(terms)).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.clear_grad()
        log.step(iteration, terms, optimizer.get_lr(), reader_cost)
        if isinstance(schedule, paddle.optimizer.lr.LRScheduler):
            schedule.step()

        if iteration % save_interval == 0 or iteration == iters:
            state["iteration"] = iteration
            if val_dataset is not None:
                options = {"num_workers": num_workers, "precision": precision, "amp_level": amp_level}
                matrix = evaluate(model, val_dataset, **{**options, **(test_config or {})})
                model.train()
                if state["best_miou"] is None or matrix.mean_iou() > state["best_miou"]:
                    state.update(best_miou=matrix.mean_iou(), best_iteration=iteration)
                    if is_main:
                        save_best(save_dir, model)
                log.evaluation(iteration, matrix, state)
            if is_main:
                save_checkpoint(save_dir, model, optimizer, state, keep_checkpoint_max)
            log.restart_timer()
    log.close()
    return state["best_miou"]


def loss_terms(outputs, label, losses):
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


def _sampler(dataset, batch_size):
    """Returns the sampler of shuffled whole batches, whose length is the iterations of an epoch."""
    sampler = paddle.io.DistributedBatchSampler(dataset, batch_size, shuffle=True, drop_last=True)
    if len(sampler) == 0:
        raise UserError(
            f"the training data set has {len(dataset)} images, fewer than one batch of {batch_size} for each of "
            f"{dist.get_world_size()} processes: lower --batch_size"
        )
    return sampler


def _batches(dataset, sampler, num_workers, done, iters):
    """Yields (iteration, batch, seconds spent waiting for it), epoch after epoch, from iteration done + 1 to iters."""
    iteration = done
    while iteration < iters:
        sampler.set_epoch(iteration // len(sampler))
        asked = time.perf_counter()
        for batch in load_batches(dataset, sampler, num_workers):
            iteration += 1
            yield iteration, batch, time.perf_counter() - asked
            if iteration == iters:
                return
            asked = time.perf_counter()
