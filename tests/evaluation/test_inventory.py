"""What a run says of its data at the start."""

import logging
import shutil

import pytest
from builders import tiny_overrides
from commands import through_main

from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError
from evalkit.evaluation.session import open_session


@pytest.fixture
def said(folder, tmp_path, caplog):
    def open_and_listen(*more, classes="abc"):
        caplog.clear()
        caplog.set_level(logging.INFO, logger="evalkit.evaluation.inventory")
        overrides = tiny_overrides(folder, tmp_path / "run")
        (tmp_path / "classes.txt").write_text("\n".join(classes) + "\n")
        open_session(compose_jobs([*overrides, f"+model.args={{classes: {len(classes)}}}", *more])[0].config)
        return [(record.levelname, record.getMessage()) for record in caplog.records]

    return open_and_listen


def test_one_line_where_all_is_well(said):
    assert said() == [("INFO", "12 images of 3 classes")]
    assert said("sample=6") == [("INFO", "6 of 12 images of 3 classes")]


def test_it_reaches_the_terminal_before_the_images(folder, tmp_path):
    ended = through_main("run", *tiny_overrides(folder, tmp_path / "run"), "method=[centre]", "sample=3")
    assert ended.stderr.startswith("INFO: 3 of 12 images of 3 classes\nWARNING: 2 of 5 classes of the model have no images: d, e\n")


def test_a_part_that_matches_no_class(said, folder):
    (folder / "a").rename(folder / "A")
    (folder / "b").rename(folder / "tiger-cat")
    assert said(classes=["a", "Tiger cat", "c"]) == [
        ("INFO", "12 images of 3 classes; 2 of 3 classes of the model have no images: a, Tiger cat"),
        (
            "WARNING",
            "2 of 3 classes of the data have other names than the model's, so their images (8) count as unlabelled: "
            "'A' (did you mean 'a'?), 'tiger-cat' (did you mean 'Tiger cat'?)",
        ),
    ]
    with pytest.raises(UserError, match=r"8 of 12 images .* \(the first is A/0.png, called 'A'; did you mean 'a'\?\)"):
        said("target=label", classes=["a", "Tiger cat", "c"])


def test_files_and_images_without_a_part(said, folder):
    for name in ("a/x.heic", "a/y.heic", "b/z"):
        (folder / name).write_bytes(b"x")
    shutil.copy(folder / "a" / "0.png", folder / "stray.png")
    (folder / "c" / "loop").symlink_to("..")
    shutil.copytree(folder / "c", folder / ".trash", symlinks=True)
    unread = "3 files are not read, since no format of images has such a suffix: 2 .heic (such as a/x.heic), 1 without suffix (such as b/z)"
    assert said() == [
        ("INFO", "13 images of 3 classes; left out as hidden or trash: .trash; links to folders that are listed already: c/loop"),
        ("WARNING", f"{unread}; convert pictures to PNG or JPEG"),
        ("WARNING", "1 of 13 images have no label (such as stray.png)"),
    ]


def test_classes_without_images_are_a_warning_only_where_they_are_few(said):
    assert said(classes="abcd")[1:] == [("WARNING", "1 of 4 classes of the model have no images: d")]
    few = "12 images of 3 classes; 7 of 10 classes of the model have no images: d, e, f, g, h and 2 more"
    assert said(classes="abcdefghij") == [("INFO", few)]


def test_a_limit_that_covers_few_classes(said):
    warning = "limit=3 takes the first 3 images: 1 of 3 classes; use sample=3 for a random part"
    assert said("limit=3") == [("INFO", "3 of 12 images of 1 of 3 classes"), ("WARNING", warning)]
    assert [level for level, _ in said("limit=5")] == ["INFO"]
    assert [level for level, _ in said("sample=1")] == ["INFO"]


@pytest.mark.parametrize("column", ["label", "class"])
def test_numbers_under_a_columns_name_for_names(said, folder, tmp_path, column):
    listed = tmp_path / "labels.csv"
    listed.write_text(f"file,{column}\na/0.png,0\nb/0.png,1\n")
    (_, (level, text)) = said(f"data.labels={listed}")
    assert level == "WARNING" and "call their column 'index' in the list of labels: top-1 cannot be computed" in text
    with pytest.raises(UserError, match="call their column 'index'"):
        said(f"data.labels={listed}", "target=label")
    assert said(f"data.labels={listed}", classes="012") == [("INFO", "2 images of 2 classes"), ("WARNING", said_absent("2"))]
    listed.write_text("file,index\na/0.png,0\nb/0.png,1\n")
    assert said(f"data.labels={listed}") == [("INFO", "2 images of 2 classes"), ("WARNING", said_absent("c"))]


def said_absent(name):
    return f"1 of 3 classes of the model have no images: {name}"
