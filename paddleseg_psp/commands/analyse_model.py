"""Parameters, multiply-adds and memory of a configuration's network, by part.

python tools/analyse_model.py --config configs/pspnet/pspnet_resnet50_cityscapes_512x1024_80k_mmseg.yml --size 1024 512

"published" counts the network as in papers and other programs, "here" as this package computes it. Activations are the
outputs of all layers for one image in float32, which training keeps for the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence

from paddleseg_psp.commands import arguments
from paddleseg_psp.commands.device import set_up
from paddleseg_psp.commands.run import run
from paddleseg_psp.config import Config
from paddleseg_psp.models.cost import Cost, costs
from paddleseg_psp.sizes import height_width

FORMAT = "{:<24}{:>14}{:>8}{:>20}{:>16}{:>16}{:>14}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = arguments.parser(__doc__.splitlines()[0], device="cpu")
    parser.add_argument("--size", nargs=2, type=int, metavar=("W", "H"), help="size of the image; default: the training crop")
    parser.add_argument("--depth", type=int, choices=[1, 2], default=2, help="1: backbone and heads, 2: also their parts")
    run(_analyse, parser, argv)


def _analyse(args):
    config = Config(args.config, args.opts)
    set_up(args.device)
    network = config.build_model(pretrained=False)
    height, width = height_width(args.size) if args.size else config.crop_size() or (512, 512)
    shape = [1, config.img_channels(), height, width]
    parts = costs(network, shape, training=True, depth=args.depth)
    print(f"{args.config}: one image of {height}x{width} (height x width), auxiliary classifier included\n")
    print(FORMAT.format("part", "parameters", "MB", "multiply-adds here", "published", "activations", "share"))
    total = Cost(*(sum(getattr(cost, field) for cost in parts.values()) for field in Cost.__dataclass_fields__))
    for name, cost in [*parts.items(), ("total", total)]:
        print(
            FORMAT.format(
                name,
                f"{cost.parameters:,}",
                f"{cost.parameters * 4 / 1e6:.1f}",
                f"{cost.multiply_adds / 1e9:.2f} G",
                f"{cost.multiply_adds_published / 1e9:.2f} G",
                f"{cost.activations / 1e6:.1f} MB",
                f"{cost.multiply_adds / max(total.multiply_adds, 1):.1%}",
            )
        )
    evaluated = costs(network, shape).values()
    here, published = (
        sum(getattr(cost, field) for cost in evaluated) / 1e9 for field in ("multiply_adds", "multiply_adds_published")
    )
    print(f"\nIn evaluation, without the auxiliary classifier: {here:.2f} G multiply-adds, {published:.2f} G as published")
