"""Print a configuration after _base_ and overrides.

python tools/print_config.py --config configs/psanet/psanet_resnet18_demo.yml --opts model.dropout=0.2
"""

from __future__ import annotations

from collections.abc import Sequence

from paddleseg_psp.commands import arguments
from paddleseg_psp.commands.run import run
from paddleseg_psp.config import Config


def main(argv: Sequence[str] | None = None) -> None:
    run(lambda args: print(Config(args.config, args.opts), end=""), arguments.parser(__doc__.splitlines()[0]), argv)
