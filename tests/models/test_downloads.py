"""Weights behind URLs, from a server of this machine's: archives write nothing but their weights, and run nothing."""

import http.server
import io
import os
import pickle
import tarfile
import threading
import zipfile

import numpy as np
import pytest
from paddle import nn

from paddleseg_psp.errors import UserError
from paddleseg_psp.models import downloads
from paddleseg_psp.models.weights import load_weights

WEIGHTS = {"weight": np.float32([[1, 2]]), "bias": np.float32([3, 4])}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Returns a function that gives the URL of a file's name and bytes; the cache is tmp_path/cache."""
    cache, files, asked = tmp_path / "cache", {}, []
    monkeypatch.setattr(downloads.seg_env, "PRETRAINED_MODEL_HOME", str(cache))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            content, length = files.get(self.path, (None, None))
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(length or 0))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *_):
            pass

    service = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=service.serve_forever, daemon=True).start()

    def put(path, content, length=None):
        files[path] = content, length or len(content)
        return f"http://127.0.0.1:{service.server_address[1]}{path}"

    put.asked, put.cache = asked, cache
    yield put
    service.shutdown()
    service.server_close()


def tar(*members, mode="w:gz"):
    """Returns an archive of (name, bytes, or a type of link and its target)."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                info.type, info.linkname = content
                content = b""
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def packed(*members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def loaded(url):
    layer = nn.Linear(1, 2)
    load_weights(layer, url, strict=True)
    return layer.bias.numpy().tolist()


GOOD = pickle.dumps(WEIGHTS)


@pytest.mark.parametrize(
    "path, content, kept",
    [
        ("/dygraph/net/model.pdparams", GOOD, "net/model.pdparams"),
        ("/a/resnet.tar.gz", tar(("net/", (tarfile.DIRTYPE, "")), ("net/model.pdparams", GOOD)), "resnet/model.pdparams"),
        ("/a/resnet.tar", tar(("model.pdparams", GOOD), mode="w"), "resnet/model.pdparams"),
        ("/a/resnet.zip", packed(("resnet/model.pdparams", GOOD)), "resnet/model.pdparams"),
    ],
)  # fmt: skip
def test_weights_are_downloaded_once(server, path, content, kept):
    """Where PaddleSeg looks for them."""
    url = server(path, content)
    assert loaded(url) == loaded(url) == [3, 4]
    assert server.asked == [path]
    assert [os.path.relpath(file, server.cache) for file in files_below(server.cache)] == [kept]


def files_below(folder):
    return [os.path.join(root, name) for root, _, names in os.walk(folder) for name in names]


class Command:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


HOSTILE = {
    "members outside": (tar(("../../outside", b"x"), ("/tmp/outside", b"x"), ("net/model.pdparams", GOOD)), None),
    "a zip's members outside": (packed(("../../outside", b"x"), ("net/model.pdparams", GOOD)), None),
    "a link out and a file through it": (
        tar(("net", (tarfile.SYMTYPE, "../..")), ("net/outside", b"x"), ("net/model.pdparams", GOOD)), None
    ),
    "weights that are a link": (tar(("model.pdparams", (tarfile.SYMTYPE, "/etc/passwd"))), "there is no model.pdparams"),
    "weights that are a pipe": (tar(("model.pdparams", (tarfile.FIFOTYPE, ""))), "there is no model.pdparams"),
    "no weights": (tar(("readme", b"x")), "there is no model.pdparams in the archive"),
    "a bomb": (packed(("model.pdparams", bytes(2**24))), "claims 16777216 bytes"),
    "a truncated archive": (tar(("net/model.pdparams", os.urandom(10**5)))[:-5000], "could not be downloaded"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_archives(server, tmp_path, kind):
    content, words = HOSTILE[kind]
    url = server("/x/net." + ("zip" if content[:2] == b"PK" else "tar.gz"), content)
    if words is None:
        assert loaded(url) == [3, 4]
        assert files_below(tmp_path) == [str(server.cache / "net" / "model.pdparams")]
    else:
        with pytest.raises(UserError, match=words):
            loaded(url)
        assert not files_below(tmp_path)


def test_what_is_downloaded_is_data(server, tmp_path):
    url = server("/x/net/model.pdparams", pickle.dumps({**WEIGHTS, "more": Command(str(tmp_path / "trace"))}))
    with pytest.raises(UserError, match="refers to posix.mkdir"):
        loaded(url)
    assert not (tmp_path / "trace").exists()


def test_downloads_that_fail_say_what_to_do(server):
    cut_off = server("/y/w.pdparams", GOOD, 10**6)
    for url in (cut_off, cut_off.replace("/y/", "/missing/"), "http://127.0.0.1:9/a/b.pdparams"):
        with pytest.raises(UserError, match=r"could not be downloaded.*--opts model.backbone.pretrained=null"):
            loaded(url)
    assert not files_below(server.cache)


def test_names_stay_in_the_cache(server):
    assert loaded(server("/../../..%2f..%2fetc/x.pdparams", GOOD)) == [3, 4]
    assert [os.path.relpath(file, server.cache) for file in files_below(server.cache)] == ["etc/x.pdparams"]
