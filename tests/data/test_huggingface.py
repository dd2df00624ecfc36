"""Hugging Face data sets, made and saved locally."""

import io
import logging

import datasets
import numpy as np
import pytest
from builders import encoded
from PIL import Image

from evalkit.data import huggingface
from evalkit.data.decode import UnreadableImage
from evalkit.data.huggingface import hugging_face
from evalkit.data.sources import ListedClass, choose
from evalkit.errors import UserError


@pytest.fixture
def saved(tmp_path):
    rng = np.random.default_rng(0)
    pictures = []
    for i in range(7):
        buffer, tag = io.BytesIO(), Image.Exif()
        tag[0x0112] = 6
        Image.fromarray(rng.integers(0, 256, (10 + i, 20, 3), dtype=np.uint8)).save(buffer, "JPEG", exif=tag.tobytes())
        pictures.append({"bytes": buffer.getvalue() if i != 3 else b"broken", "path": None})
    features = datasets.Features({"picture": datasets.Image(), "animal": datasets.ClassLabel(names=["cat", "dog"])})
    data = datasets.Dataset.from_dict({"picture": pictures, "animal": [0, 1, 0, 1, 0, 1, 1]}, features=features)
    datasets.DatasetDict({"validation": data}).save_to_disk(str(tmp_path / "set"))
    data.to_parquet(str(tmp_path / "parquet" / "validation.parquet"))
    return tmp_path


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["set", "parquet"])
def test_random_access_and_streams_agree(saved, streaming, kind):
    source = hugging_face(str(saved / kind), streaming=streaming)
    positions = choose(source, limit=7, sample=None, seed=0)
    assert [source.class_keys(i) for i in positions] == [(ListedClass(("cat", "dog")[i], i),) for i in (0, 1, 0, 1, 0, 1, 1)]
    assert [source.load(i).size for i in (0, 1, 5, 2)] == [(20, 10), (20, 11), (20, 15), (20, 12)]  # no EXIF rotation
    with pytest.raises(UnreadableImage):
        source.load(3)
    assert source.image_id(2) == f"{kind}/00000002"
    assert source.fingerprint == hugging_face(str(saved / kind), streaming=streaming).fingerprint


def test_mistakes(saved):
    with pytest.raises(UserError, match="did you mean 'validation'"):
        hugging_face(str(saved / "set"), split="validaton")
    with pytest.raises(UserError, match=r"no column 'pictur' in .*; did you mean 'picture'"):
        hugging_face(str(saved / "set"), image_column="pictur")
    with pytest.raises(UserError, match=r"column 'animal' of .* holds no pictures \(data.image_column\)"):
        hugging_face(str(saved / "set"), image_column="animal")
    with pytest.raises(UserError, match="cannot open the data set"):
        hugging_face(str(saved / "absent"))


def test_a_stream_of_unknown_length_needs_a_limit(saved):
    source = hugging_face(str(saved / "set"), streaming=True)
    if source.count is None:
        with pytest.raises(UserError, match="set limit=N"):
            choose(source, limit=None, sample=None, seed=0)
    assert choose(source, limit=3, sample=None, seed=0) == [0, 1, 2]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_row_without_a_picture_is_an_image_that_cannot_be_read(tmp_path, streaming):
    features = datasets.Features({"picture": datasets.Image()})
    rows = [None, {"bytes": b"", "path": None}, {"bytes": encoded(Image.new("RGB", (4, 4))), "path": None}]
    datasets.Dataset.from_dict({"picture": rows}, features=features).to_parquet(str(tmp_path / "validation.parquet"))
    source = hugging_face(str(tmp_path), streaming=streaming)
    assert source.fingerprint
    for position, says in enumerate(("holds no picture", "is empty")):
        with pytest.raises(UnreadableImage, match=says):
            source.load(position)
    assert source.load(2).size == (4, 4)


