"""Boxes as people keep them, and where they end up in the network's input."""

import re
from pathlib import Path

import numpy as np
import pytest
from builders import REAL, fresh_random, needs_real
from PIL import Image, ImageDraw

from evalkit.data.boxes import Box, match_boxes, read_boxes, to_input
from evalkit.data.decode import Preprocess
from evalkit.data.digits import Digits
from evalkit.errors import UserError

ANNOTATION = """<annotation><folder>val</folder><filename>ILSVRC2012_val_00000001</filename>
<size><width>500</width><height>375</height><depth>3</depth></size>
<object><name>n01751748</name><bndbox><xmin>111</xmin><ymin>108</ymin><xmax>441</xmax><ymax>193</ymax></bndbox></object>
<object><name>n01440764</name><bndbox><xmin>0</xmin><ymin>0</ymin><xmax>500</xmax><ymax>375</ymax></bndbox></object></annotation>"""


def boxes_of(boxes, image):
    return match_boxes(boxes, [image], Path("boxes.csv")).of_image.get(image, [])


def agrees(white: np.ndarray, low: float, high: float) -> bool:
    """White are the pixels whose centres lie between the edges; close to one, the filter's own border decides."""
    centres = np.arange(len(white)) + 0.5
    clear = np.minimum(abs(centres - low), abs(centres - high)) > 0.2
    return np.array_equal(white[clear], ((low < centres) & (centres < high))[clear])


@pytest.mark.parametrize("trial", range(60))
def test_to_input_is_where_the_pixels_go(trial):
    """White stripes, resized and cropped as pixels, against boxes, resized and cropped as numbers."""
    draw = fresh_random()
    width, height = draw.randint(20, 150), draw.randint(20, 150)
    resize = draw.choice([None, draw.randint(20, 120), (draw.randint(20, 120), draw.randint(20, 120))])
    crop = draw.choice([None, draw.randint(10, 140)])
    preprocess = Preprocess(resize, crop)
    # At least a third of the side: thin stripes fade below half white when shrunk.
    x1, y1 = draw.randint(0, width - width // 3 - 1), draw.randint(0, height - height // 3 - 1)
    x2, y2 = draw.randint(x1 + width // 3 + 1, width), draw.randint(y1 + height // 3 + 1, height)
    stripes = (x1, 0, x2, height), (0, y1, width, y2)
    found = []
    for edges, upright in zip(stripes, (True, False), strict=True):
        image = Image.new("RGB", (width, height))
        ImageDraw.Draw(image).rectangle((edges[0], edges[1], edges[2] - 1, edges[3] - 1), fill="white")
        pixels = preprocess(image)[0].numpy()
        white = (pixels > 127.5).any(axis=0 if upright else 1)
        box = to_input(Box("a", *edges, width, height), preprocess)
        about = f"{width}x{height}, resize {resize}, crop {crop}, {edges} -> {box}"
        found.append(box)
        if box is None:
            assert not white.any(), about
            continue
        assert (box.height, box.width, box.key) == (*pixels.shape, "a"), about
        assert agrees(white, *((box.x1, box.x2) if upright else (box.y1, box.y2))), about
    both = to_input(Box("a", x1, y1, x2, y2, width, height), preprocess)
    across, down = found
    if across is None or down is None:
        assert both is None
    else:
        assert both == Box("a", across.x1, down.y1, across.x2, down.y2, across.width, across.height)


def test_nothing_left_and_borders_stay_outside():
    wide = Box(None, 0, 0, 10, 50, 200, 50)
    assert to_input(wide, Preprocess(None, 50)) is None
    beyond = to_input(Box(None, -1, -1, 31, 31, 30, 30), Preprocess(None, 40))
    assert beyond == Box(None, 5, 5, 35, 35, 40, 40)  # the image itself, not its black borders


def test_a_resized_copy_with_the_original_annotations():
    box = Box("a", 100, 50, 300, 200, 500, 400)
    found = to_input(box, Preprocess(None, None), size=(100, 125))
    assert found == Box("a", 25, 12.5, 75, 50, 125, 100)


def test_list_with_and_without_classes(tmp_path):
    listed = tmp_path / "boxes.csv"
    listed.write_text("file,w,h,x1,y1,x2,y2\na/1.png,20,10,1,2,3.5,4\na/1.png,20,10,0,0,20,10\nb/1.png,9,9,1,1,2,2\n")
    found = read_boxes(listed)
    assert found["a/1.png"] == [Box(None, 1, 2, 3.5, 4, 20, 10), Box(None, 0, 0, 20, 10, 20, 10)]
    assert boxes_of(found, "b/1.png") == [Box(None, 1, 1, 2, 2, 9, 9)] and boxes_of(found, "c/1.png") == []
    listed.write_text("x1,y1,x2,y2,w,h,wnid,file\n1,1,2,2,9,9,n01440764,1.png\n1,1,2,2,9,9,,2.png\n")
    found = read_boxes(listed)
    assert boxes_of(found, "n01440764/1.png")[0].key == "n01440764" and found["2.png"][0].key is None
    listed.write_text("file,index,w,h,x1,y1,x2,y2\n1.png,7,9,9,1,1,2,2\n")
    assert read_boxes(listed)["1.png"][0].key == 7


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("file,w,h,x1,y1,x2\n", "lacks the column y2"),
        ("file,w,h,x1,y1,x2,y2\n", "lists no boxes"),
        ("file,w,h,x1,y1,x2,y2\na,9,9,1,1,2,2\na,9,9,1,one,2,2\n", "line 3: w, h, x1, y1, x2, y2 must be numbers"),
        ("file,w,h,x1,y1,x2,y2\na,9,9,1,1\n", "line 2: w, h, x1, y1, x2, y2 must be numbers"),
        ("file,w,h,x1,y1,x2,y2\na,9,9,3,1,2,2\n", "line 2: the edges 3 1 2 2 .* are no box"),
        ("file,w,h,x1,y1,x2,y2\na,9,9,1,2,2,2\n", "line 2: the edges 1 2 2 2 .* are no box"),
        ("file,w,h,x1,y1,x2,y2\na,9,9,nan,1,2,2\n", "line 2: the edges nan 1 2 2 .* are no box"),
        ("file,w,h,x1,y1,x2,y2\na,0,9,0,1,2,2\n", "line 2: the edges 0 1 2 2 .* are no box"),
        ("file,w,h,x1,y1,x2,y2\na,9,9,0,1,200,2\n", "line 2: the box 0 1 200 2 extends beyond its image of 9x9"),
        ("file,w,h,x1,y1,x2,y2\na,9,9,0,0.1,0.5,1\nb,9,9,0,0,1,1\n", "no edge is above 1 .*; multiply x1 and x2 by the width"),
        ("file,w,h,x1,y1,x2,y2,index\na,9,9,0,1,2,2,cat\n", "line 2: index must be a whole number"),
        ("\x00\xff", "line 1: the byte 0xff is not UTF-8; save the file as UTF-8"),
    ],
)  # fmt: skip
def test_bad_lists(tmp_path, text, complaint):
    listed = tmp_path / "boxes.csv"
    listed.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=complaint):
        read_boxes(listed)


