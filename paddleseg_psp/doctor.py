"""Checks this machine: python -m paddleseg_psp.doctor, the same as paddleseg-psp doctor."""

import sys

from paddleseg_psp.commands.doctor import main

if __name__ == "__main__":
    sys.exit(main())
