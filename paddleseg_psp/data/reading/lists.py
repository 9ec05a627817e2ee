"""Text files that list images and labels."""

from __future__ import annotations

import codecs
import os

from paddleseg_psp.errors import UserError


def read_lines(path: str) -> list[tuple[int, str]]:
    """Returns (number, line) of the lines of a text file that are not blank, without the blanks around them.

    Lines end as on any system. Names that are not UTF-8 stay as they are (surrogateescape); UTF-16 is known by its mark.

    Raises:
        UserError: no such file, or one that is no text.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(2**16)
        encoding = "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
        if encoding != "utf-16" and b"\0" in head:
            raise UserError(f"the list {path} is no text: it has zero bytes, as pictures and videos have")
        with open(path, encoding=encoding, errors="strict" if encoding == "utf-16" else "surrogateescape") as file:
            lines = [line.lstrip("\ufeff").strip() for line in file]  # files with marks may have been joined
    except (OSError, UnicodeError) as error:
        raise UserError(f"the list {path} cannot be read: {error}")
    return [(number, line) for number, line in enumerate(lines, 1) if line]


def read_list(path: str) -> list[str]:
    """Returns the lines of a text file, as `read_lines` does, without their numbers."""
    return [line for _, line in read_lines(path)]


def listed_path(folder: str, name: str) -> str:
    """Returns the path for a name in a list; backslashes become slashes if only that is a file."""
    path = os.path.join(folder, name)
    other = os.path.join(folder, name.replace("\\", "/"))
    return other if not os.path.isfile(path) and os.path.isfile(other) else path