def test_small_boxes_and_frames_of_one_pixel_are_no_shares(tmp_path):
    listed = tmp_path / "boxes.csv"
    for rows in ("a,9,9,0,0,1,1\nb,9,9,0,0,2,1\n", "a,1,1,0,0.5,1,1\n"):
        listed.write_text("file,w,h,x1,y1,x2,y2\n" + rows)
        assert "a" in read_boxes(listed)


def test_names_are_matched_by_path_before_file_name():
    box = [Box(None, 0, 0, 5, 5, 9, 9)]
    other = [Box(None, 1, 1, 5, 5, 9, 9)]
    images = ["dog/0.png", "./fish/0.png", "saw/1.png", "top.png"]
    listed = {"dog\\0.png": box, " fish/0.png ": box, "1": other, "saw/1.png": box, "typo.png": box}
    matched = match_boxes(listed, images, Path("boxes.csv"))
    assert matched.of_image == {"dog/0.png": box, "./fish/0.png": box, "saw/1.png": box} and matched.unmatched == ["typo.png"]
    assert match_boxes({"top.png": box, "./top.png": other}, images, Path("boxes.csv")).of_image == {"top.png": box + other}
    assert match_boxes({"dog\\0.png": box}, ["dog\\0.png"], Path("boxes.csv")).of_image == {"dog\\0.png": box}
    for name in ("0.png", "0"):
        with pytest.raises(UserError, match=rf"boxes.csv: '{name}' may be dog/0.png or ./fish/0.png; write the path below data.root"):
            match_boxes({name: box}, images, Path("boxes.csv"))


def test_annotations_of_one_name_in_several_folders(tmp_path):
    for name in ("dog", "fish"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.xml").write_text(ANNOTATION.replace("n01751748", name))
    matched = match_boxes(read_boxes(tmp_path), ["dog/0.png", "fish/0.png"], tmp_path)
    assert [matched.of_image[f"{name}/0.png"][0].key for name in ("dog", "fish")] == ["dog", "fish"]


def test_imagenets_annotations(tmp_path):
    (tmp_path / "val").mkdir()
    (tmp_path / "val" / "ILSVRC2012_val_00000001.xml").write_text(ANNOTATION)
    found = boxes_of(read_boxes(tmp_path), "n01751748/ILSVRC2012_val_00000001.JPEG")
    assert found == [Box("n01751748", 111, 108, 441, 193, 500, 375), Box("n01440764", 0, 0, 500, 375, 500, 375)]


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [("<annotation>", "is no XML"), (ANNOTATION.replace("111", "x"), "must be numbers"), (ANNOTATION.replace("441", "11"), "are no box"),
     (re.sub("<size>.*</size>", "", ANNOTATION), "must be numbers")],
)  # fmt: skip
def test_bad_annotations(tmp_path, broken, complaint):
    (tmp_path / "bad.xml").write_text(broken)
    with pytest.raises(UserError, match=complaint) as raised:
        read_boxes(tmp_path)
    assert "bad.xml" in str(raised.value)


def test_absent(tmp_path):
    with pytest.raises(UserError, match="expected a CSV"):
        read_boxes(tmp_path / "boxes.csv")
    with pytest.raises(UserError, match="no annotations in"):
        read_boxes(tmp_path)


def test_digits_have_one_named_box():
    digits = Digits()
    (box,) = digits.boxes(3)
    assert (box.x1, box.y1, box.x2, box.y2) == digits.box(3) and (box.key, box.width) == (digits.class_keys(3)[0], 64)


@needs_real
@pytest.mark.parametrize("name", ["coco256", "imagenet_val100", "imagenet_val_acuity", "imagenette224"])
def test_real_lists_refer_to_the_stored_images(name):
    for file, boxes in list(read_boxes(REAL / name / "boxes.csv").items())[:40]:
        with Image.open(REAL / name / "images" / file) as image:
            assert {(box.width, box.height) for box in boxes} == {image.size}
