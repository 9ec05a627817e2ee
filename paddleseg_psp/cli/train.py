"""`train.py`: train a network."""

from paddleseg.utils import logger

from paddleseg_psp.cli import arguments
from paddleseg_psp.cli.device import set_up
from paddleseg_psp.cli.run import run
from paddleseg_psp.config import Config
from paddleseg_psp.engine import evaluate, train
from paddleseg_psp.files import require_writable


def main(argv=None):
    parser = arguments.parser(
        "Train a network.",
        "save_dir", "iters", "batch_size", "learning_rate", "save_interval", "log_iters", "keep_checkpoint_max",
        "resume_model", "do_eval", "use_vdl", "num_workers", "seed", "precision", "amp_level",
        save_dir="./output",
    )  # fmt: skip
    run(_train, parser.parse_args(argv))


def _train(args):
    config = Config(args.config, args.opts, args.iters, args.batch_size, args.learning_rate)
    require_writable(args.save_dir)
    set_up(args.device, args.seed)
    logger.info(f"Configuration {config.path}:\n{config}")
    train_dataset = config.build_dataset("train_dataset")
    val_dataset = config.build_dataset("val_dataset") if args.do_eval else None
    model = config.build_model()
    train(
        model,
        train_dataset,
        val_dataset,
        optimizer=config.build_optimizer(model, config.build_scheduler()),
        losses=config.build_losses(),
        save_dir=args.save_dir,
        iters=config.iters,
        batch_size=config.batch_size,
        resume_model=args.resume_model,
        save_interval=args.save_interval,
        log_iters=args.log_iters,
        num_workers=args.num_workers,
        use_vdl=args.use_vdl,
        keep_checkpoint_max=args.keep_checkpoint_max,
        test_config=config.test_options(evaluate),
        precision=args.precision,
        amp_level=args.amp_level,
    )
