"""PASCAL VOC as its archives unpack, in small, read by torchvision too."""

import re
from pathlib import Path

import pandas as pd
import pytest
from builders import VOC_OBJECTS, save_voc, tiny_overrides
from commands import through_main
from torchvision.datasets import VOCDetection

from evalkit.config.compose import compose_jobs
from evalkit.data.voc import voc
from evalkit.errors import UserError
from evalkit.launch.run import run_job


@pytest.fixture
def year(tmp_path: Path) -> Path:
    return save_voc(tmp_path / "unpacked")


def test_any_folder_above_is_found(year, tmp_path):
    for root in (year, year.parent, year.parent.parent):
        assert [voc(str(root)).image_id(i) for i in range(3)] == ["000004.jpg", "000005.jpg", "000006.jpg"]
    nested = save_voc(tmp_path / "more" / "TrainVal", 2011)
    assert voc(str(tmp_path / "more"), split="trainval").root == nested / "JPEGImages"


def test_labels_and_boxes_are_those_that_torchvision_reads(year):
    theirs = VOCDetection(str(year.parent.parent), year="2007", image_set="trainval")
    ours = voc(str(year), split="trainval", difficult="keep")
    assert len(ours) == len(theirs) == 6
    for i, (picture, target) in enumerate(theirs):
        annotation = target["annotation"]
        assert ours.image_id(i) == annotation["filename"] and ours.load(i).tobytes() == picture.tobytes()
        read = [
            (thing["name"], *(int(thing["bndbox"][edge]) for edge in ("xmin", "ymin", "xmax", "ymax"))) for thing in annotation["object"]
        ]
        # The outermost pixels count from 1: pixel 1 lies between the edges 0 and 1.
        assert [(box.key, box.x1 + 1, box.y1 + 1, box.x2, box.y2) for box in ours.boxes(i)] == read
        assert set(ours.class_keys(i)) == {name for name, *_ in read} and (ours.boxes(i)[0].width, ours.boxes(i)[0].height) == (20, 16)


def test_difficult_objects_are_neither_present_nor_absent(year):
    source, kept = voc(str(year), split="trainval"), voc(str(year), split="trainval", difficult="keep")
    for i, objects in enumerate(VOC_OBJECTS.values()):
        sure = {name for name, difficult, *_ in objects if not difficult}
        assert set(source.class_keys(i)) == sure and len(source.boxes(i)) == sum(not difficult for _, difficult, *_ in objects)
        assert set(source.undecided(i)) == {name for name, *_ in objects} - sure and kept.undecided(i) == ()
    assert source.undecided(1) == ("cat",) and source.undecided(3) == ("cat",) and source.class_keys(3) == ()
    assert kept.class_keys(3) == ("cat",) and source.fingerprint != kept.fingerprint


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"split": "tset"}, "data.split=tset is not a valid choice; did you mean 'test'?"),
        (
            {"split": "test"},
            "data.split=test, but {lists} has the lists of train, val, trainval alone; the test images of 2007 are an archive",
        ),
        ({"difficult": "ignored"}, "data.difficult=ignored is not a valid choice; did you mean 'ignore'?"),
        ({"year": 2077}, "data.year=2077 is no year of VOC with this layout: choose one from 2007 to 2012"),
        ({"year": 2012}, "data.root={year} is VOC2007, and data.year=2012: set data.year=2007"),
        ({"root": "devkit", "year": 2012}, "data.year=2012, but of VOC {devkit} holds 2007: set data.year=2007, or unpack VOC2012 there"),
        ({"root": "nowhere"}, "no folder {nowhere}: set data.root"),
        ({"root": "empty"}, "no VOC in {empty}: expected VOCdevkit/VOC2007"),
    ],
)
def test_mistakes_are_one_sentence(year, tmp_path, change, says):
    (tmp_path / "empty").mkdir()
    places = {"year": year, "devkit": year.parent, "lists": year / "ImageSets" / "Main", "empty": tmp_path / "empty"}
    places["nowhere"] = tmp_path / "nowhere"
    given = {**change, "root": str(places[change.get("root", "year")])}
    with pytest.raises(UserError) as error:
        voc(**given)
    assert str(error.value).startswith(says.format(**places))


