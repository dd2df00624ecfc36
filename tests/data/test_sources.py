"""Folders, labels, samples."""

import os
from pathlib import Path

import pytest
from builders import finished_rows, tiny_overrides
from PIL import Image

from evalkit.data.decode import UnreadableImage
from evalkit.data.sources import ListedClass, choose, image_folder
from evalkit.errors import UserError


def write_labels(path: Path, header: str, *lines: str) -> Path:
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_class_folders_are_ordered_by_path(folder):
    source = image_folder(str(folder))
    assert [source.image_id(i) for i in range(3)] == ["a/0.png", "a/1.png", "a/2.png"]
    assert [source.class_keys(i) for i in (0, 4, 8)] == [("a",), ("b",), ("c",)]
    assert source.load(0).size == (20, 16)


def test_labels_file_decides_not_the_folder(folder, tmp_path):
    listed = write_labels(tmp_path / "labels.csv", "file,wnid,index", "b/1.png,zebra,7", "a/0.png,lion,3")
    source = image_folder(str(folder), str(listed))
    assert [source.image_id(i) for i in range(2)] == ["a/0.png", "b/1.png"]
    assert source.class_keys(0) == (ListedClass("lion", 3),)


def test_names_that_are_no_utf8(tmp_path):
    """As old archives hold them: rows need text."""
    root = tmp_path / "set"
    (root / "a").mkdir(parents=True)
    for name in (b"\xff.png", "é犬 x.png".encode()):
        Image.new("RGB", (16, 16)).save((root / "a" / os.fsdecode(name)).open("wb"), "PNG")
    rows = finished_rows(tiny_overrides(root, tmp_path / "run"))
    assert set(rows.image_id) == {"a/\\xff.png", "a/é犬 x.png"} and (rows.status != "error").all()


def test_labels_csv_beside_an_images_folder_is_found(folder, tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    folder.rename(root / "images")
    write_labels(root / "labels.csv", "file,index", "c/3.png,2", "a/1.png,0")
    source = image_folder(str(root))
    assert [source.class_keys(i) for i in range(2)] == [(0,), (2,)]
    assert source.load(1).size == (20, 16)


def test_fingerprint_follows_labels_and_files(folder, tmp_path):
    before = image_folder(str(folder)).fingerprint
    assert image_folder(str(folder)).fingerprint == before
    listed = write_labels(
        tmp_path / "l.csv", "file,class", *(f"{p.relative_to(folder).as_posix()},x" for p in sorted(folder.rglob("*.png")))
    )
    assert image_folder(str(folder), str(listed)).fingerprint != before
    (folder / "a" / "0.png").unlink()
    assert image_folder(str(folder)).fingerprint != before


@pytest.mark.parametrize(
    ("header", "line", "says"),
    [
        ("name,wnid", "a/0.png,x", "needs a column 'file'"),
        ("file,index", "a/0.png,one", "whole numbers"),
        ("file,wnid", "../../secret.png,x", "lies outside"),
        ("file,wnid", "nowhere/0.png,x", "none of the 1 files"),
        ("a,b", "1,2", "needs a column 'file' .* it has a, b"),
        ("file,wnid", "", "lists no files"),
        ("file,wnid", "x" * 200_000, "is no CSV"),
    ],
)
def test_bad_lists(folder, tmp_path, header, line, says):
    with pytest.raises(UserError, match=says):
        image_folder(str(folder), str(write_labels(tmp_path / "l.csv", header, line)))


def test_a_row_without_a_name_keeps_its_index(folder, tmp_path):
    listed = write_labels(tmp_path / "l.csv", "file,class,index", "a/0.png,,2", "a/1.png,lion,1", "a/2.png,,")
    source = image_folder(str(folder), str(listed))
    assert [source.class_keys(i) for i in range(3)] == [(2,), (ListedClass("lion", 1),), ()]


def test_a_link_to_nowhere_is_an_image_that_cannot_be_read(folder):
    (folder / "a" / "gone.png").symlink_to(folder / "nowhere.png")
    source = image_folder(str(folder))
    assert len(source) == 13
    with pytest.raises(UnreadableImage, match="No such file"):
        source.load(4)


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(UserError, match="no folder"):
        image_folder(str(tmp_path / "absent"))
    with pytest.raises(UserError, match="no images in"):
        image_folder(str(tmp_path))


class Counted:
    """100 images of class a, 10 of b, 1 of c."""

    keys = ["a"] * 100 + ["b"] * 10 + ["c"]

    def __len__(self):
        return len(self.keys)

    def class_keys(self, position):
        return (self.keys[position],)


def test_samples_are_stratified_seeded_and_nested():
    source = Counted()
    ten = choose(source, limit=None, sample=11, seed=0)
    more = choose(source, limit=None, sample=33, seed=0)
    assert set(ten) <= set(more) and more == sorted(more)
    assert choose(source, limit=None, sample=11, seed=0) == ten
    assert choose(source, limit=None, sample=11, seed=1) != ten
    counts = [sum(source.keys[p] == key for p in more) for key in "ab"]
    assert abs(counts[0] - 30) <= 1 and abs(counts[1] - 3) <= 1
    assert choose(source, limit=None, sample=500, seed=0) == list(range(111))


def test_equal_classes_get_equal_shares():
    source = Counted()
    source.keys = [str(i // 50) for i in range(1000)]
    chosen = choose(source, limit=None, sample=20, seed=3)
    assert sorted(source.keys[p] for p in chosen) == sorted(set(source.keys))


def test_limit_takes_the_first():
    assert choose(Counted(), limit=3, sample=None, seed=0) == [0, 1, 2]


def test_one_image_in_several_spellings(folder, tmp_path):
    listed = tmp_path / "l.csv"
    rows = [
        "a/0.png,x",
        "./a/0.png,y",
        f"../{folder.name}/a/0.png,x",
        " a/1.png ,x",
        "b\\0.png,y",
        "c/" + "n" * 300 + ".png,x",
        "b/9.png,x",
    ]
    write_labels(listed, "file,class", *rows)
    source = image_folder(str(folder), str(listed))
    assert [source.image_id(i) for i in range(3)] == ["a/0.png", "a/1.png", "b/0.png"]
    assert source.class_keys(0) == (ListedClass("x", None), ListedClass("y", None))
    assert source.missing == ["b/9.png", "c/" + "n" * 300 + ".png"] and source.fingerprint
    with pytest.raises(UnreadableImage, match="name too long"):
        source.load(4)
    (folder / "b" / "0.png").rename(folder / "b\\0.png")  # as written, where there is such a file
    assert image_folder(str(folder), str(listed)).paths[2:] == ["b/9.png", "b\\0.png", "c/" + "n" * 300 + ".png"]
