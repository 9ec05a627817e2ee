"""Builds PSANet's operators: python -m paddleseg_psp.ops.build, the same as paddleseg-psp build-operator."""

from paddleseg_psp.commands.build_operator import main

if __name__ == "__main__":
    main()
