import os
import resource
import threading

import pytest

from paddleseg_psp.files import append, atomic_folder, atomic_path, link_or_copy, remove_left_overs


def test_bytes_are_added_whole_or_not_at_all(tmp_path):
    """A limit cuts a write off as a full disk does."""
    path = tmp_path / "records"
    append(str(path), b"first\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError):
            append(str(path), b"x" * 200)
        append(str(path), b"second\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"first\nsecond\n"
    with pytest.raises(OSError):
        append("/dev/full", b"x")


@pytest.mark.parametrize("name", ["a" * 251 + ".png", "\u56fe" * 83 + ".png", os.fsdecode(b"\xe9" * 251 + b".png"), "a" * 255])
def test_names_as_long_as_file_systems_take(tmp_path, name):
    path = str(tmp_path / name)
    with atomic_path(path) as temporary:
        assert temporary.endswith(os.path.splitext(name)[1])  # writers go by it
        with open(temporary, "w") as file:
            file.write("text")
    assert os.listdir(tmp_path) == [name]


def test_two_threads_write_one_file(tmp_path):
    inside = threading.Barrier(2)

    def write(text):
        with atomic_path(str(tmp_path / "file.txt")) as temporary:
            inside.wait(10)
            with open(temporary, "w") as file:
                file.write(text)
            inside.wait(10)

    threads = [threading.Thread(target=write, args=(letter * 1000,)) for letter in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file.txt").read_text() in ("a" * 1000, "b" * 1000) and os.listdir(tmp_path) == ["file.txt"]


def test_links_or_copies(tmp_path, monkeypatch):
    (tmp_path / "one").write_text("text")
    link_or_copy(str(tmp_path / "one"), str(tmp_path / "two"))
    assert (tmp_path / "one").samefile(tmp_path / "two")

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")  # as on FAT

    monkeypatch.setattr(os, "link", refuse)
    link_or_copy(str(tmp_path / "one"), str(tmp_path / "three"))
    assert (tmp_path / "three").read_text() == "text" and not (tmp_path / "one").samefile(tmp_path / "three")


def test_a_folder_that_fails_leaves_the_old_one(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_folder(str(tmp_path / "folder")) as temporary:
        open(os.path.join(temporary, "file"), "w").close()
        raise ZeroDivisionError
    assert (tmp_path / "folder" / "file").read_text() == "old" and os.listdir(tmp_path) == ["folder"]


def test_what_killed_writers_left_is_removed(tmp_path):
    for name in ("file.txt", ".hidden", ".12.txt", "iter_3"):
        (tmp_path / name).write_text("kept")
    with atomic_path(str(tmp_path / "model.pdparams")) as file, atomic_folder(str(tmp_path / "iter_4")) as folder:
        for path in (file, os.path.join(folder, "file")):
            open(path, "w").close()
        remove_left_overs(str(tmp_path))
        assert sorted(os.listdir(tmp_path)) == [".12.txt", ".hidden", "file.txt", "iter_3"]
        os.makedirs(folder)
        open(file, "w").close()
