"""Images below a folder: links, hidden files, and formats."""

import shutil

import pytest
from PIL import Image

from evalkit.data import listing
from evalkit.data.boxes import read_boxes
from evalkit.data.listing import list_images
from evalkit.data.sources import image_folder
from evalkit.errors import UserError

ALL = [f"{name}/{i}.png" for name in "abc" for i in range(4)]


def images(folder):
    source = image_folder(str(folder))
    return [source.image_id(i) for i in range(len(source))]


def test_linked_folders_and_pictures_are_those_that_lie_there(folder, tmp_path):
    root = tmp_path / "linked"
    (root / "b").mkdir(parents=True)
    for name in "ac":
        (root / name).symlink_to(folder / name)
    for file in (folder / "b").iterdir():
        (root / "b" / file.name).symlink_to(file)
    there, linked = image_folder(str(folder)), image_folder(str(root))
    assert images(root) == ALL and linked.keys == there.keys and linked.fingerprint == there.fingerprint
    assert linked.load(0).tobytes() == there.load(0).tobytes()
    (root / "labels.csv").write_text("file,class\n" + "".join(f"{path},x\n" for path in ALL))
    assert images(root) == ALL
    for path in ("../pictures/a/0.png", "a/../../pictures/a/0.png", str(folder / "a" / "0.png"), "a/../c/0.png"):
        (root / "labels.csv").write_text(f"file,class\n{path},x\n")
        with pytest.raises(UserError, match="lies outside"):
            image_folder(str(root))


def test_links_in_a_circle_and_to_what_is_there_already(folder, tmp_path):
    (folder / "a" / "up").symlink_to("..")
    (folder / "a" / "b").symlink_to("../b")
    (folder / "b" / "a").symlink_to("../a")
    (folder / "all").symlink_to(tmp_path)
    (folder / "a" / "itself").symlink_to("itself")
    (folder / "same").symlink_to("c")
    found = list_images(folder)
    assert sorted(found.images) == ALL
    assert sorted(found.repeated) == ["a/b", "a/up", "b/a", "same"]
    assert found.broken == ["a/itself"] and found.unread == []


def test_hidden_copies_and_trash_are_left_out(folder):
    for name in (".ipynb_checkpoints", "__MACOSX", ".Trash-1000", "a/@eaDir", "a/.ipynb_checkpoints", "$RECYCLE.BIN", "lost+found"):
        shutil.copytree(folder / "b", folder / name)
    for name in ("._0.png", ".hidden.png", "Thumbs.db", ".DS_Store"):
        shutil.copy(folder / "a" / "0.png", folder / "a" / name)
    found = list_images(folder)
    assert sorted(found.images) == ALL and found.unread == []
    assert {"a/.hidden.png", "a/.ipynb_checkpoints", "lost+found"} < set(found.hidden)
    hidden = folder.rename(folder.parent / ".pictures")
    assert images(hidden) == ALL  # what is hidden is said below the root


def test_formats_by_what_pillow_decodes(folder):
    picture = Image.open(folder / "a" / "0.png")
    picture.save(folder / "a" / "x.JFIF", "JPEG")
    picture.save(folder / "a" / "y.gif")
    for name in ("a/z.heic", "b/none", "b/array.npy", "README.md", "LICENSE", "c/notes.txt", "c/m.h5", "c/d.eps"):
        (folder / name).write_bytes(b"x")
    found = list_images(folder)
    assert sorted(found.images) == sorted([*ALL, "a/x.JFIF", "a/y.gif"])
    assert sorted(found.unread) == ["a/z.heic", "b/array.npy", "b/none", "c/d.eps", "c/m.h5"]
    for path in found.images:
        (folder / path).unlink()
    with pytest.raises(UserError, match=r"no images in .*; it holds [abc]/"):
        image_folder(str(folder))


def test_a_folder_that_cannot_be_read_is_named(folder, monkeypatch):
    scandir = listing.os.scandir

    def refuse(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(listing.os, "scandir", refuse)
    with pytest.raises(UserError, match=r"cannot read the folder b \(Permission denied\)"):
        list_images(folder)


def test_hidden_annotations_are_left_out(tmp_path):
    (tmp_path / "._1.xml").write_bytes(b"\0\5\x16\7")
    (tmp_path / "1.xml").write_text("<annotation/>")
    assert read_boxes(tmp_path) == {"1": []}


def test_notices_in_class_folders_are_no_pictures_and_broken_links_are_named(folder):
    for name in ("LICENSE", "README", "Icon\r", "notes.docx", "a.dvc"):
        (folder / "a" / name).write_text("x")
    (folder / "d").symlink_to(folder / "unmounted" / "d")
    found = list_images(folder)
    assert found.unread == [] and found.broken == ["d"] and len(found.images) == 12
