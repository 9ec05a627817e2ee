import os

import pytest

from paddleseg_psp.data.reading import images as module
from paddleseg_psp.data.reading.images import find_images, output_names, require_no_overwriting
from paddleseg_psp.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "a.png", "b c.PNG", ".hidden.png", "text.txt", "below/a.png", "below/straße.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def relative(folder, images):
    return [os.path.relpath(image, folder) for image in images]


def test_a_folder_and_one_image(folder):
    images, root = find_images(str(folder))
    assert relative(folder, images) == ["a.jpg", "a.png", "b c.PNG", "below/a.png", "below/straße.tif"]
    assert output_names(images, root) == ["a.jpg", "a.png", "b c", "below/a", "below/straße"]
    assert output_names(*find_images(str(folder / "b c.PNG"))) == ["b c"]


def test_a_list(folder, tmp_path_factory):
    path = folder / "list.txt"
    path.write_text("below/straße.tif labels/x.png\nb c.PNG\na.jpg\tlabels/y z.png\n\n", encoding="utf-8")
    images, root = find_images(str(path))
    assert relative(folder, images) == ["a.jpg", "b c.PNG", "below/straße.tif"]
    assert output_names(images, root) == ["a", "b c", "below/straße"]
    elsewhere = tmp_path_factory.mktemp("lists") / "list.txt"
    elsewhere.write_text(f"{folder}/below/a.png\n{folder}/a.png\n")
    names = output_names(*find_images(str(elsewhere)))
    assert names == ["a", "below/a"]  # and never above the folder for the results


def test_names_differ_where_endings_do():
    assert output_names(["x/a.jpg", "x/a.png", "x/b.png"], "x") == ["a.jpg", "a.png", "b"]


@pytest.mark.parametrize(
    "name, words", [(None, "is missing"), ("gone", "no such file"), ("gone.png", "there is no file"), ("text.txt", "is empty")]
)
def test_nothing_there(folder, name, words):
    with pytest.raises(UserError, match=words):
        find_images(name and str(folder / name))
    (folder / "list.txt").write_text("gone.png\n")
    with pytest.raises(UserError, match="there is no file .*gone.png"):
        find_images(str(folder / "list.txt"))


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(module.logger, "warning", lines.append)
    return lines


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_links_to_folders_are_followed_and_loops_end(tmp_path):
    fill(tmp_path, "disk/a.png", "disk/more/b.png", "other/c.png", "in/own.png")
    (tmp_path / "in" / "camera").symlink_to(tmp_path / "disk")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "up").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "more" / "across").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "back").symlink_to(tmp_path / "in")
    found = relative(tmp_path / "in", find_images(str(tmp_path / "in"))[0])
    own = ["a.png", "more/across/c.png", "more/b.png"]
    assert found == [f"again/{name}" for name in own] + [f"camera/{name}" for name in own] + ["own.png"]
    names = output_names(*find_images(str(tmp_path / "in")))
    assert names == [name[:-4] for name in found]


def test_a_folder_of_arrays(tmp_path, said):
    fill(tmp_path, "a.npy", "below/b.NPY")
    assert relative(tmp_path, find_images(str(tmp_path))[0]) == ["a.npy", "below/b.NPY"] and not said
    fill(tmp_path, "c.png")
    assert relative(tmp_path, find_images(str(tmp_path))[0]) == ["c.png"]
    assert said == [f"{tmp_path}: 2 files are left out, which are no images: 2 .npy"]


def test_files_that_are_left_out_are_said(tmp_path, said):
    fill(tmp_path, "a.JPG", "b.gif", "c.GIF", "below/d.heic", "README", ".hidden.png")
    assert relative(tmp_path, find_images(str(tmp_path))[0]) == ["a.JPG"]
    assert len(said) == 1 and said[0].startswith(f"{tmp_path}: 4 files are left out")
    assert all(kind in said[0] for kind in ("2 .gif", "1 .heic", "1 without ending"))
    (tmp_path / "a.JPG").unlink()
    with pytest.raises(UserError, match="there is no image in it .* but 2 .gif"):
        find_images(str(tmp_path))


def test_results_below_the_images_are_no_images(tmp_path):
    fill(tmp_path, "a.png", "results/a.png", "results/added_prediction/a.png", "results2/b.png")
    assert relative(tmp_path, find_images(str(tmp_path), str(tmp_path / "results"))[0]) == ["a.png", "results2/b.png"]
    (tmp_path / "link").symlink_to(tmp_path / "results")
    assert relative(tmp_path, find_images(str(tmp_path), str(tmp_path / "link"))[0]) == ["a.png", "results2/b.png"]
    for same in (tmp_path, tmp_path / "results" / ".."):
        with pytest.raises(UserError, match="--save_dir .* is the folder of the images"):
            find_images(str(tmp_path), str(same))
    assert relative(tmp_path, find_images(str(tmp_path / "results2"), str(tmp_path))[0]) == ["results2/b.png"]


def test_results_do_not_replace_images(tmp_path):
    fill(tmp_path, "a.png", "b.jpg")
    images = [str(tmp_path / "a.png"), str(tmp_path / "b.jpg")]
    require_no_overwriting([str(tmp_path / "b.png"), str(tmp_path / "out" / "a.png")], images)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match="a.png is one of the images, and a result would take its place"):
        require_no_overwriting([str(tmp_path / "link" / "a.png")], images)


@pytest.mark.parametrize(
    "name, words",
    [
        ("clip.MP4", "clip.MP4 is a video: .*ffmpeg -i .*clip.MP4"),
        ("a.gif", "an animation: .*ffmpeg"),
        ("a.heic", "convert it to PNG or JPEG"),
        ("a.pdf", "is a document: .*pdftoppm"),
        ("a.zip", "an archive: unpack it"),
        ("data", "is neither an image .* nor a text file"),
    ],
)
@pytest.mark.parametrize("content", [b"\x00\x00\x00\x1cftypisom", b"PK\x03\x04\x14\x00\xff\xfe", b"%PDF-1.4\n%\xe2\xe3\x00"])
def test_other_kinds_of_files(tmp_path, name, words, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words):
        find_images(str(tmp_path / name))


def test_names_that_are_not_utf_8(tmp_path, capsys):
    folder = os.fsdecode(os.path.join(os.fsencode(tmp_path), b"caf\xe9"))
    os.mkdir(folder)
    for name in (b"\xff.png", b"\xff.txt"):
        with open(os.path.join(os.fsencode(folder), name), "wb"):
            pass
    images, root = find_images(folder)
    assert [os.fsencode(os.path.basename(image)) for image in images] == [b"\xff.png"]
    assert os.fsencode(output_names(images, root)[0]) == b"\xff"
    assert r"caf\udce9: 1 files are left out" in capsys.readouterr().out