def test_incomplete_archives_are_one_sentence(year):
    (year / "Annotations" / "000005.xml").unlink()
    with pytest.raises(UserError, match=r"Annotations lacks 000005.xml, which data.split=val needs"):
        voc(str(year))
    (year / "Annotations" / "000005.xml").write_text("<annotation>")
    with pytest.raises(UserError, match=r"000005.xml is no XML"):
        voc(str(year))
    (year / "ImageSets" / "Main" / "val.txt").write_text("../000001\n")
    with pytest.raises(UserError, match=r"names '\.\./000001', which is no image's name"):
        voc(str(year))
    (year / "ImageSets" / "Main" / "val.txt").write_text("\n")
    with pytest.raises(UserError, match=r"lists no images"):
        voc(str(year))
    (year / "JPEGImages").rename(year / "Pictures")
    (year / "ImageSets" / "Main" / "val.txt").write_text("000004 -1\n")
    with pytest.raises(UserError, match=r"has no folder JPEGImages"):
        voc(str(year))


def test_several_years_need_a_choice(year):
    save_voc(year.parent.parent, 2012)
    with pytest.raises(UserError, match=r"holds the years 2007, 2012 of VOC: choose one, as in data.year=2007"):
        voc(str(year.parent))
    assert voc(str(year.parent), year=2012).root == year.parent / "VOC2012" / "JPEGImages"


def test_a_run_explains_each_class_and_measures_its_boxes(year, tmp_path):
    given = [one for one in tiny_overrides(year, tmp_path / "run") if not one.startswith(("data", "model.classes"))]
    classes = tmp_path / "classes.txt"
    classes.write_text("cat\ndog\nperson\ntrain\nsofa\n")
    given += ["data=voc", f"data.root={year}", "data.split=trainval", f"model.classes={classes}", "model.output=sigmoid", "target=label"]
    (job,) = compose_jobs(given)
    folder = run_job(job)
    rows = folder.rows()
    explained = rows[["image_id", "target"]].drop_duplicates().groupby("image_id").target.apply(set).to_dict()
    # The picture whose only object is difficult shows nothing for certain.
    numbers = {"cat": 0, "dog": 1, "person": 2}
    assert explained == {
        f"{name}.jpg": {numbers[key] for key, difficult, *_ in objects if not difficult}
        for name, objects in VOC_OBJECTS.items()
        if name != "000004"
    }
    maps = pd.read_parquet(folder.path / "maps")
    share = maps[(maps.method == "constant") & (maps.target == 1)].set_index("index").region_fraction
    # Resized from 20x16 to 16x16: columns 1 to 8 of 20 hold 6.4 of 16 pixels, of which 6 have their centre inside.
    assert share[0] == pytest.approx(6 * 16 / 256) and maps.region_fraction.notna().all()


def test_the_command_says_a_wrong_split_in_one_sentence(year):
    ended = through_main("run", "model=digits_fc", "data=voc", f"data.root={year}", "data.split=vall", "out=nowhere")
    assert ended.returncode == 2 and ended.stderr.strip().endswith("data.split=vall is not a valid choice; did you mean 'val'?")


def test_wrong_names_of_classes_are_said(year, tmp_path):
    given = [one for one in tiny_overrides(year, tmp_path / "run") if not one.startswith(("data", "model.classes"))]
    (job,) = compose_jobs([*given, "data=voc", f"data.root={year}", "model.classes=[Dog,cats,a,b,c]", "target=label"])
    with pytest.raises(UserError, match=r"none of the 3 images has a label among the classes of .*; name them alike"):
        run_job(job)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("<name>", "<called>", "000004.xml has an object without a <name>"),
        ("<annotation>", '<annotation xmlns="http://example.org">', "not <annotation> as VOC's files do"),
        ("<difficult>1<", "<difficult>true<", "<difficult>true</difficult>: expected 0 or 1"),
    ],
)
def test_what_is_no_annotation_is_not_an_image_without_objects(year, old, new, says):
    file = year / "Annotations" / "000004.xml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new).replace("</name>", "</called>" if old == "<name>" else "</name>"))
    with pytest.raises(UserError, match=re.escape(says)):
        voc(str(year), split="trainval")
