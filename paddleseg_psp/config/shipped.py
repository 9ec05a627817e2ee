"""Where the configurations are: in the repository, or in an installed package, which has a copy."""

from __future__ import annotations

import os

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def configurations() -> str:
    """Returns the path of the folder configs."""
    inside = os.path.join(_PACKAGE, "_configs")
    return inside if os.path.isdir(inside) else os.path.join(os.path.dirname(_PACKAGE), "configs")