def test_data_sets_without_pictures(tmp_path):
    features = datasets.Features({"picture": datasets.List(datasets.Image())})
    datasets.Dataset.from_dict({"picture": [[]]}, features=features).save_to_disk(str(tmp_path / "lists"))
    with pytest.raises(UserError, match=r"column 'picture' of .* holds no pictures"):
        hugging_face(str(tmp_path / "lists"), image_column="picture")
    features = datasets.Features({"picture": datasets.Image()})
    datasets.Dataset.from_dict({"picture": []}, features=features).save_to_disk(str(tmp_path / "empty"))
    with pytest.raises(UserError, match="has no rows"):
        hugging_face(str(tmp_path / "empty"))


def test_the_hubs_retries_are_silent_and_its_logger_is_as_before(monkeypatch, caplog):
    hub = logging.getLogger("huggingface_hub.utils._http")
    before = logging.getLogger("huggingface_hub").level

    def unreachable(*_, **__):
        hub.warning("Retrying in 1s")
        raise ConnectionError("Couldn't reach the hub")

    monkeypatch.setattr(huggingface, "load_dataset", unreachable)
    with pytest.raises(UserError, match="cannot open the data set 'no/such', split 'validation': Couldn't reach the hub"):
        hugging_face("no/such")
    assert caplog.text == "" and logging.getLogger("huggingface_hub").level == before


PICTURE = {"bytes": encoded(Image.new("RGB", (4, 4))), "path": None}


@pytest.fixture
def made(tmp_path):
    def save(kinds, **rows):
        path = tmp_path / "-".join(rows)
        datasets.Dataset.from_dict(rows, features=datasets.Features(kinds)).to_parquet(str(path / "validation.parquet"))
        return str(path)

    return save


def test_of_several_columns_of_pictures_the_usual_name_decides(made):
    picture = datasets.Image()
    source = hugging_face(made({"mask": picture, "image": picture}, mask=[PICTURE], image=[PICTURE]))
    assert source.image == "image" and source.columns.facts == "pictures from column 'image', no labels"
    depth = made({"mask": picture, "depth": picture}, mask=[PICTURE], depth=[PICTURE])
    with pytest.raises(UserError, match=r"2 columns of pictures: set data.image_column to one of mask, depth"):
        hugging_face(depth)
    assert hugging_face(depth, image_column="depth").image == "depth"


def test_proposed_are_columns_that_can_be_taken(made):
    kinds = {"images": datasets.List(datasets.Image()), "label": datasets.Value("string")}
    path = made(kinds, images=[[PICTURE]], label=["cat"])
    for given in (None, "images"):
        with pytest.raises(UserError, match=r"one picture in each row.*'images' holds lists of pictures"):
            hugging_face(path, image_column=given)
    kinds = {"label": datasets.Value("string"), "data": datasets.Value("binary"), "file": datasets.Value("string")}
    with pytest.raises(UserError, match=r"no image column in .*: set data.image_column to one of data, file$"):
        hugging_face(made(kinds, label=["cat"], data=[PICTURE["bytes"]], file=["a.png"]))


def test_columns_of_labels(made):
    kind, picture = datasets.ClassLabel(names=["a", "b"]), datasets.Image()
    source = hugging_face(made({"i": picture, "coarse": kind, "fine": kind}, i=[PICTURE], coarse=[0], fine=[1]))
    assert source.label == "coarse" and "data.label_column=fine" in source.columns.doubt
    source = hugging_face(made({"i": picture, "fine": kind, "label": kind}, i=[PICTURE], fine=[0], label=[1]))
    assert source.label == "label" and not source.columns.doubt
    path = made({"i": picture, "id": datasets.Value("int64"), "label": datasets.Value("bool")}, i=[PICTURE], id=[7], label=[True])
    assert "data.label_column=label (or another of label, id)" in hugging_face(path).columns.no_labels
    (key,) = hugging_face(path, label_column="label").class_keys(0)
    assert key == 1 and type(key) is int
    path = made({"i": picture, "objects": {"category": kind}}, i=[PICTURE], objects=[{"category": 1}])
    with pytest.raises(UserError, match=r"column 'objects' of .* holds no labels"):
        hugging_face(path, label_column="objects")
