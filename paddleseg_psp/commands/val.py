"""`val.py`: evaluate a trained network."""

from __future__ import annotations

from collections.abc import Sequence

from paddleseg_psp.commands import arguments
from paddleseg_psp.commands.device import set_up
from paddleseg_psp.commands.inputs import chosen_views, trained_model
from paddleseg_psp.commands.run import run
from paddleseg_psp.config import Config
from paddleseg_psp.engine import evaluate
from paddleseg_psp.engine.views import OPTIONS


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments.parser(
        "Evaluate a trained network on the configuration's val_dataset.",
        "model_path", "num_workers", "precision", "amp_level", *OPTIONS,
    )  # fmt: skip
    run(_val, parser, argv)


def _val(args):
    config = Config(args.config, args.opts)
    views = chosen_views(config, args)
    set_up(args.device)
    dataset = config.build_dataset("val_dataset")
    model = trained_model(config, args.model_path)
    given = {"num_workers": args.num_workers, "precision": args.precision, "amp_level": args.amp_level}
    evaluate(model, dataset, views, **given)
