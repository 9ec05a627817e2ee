"""Downloading weights to PaddleSeg's cache.

Of an archive only the file of weights is taken: unpacking all of one would write where its author likes (docs/security.md).
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from contextlib import ExitStack
from http.client import HTTPException
from urllib.parse import unquote, urlparse

from paddleseg.utils.env import seg_env

from paddleseg_psp.errors import UserError
from paddleseg_psp.log import logger

_ARCHIVES = (".tgz", ".tar.gz", ".tar", ".zip")
_NAME = "model.pdparams"  # in archives
_MOST_PACKED = 20  # weights hardly become smaller
_PATIENCE = 30  # seconds without a byte


def is_url(path: str) -> bool:
    """Returns whether a path is an http or https URL."""
    return urlparse(path).scheme in ("http", "https")


def download_weights(url: str) -> str:
    """Returns the path of the weights at a URL, or in the archive there, after downloading them once.

    Raises:
        UserError: it cannot be downloaded, or is an archive without weights.
    """
    folder, name = _place(url)
    path = os.path.join(folder, name)
    if os.path.isfile(path):
        return path
    logger.info(f"Downloading {url} to {path}")
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download.") as work:
            got, taken = os.path.join(work, "got"), os.path.join(work, "taken")
            with urllib.request.urlopen(url, timeout=_PATIENCE) as answer, open(got, "wb") as file:
                shutil.copyfileobj(answer, file)
                if answer.length:  # bytes that are still to come
                    raise ConnectionError("the connection ended early")
            os.replace(taken if _is_unpacked(got, taken) else got, path)
    except (OSError, EOFError, HTTPException, tarfile.TarError, zipfile.BadZipFile, zlib.error, ValueError) as error:
        raise UserError(
            f"the pretrained weights {url} could not be downloaded ({type(error).__name__}: {error}). Download them elsewhere "
            "and name the file (--opts model.backbone.pretrained=FILE), or start from random weights "
            "(--opts model.backbone.pretrained=null)"
        )
    return path


def _place(url):
    """Returns the folder in PaddleSeg's cache and the file name for a URL, like PaddleSeg."""
    *folders, name = [part for part in unquote(urlparse(url).path).split("/") if part not in ("", ".", "..")] or [_NAME]
    ending = next((ending for ending in _ARCHIVES if name.endswith(ending)), None)
    if ending:
        return os.path.join(seg_env.PRETRAINED_MODEL_HOME, name.split(".")[0]), _NAME
    return os.path.join(seg_env.PRETRAINED_MODEL_HOME, folders[-1] if folders else "weights"), name


def _is_unpacked(archive, target):
    """Writes the weights in an archive; returns False if the file is not an archive but the weights themselves."""
    with ExitStack() as stack:
        if tarfile.is_tarfile(archive):
            tar = stack.enter_context(tarfile.open(archive))
            found = next((item for item in tar if item.isfile() and os.path.basename(item.name) == _NAME), None)
            size, source = (found.size, tar.extractfile(found)) if found else (0, None)
        elif zipfile.is_zipfile(archive):
            packed = stack.enter_context(zipfile.ZipFile(archive))
            if any(name.endswith("/data.pkl") for name in packed.namelist()):  # PyTorch's weights
                return False
            found = next((item for item in packed.infolist() if os.path.basename(item.filename) == _NAME), None)
            size, source = (found.file_size, packed.open(found)) if found else (0, None)
        else:
            return False
        if source is None:
            raise ValueError(f"there is no {_NAME} in the archive")
        if size > _MOST_PACKED * os.path.getsize(archive):
            raise ValueError(f"{_NAME} in the archive claims {size} bytes")
        with open(target, "wb") as file:
            shutil.copyfileobj(source, file)
    return True
