"""`train.py`: train a network."""

from __future__ import annotations

from collections.abc import Sequence

from paddleseg_psp.commands import arguments
from paddleseg_psp.commands.device import set_up
from paddleseg_psp.commands.run import run
from paddleseg_psp.config import Config
from paddleseg_psp.data.checks.inspection import quick_check
from paddleseg_psp.engine import distributed, train
from paddleseg_psp.engine.views import Views
from paddleseg_psp.errors import UserError
from paddleseg_psp.files import require_writable
from paddleseg_psp.log import logger

_PASSED = (
    "save_dir", "resume_model", "save_interval", "log_iters", "num_workers", "use_vdl", "keep_checkpoint_max", "precision",
    "amp_level", "early_stop_intervals",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments.parser(
        "Train a network.",
        "save_dir", "iters", "batch_size", "accumulate", "learning_rate", "save_interval", "log_iters", "keep_checkpoint_max",
        "resume_model", "do_eval", "early_stop_intervals", "use_ema", "ema_decay", "use_vdl", "num_workers", "seed",
        "deterministic", "precision", "amp_level",
        save_dir="./output",
    )  # fmt: skip
    run(_train, parser, argv)


def _train(args):
    replaced = {name: getattr(args, name) for name in ("iters", "batch_size", "accumulate", "learning_rate")}
    config = Config(args.config, args.opts, **replaced)
    _check(args)
    views = Views.from_options(config.test_config(), f"{config.path}: test_config")
    require_writable(args.save_dir)
    seed = set_up(args.device, args.seed, args.deterministic)
    logger.info(f"Everything random follows from --seed {seed}")
    train_dataset = config.build_dataset("train_dataset")
    val_dataset = config.build_dataset("val_dataset") if args.do_eval else None
    config.check_datasets(train_dataset, val_dataset)
    for dataset in filter(None, (train_dataset, val_dataset)):
        quick_check(dataset)
    config = config.resolved(train_dataset, distributed.world_size())
    model = config.build_model()
    config.freeze_batch_norm(model)
    losses = config.build_losses(train_dataset)
    logger.info(f"Configuration {config.path}:\n{config}")
    train(
        model,
        train_dataset,
        val_dataset,
        optimizer=config.build_optimizer(model, config.build_scheduler()),
        losses=losses,
        iters=config.iters,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        views=views,
        ema_decay=args.ema_decay if args.use_ema else None,
        seed=seed,
        palette=config.palette(),
        config=str(config),
        **{name: getattr(args, name) for name in _PASSED},
    )


def _check(args):
    """Raises UserError for a number that makes no sense, before anything is loaded."""
    least = {"num_workers": 0, "keep_checkpoint_max": 0, "seed": 0}
    least.update({"save_interval": 1, "log_iters": 1, "early_stop_intervals": 1})
    for name, lowest in least.items():
        value = getattr(args, name)
        if value is not None and value < lowest:
            raise UserError(f"--{name} {value}: expected at least {lowest}")
    if args.early_stop_intervals and not args.do_eval:
        raise UserError("--early_stop_intervals needs --do_eval")
    if not 0 < args.ema_decay < 1:
        raise UserError(f"--ema_decay {args.ema_decay}: expected a number between 0 and 1")
