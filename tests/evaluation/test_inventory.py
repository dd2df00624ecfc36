"""What a run says of its data at the start."""

import logging
import shutil

import datasets
import pytest
from builders import encoded, tiny_overrides
from commands import through_main
from PIL import Image

from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError
from evalkit.evaluation.session import open_session


@pytest.fixture
def said(folder, tmp_path, caplog):
    def open_and_listen(*more, classes="abc"):
        caplog.clear()
        caplog.set_level(logging.INFO, logger="evalkit.evaluation.inventory")
        overrides = tiny_overrides(folder, tmp_path / "run")
        if "data=hf" in more:
            overrides = [override for override in overrides if not override.startswith("data")]
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


def test_links_that_bear_the_names_of_classes(said, folder):
    (folder / "a").rename(folder / "_a")
    (folder / "a").symlink_to(folder / "_a")
    (folder / "again").symlink_to(folder / "b")
    warning = "links called as classes lead to folders that are listed already, by other names: a; move these folders out of data.root"
    assert any(level == "WARNING" and text.startswith(warning) for level, text in said())


def test_archives_that_bear_the_names_of_classes(said, folder):
    for name in ("a", "b", "notes"):
        shutil.make_archive(str(folder / name), "zip", folder / "c")
    shutil.make_archive(str(folder / "b"), "gztar", folder / "b")
    assert said() == [("INFO", "12 images of 3 classes")]  # the folders are there too
    for name in ("a", "b"):
        shutil.rmtree(folder / name)
    assert ("WARNING", "archives called as classes are not read: a.zip, b.tar.gz, b.zip; unpack them") in said()
    shutil.rmtree(folder / "c")
    with pytest.raises(UserError, match=r"expected files ending in \.jpg, \.png or .* picture; it holds [ab]\.(zip|tar\.gz)$"):
        said()


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


@pytest.fixture
def through_table(said, tmp_path):
    def tell(values, kind, *more):
        picture = {"bytes": encoded(Image.new("RGB", (16, 16))), "path": None}
        features = datasets.Features({"image": datasets.Image(), "label": kind})
        table = datasets.Dataset.from_dict({"image": [picture] * len(values), "label": values}, features=features)
        table.to_parquet(str(tmp_path / "table" / "validation.parquet"))
        return said("data=hf", f"data.path={tmp_path / 'table'}", "data.label_column=label", *more)

    return tell


@pytest.mark.parametrize("kind", ["int64", "bool", "float32"])
@pytest.mark.parametrize("streaming", ["true", "false"])
def test_one_hot_labels_are_refused(through_table, kind, streaming):
    with pytest.raises(UserError, match="a list of 3 zeros and ones, as in a one-hot encoding"):
        through_table([[0, 0, 1], [1, 0, 0]], datasets.List(datasets.Value(kind)), f"data.streaming={streaming}", "limit=2")


def test_lists_of_indices_are_no_one_hot_labels(through_table):
    for values in ([[0, 1, 2], [1, 0, 2]], [[0, 1], [1]], [[0], [1]]):
        assert through_table(values, datasets.List(datasets.Value("int64")))[0][0] == "INFO"


def test_streamed_labels(through_table):
    stream = ("data.streaming=true", "limit=2")
    (told,) = through_table(["a", "b"], datasets.Value("string"), *stream)
    assert told[0] == "INFO" and "pictures from column 'image', labels from 'label'" in told[1]
    _, (level, text) = through_table(["x", "y"], datasets.Value("string"), *stream)
    assert level == "WARNING" and "none of the first 2 images" in text and "the model's first class is called 'a'" in text


def test_an_index_that_is_no_output_is_named_with_its_image(through_table):
    with pytest.raises(UserError, match=r"label 3 of table/00000001 is no output .* count from 0 to 2$"):
        through_table([1, 3], datasets.Value("int64"))


def test_names_that_are_numbers_in_a_table(through_table):
    told = through_table([0, 1], datasets.ClassLabel(names=["0", "1"]))[1][1]
    assert "model.classes=null" in told and "list of labels" not in told


def test_an_index_beside_a_name(said, tmp_path):
    listed = tmp_path / "labels.csv"
    listed.write_text("file,class,index\na/0.png,a,1\nb/0.png,b,0\nc/0.png,c,2\n")
    warning = said(f"data.labels={listed}")[1][1]
    assert warning.startswith("2 of 3 labels name one class") and "'a' is output 0, and index 1 is 'b'" in warning
    listed.write_text("file,class,index\na/0.png,a,701\nb/0.png,b,0\nc/0.png,c,2\n")  # indices of another model
    assert said(f"data.labels={listed}") == [("INFO", "3 images of 3 classes")]


def test_a_box_of_no_output(said, tmp_path):
    (tmp_path / "boxes.csv").write_text("file,w,h,x1,y1,x2,y2,index\na/0.png,20,16,1,1,9,9,9\n")
    with pytest.raises(UserError, match=r"label 9 of a box of a/0.png is no output"):
        said(f"data.boxes={tmp_path / 'boxes.csv'}")


def test_folders_of_one_name_in_two_unicode_forms(said, folder):
    (folder / "a").rename(folder / "caf\u00e9")
    shutil.copytree(folder / "caf\u00e9", folder / "cafe\u0301")
    (_, size), (level, text) = said(classes=["caf\u00e9", "b", "c"])
    assert size == "16 images of 3 classes" and level == "WARNING"
    assert text.startswith("2 folders are one class") and "differ only in their Unicode form" in text


@pytest.mark.parametrize("line", ["0 {}", "0: {}", "0,{}", "{} 0", "n02084071 {}"])
def test_more_than_a_name_in_a_line_of_the_classes(said, line):
    warning = said(classes=[line.format(name) for name in "abc"])[1][1]
    assert f"the model has a class called '{line.format('a')}': write only names" in warning


def test_folders_above_those_of_the_classes(said, folder):
    for name in "abc":
        shutil.copytree(folder / name, folder / "train" / name)
        (folder / "val").mkdir(exist_ok=True)
        (folder / name).rename(folder / "val" / name)
    assert f"set data.root={folder}/val" in said()[1][1]
