"""Finding the images for an argument, and naming the results."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from paddleseg_psp.data.reading.lists import listed_path, read_list
from paddleseg_psp.errors import UserError
from paddleseg_psp.log import logger

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
# What is given in place of images: what it is, what to do.
_FRAMES = "take images out of it, e.g. by ffmpeg -i {path} frames/%06d.png"
_OTHERS = {
    (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".mts"): ("a video", _FRAMES),
    (".gif", ".apng"): ("an animation", _FRAMES),
    (".heic", ".heif", ".avif", ".jxl", ".jp2", ".psd", ".ico", ".svg", ".dng", ".cr2", ".nef", ".arw"): (
        "a picture of a kind that is not read",
        "convert it to PNG or JPEG",
    ),
    (".pdf", ".ps", ".djvu"): ("a document", "make images of its pages, e.g. by pdftoppm -png"),
    (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"): ("an archive", "unpack it and give its folder"),
    (".dcm", ".nii", ".npz", ".mat", ".h5", ".hdf5"): ("a file of arrays", "save each image as TIFF or .npy"),
}


def find_images(path: str | None, results: str | None = None) -> tuple[list[str], str]:
    """Returns the images for --image_path, sorted, and the folder that result names are relative to.

    It is one image, a folder, or a text file that lists images, one a line, relative to its own folder; what follows a tab, or
    a space where the whole line is no file, is left out, so that lists of images and labels do. Links to folders are followed.
    A folder without other images may have .npy files; a line says how many files of which endings are left out.

    Args:
        path: the argument.
        results: the folder for results; what lies there is no image to look at.

    Raises:
        UserError: no path, nothing there, no image in it, a file of another kind, or the folder for results.
    """
    if path is None:
        raise UserError("--image_path is missing: name an image, a folder, or a text file listing images")
    if os.path.isdir(path):
        found = _in_folder(path, results)
    elif path.lower().endswith((*ENDINGS, ".npy")):
        found = [path]
    elif os.path.isfile(path):
        _require_text(path)
        found = [_listed(os.path.dirname(path), line) for line in read_list(path)]
    else:
        raise UserError(f"--image_path {path}: there is no such file or folder")
    missing = [image for image in found if not os.path.isfile(image)]
    if missing:
        raise UserError(f"--image_path {path}: there is no file {missing[0]}")
    if not found:
        raise UserError(f"--image_path {path}: the list is empty")
    return sorted(found), path if os.path.isdir(path) else os.path.dirname(path)


def _in_folder(path, results):
    real = results and os.path.realpath(results)
    if real == os.path.realpath(path):
        raise UserError(f"--save_dir {results} is the folder of the images: results would take their places; give another")
    try:
        files = [file for file in _files(path, real) if not os.path.basename(file).startswith(".")]
    except OSError as error:
        raise UserError(f"--image_path {path}: {error.filename} cannot be read: {error.strerror}")
    found = [file for file in files if file.lower().endswith(ENDINGS)] or [
        file for file in files if file.lower().endswith(".npy")
    ]
    others = Counter(os.path.splitext(file)[1].lower() or "without ending" for file in set(files) - set(found))
    kinds = ", ".join(f"{count} {ending}" for ending, count in others.most_common())
    if not found:
        raise UserError(f"--image_path {path}: there is no image in it ({', '.join(ENDINGS)}), but {kinds or 'nothing'}")
    if others:
        logger.warning(f"{path}: {sum(others.values())} files are left out, which are no images: {kinds}")
    return found


def _files(folder: str, left_out: str | None, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yields the files below a folder, except those of `left_out`; links back to a parent folder are not followed."""
    real = os.path.realpath(folder)
    if real in above or real == left_out:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(entry.path, left_out, (*above, real))
            else:
                yield entry.path


def _require_text(path):
    """Raises UserError for a file that is not a list of images; the message says what it is."""
    for endings, (kind, advice) in _OTHERS.items():
        if path.lower().endswith(endings):
            raise UserError(f"--image_path {path} is {kind}: {advice.format(path=path)}")
    with open(path, "rb") as file:
        if b"\0" in file.read(2**16):
            raise UserError(
                f"--image_path {path} is neither an image ({', '.join(ENDINGS)}, .npy) nor a text file listing images"
            )


def _listed(folder, line):
    """Returns the image of a line: the text before a tab or, if that is not a file, the longest part before a blank that is."""
    line = line.split("\t")[0].strip()
    ends = [len(line), *(blank.start() for blank in reversed([*re.finditer(r"\s+", line)]))]
    paths = [listed_path(folder, line[:end]) for end in ends]
    return next(filter(os.path.isfile, paths), paths[-1])


def output_names(images: Sequence[str], folder: str) -> list[str]:
    """Returns a name without ending for the result of each image: its path below the folder.

    Where an image is elsewhere, the folder that all images share is taken instead. Where two differ by their ending alone, they
    keep it: a.jpg and a.png give a.jpg and a.png, not twice a.
    """
    paths = [os.path.abspath(image) for image in images]
    root = os.path.abspath(folder)
    if any(os.path.commonpath([root, path]) != root for path in paths):
        root = os.path.commonpath([os.path.dirname(path) for path in paths])
    names = [os.path.relpath(path, root) for path in paths]
    stems = [os.path.splitext(name)[0] for name in names]
    counts = Counter(stems)
    return [stem if counts[stem] == 1 else name for stem, name in zip(stems, names)]


def require_no_overwriting(targets: Sequence[str], images: Sequence[str]) -> None:
    """Raises UserError if a result would overwrite an image."""
    inputs = set(map(os.path.realpath, images))
    for target in targets:
        if os.path.realpath(target) in inputs:
            raise UserError(f"{target} is one of the images, and a result would take its place: give another --save_dir")
