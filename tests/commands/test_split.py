import numpy as np
import pytest
from PIL import Image

from paddleseg_psp.data import Dataset
from paddleseg_psp.data.preparation.splitting import stratified_split
from tests.helpers import run_tool


@pytest.mark.parametrize("shares", [(0.8, 0.2), (7, 2, 1)])
def test_each_part_has_its_share_of_each_class(shares):
    presence = np.random.RandomState(0).rand(500, 12) < np.geomspace(0.02, 0.9, 12)
    parts = stratified_split(presence, shares, seed=3)
    fractions = np.array(shares) / sum(shares)
    for part, fraction in enumerate(fractions):
        assert abs((parts == part).sum() - 500 * fraction) <= 8
        np.testing.assert_allclose(
            presence[parts == part].sum(0), presence.sum(0) * fraction, atol=3 + 0.03 * presence.sum(0).max()
        )
    np.testing.assert_array_equal(parts, stratified_split(presence, shares, seed=3))
    assert (parts != stratified_split(presence, shares, seed=4)).any()
    rare = presence.sum(0).argmin()
    shuffled = [
        abs(presence[np.random.RandomState(seed).permutation(500)[:400], rare].sum() - 0.8 * presence[:, rare].sum())
        for seed in range(50)
    ]
    if len(shares) == 2:
        assert abs(presence[parts == 0, rare].sum() - 0.8 * presence[:, rare].sum()) < 1 <= max(shuffled)


def test_images_without_any_class():
    parts = stratified_split(np.zeros((10, 3), bool), (0.5, 0.5))
    assert sorted(np.bincount(parts)) == [5, 5]


def test_lists(tmp_path, capfd):
    numbers = np.random.RandomState(0)
    for index in range(10):
        for folder, ending, shape in (("my images", ".jpg", (8, 8, 3)), ("labels", "_mask.png", (8, 8))):
            (tmp_path / folder / "straße").mkdir(parents=True, exist_ok=True)
            values = numbers.randint(0, 2, shape, dtype=np.uint8)
            Image.fromarray(values).save(tmp_path / folder / "straße" / f"{index}{ending}")
    Image.fromarray(values).save(tmp_path / "labels" / "alone_mask.png")
    script = "tools/data/split_dataset_list.py"
    command = [tmp_path, "my images", "labels", "--num_classes", "2", "--postfix", "", "_mask"]
    process = run_tool(script, command, capfd)
    assert process.returncode == 0, process.stderr
    assert "1 labels without an image are left out, e.g. alone" in process.stdout
    lists = [(tmp_path / f"{name}.txt").read_text(encoding="utf-8").splitlines() for name in ("train", "val")]
    assert [len(lines) for lines in lists] == [8, 2] and len({*lists[0], *lists[1]}) == 10
    dataset = Dataset([], str(tmp_path), 2, train_path=str(tmp_path / "train.txt"))
    assert all(image.endswith(".jpg") and label.endswith("_mask.png") for image, label in dataset.file_list)
    run_tool(script, [*command, "--seed", "1"], capfd)
    assert (tmp_path / "train.txt").read_text(encoding="utf-8").splitlines() != lists[0]
    assert "occur in no label" not in process.stdout
    process = run_tool(script, [*command, "--num_classes", "4"], capfd)
    assert process.returncode == 0 and "2 of 4 classes occur in no label: 2, 3" in process.stdout
    for path in (tmp_path / "labels").rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(path)) * 255).save(path)
    process = run_tool(script, command, capfd)
    assert process.returncode == 0
    assert "1 of 2 classes occur in no label: 1 (pixels of 255 are ignored; of masks of 0 and 255" in process.stdout
    process = run_tool(script, [*command[:-2], "", "_gone"], capfd)
    assert process.returncode == 1 and "--postfix" in process.stderr.strip().splitlines()[-1]
