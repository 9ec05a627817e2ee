"""Compiles PSANet's operators into the package, or into the cache where the package is read-only, and prints where they are."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from paddleseg_psp.commands.run import run
from paddleseg_psp.errors import UserError
from paddleseg_psp.ops import library


def main(argv: Sequence[str] | None = None) -> None:
    run(_build, argparse.ArgumentParser(description=__doc__), argv)


def _build(_):
    try:
        try:
            path = library.build_library(library.PREBUILT)
        except OSError as error:
            print(f"{library.PREBUILT} cannot be written ({error.strerror}): building into {library.cache_folder()}")
            path = library.build_library(library.cache_folder())
    except (OSError, RuntimeError) as error:
        raise UserError(f"the operators were not built: {error}")
    if problem := library.register(path):
        raise UserError(problem)
    print(f"psa_mask and psa_attention: {path}")
