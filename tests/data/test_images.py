import os

import pytest

from paddleseg_psp.data.images import find_images, output_names
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
    "name, words", [(None, "is missing"), ("gone", "no such file"), ("gone.png", "there is no file"), ("text.txt", "no image")]
)
def test_nothing_there(folder, name, words):
    with pytest.raises(UserError, match=words):
        find_images(name and str(folder / name))
    (folder / "list.txt").write_text("gone.png\n")
    with pytest.raises(UserError, match="there is no file .*gone.png"):
        find_images(str(folder / "list.txt"))
