"""Finding, building, trusting and registering the library of the native operators."""

from paddleseg_psp.ops.library.registration import OPERATORS, load_operator, register
from paddleseg_psp.ops.library.variant import PREBUILT, SOURCES, build_library, cache_folder, find_library

__all__ = [
    "OPERATORS",
    "PREBUILT",
    "SOURCES",
    "build_library",
    "cache_folder",
    "find_library",
    "load_operator",
    "register",
]
