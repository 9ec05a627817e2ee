"""`predict.py`: colored masks for images."""

from __future__ import annotations

from collections.abc import Sequence

from paddleseg_psp.commands import arguments
from paddleseg_psp.commands.device import set_up
from paddleseg_psp.commands.inputs import chosen_views, trained_model
from paddleseg_psp.commands.run import run
from paddleseg_psp.config import Config
from paddleseg_psp.data.reading.images import find_images
from paddleseg_psp.engine import predict
from paddleseg_psp.engine.views import OPTIONS
from paddleseg_psp.errors import UserError


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments.parser(
        "Write overlays and colored masks for images.",
        "model_path", "image_path", "save_dir", "aug_pred", *OPTIONS[1:], "custom_color", "save_ids",
        save_dir="./output/result",
    )  # fmt: skip
    run(_predict, parser, argv)


def _predict(args):
    config = Config(args.config, args.opts)
    views = chosen_views(config, args)
    images, folder = find_images(args.image_path, args.save_dir)
    set_up(args.device)
    model = trained_model(config, args.model_path)
    predict(
        model,
        config.build_transforms(),
        images,
        folder,
        args.save_dir,
        views=views,
        palette=_palette(args.custom_color, config),
        class_names=config.class_names(),
        img_channels=config.img_channels(),
        max_value=config.max_value(),
        save_ids=args.save_ids,
    )


def _palette(custom, config):
    if custom is None:
        return config.palette()
    if len(custom) % 3 or not all(0 <= value <= 255 for value in custom):
        raise UserError("--custom_color takes three numbers from 0 to 255 for each class")
    return [custom[i : i + 3] for i in range(0, len(custom), 3)]
