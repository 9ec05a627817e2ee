"""Prints a configuration as it is after _base_ and overrides.

python tools/print_config.py --config configs/psanet/psanet_resnet18_demo.yml --opts model.dropout=0.2
"""

from paddleseg_psp.cli import arguments
from paddleseg_psp.cli.run import run
from paddleseg_psp.config import Config


def main(argv=None):
    run(lambda args: print(Config(args.config, args.opts), end=""), arguments.parser(__doc__.splitlines()[0]).parse_args(argv))


if __name__ == "__main__":
    main()
