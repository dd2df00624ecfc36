"""ImageNet val in its usual layouts, in small, with a development kit made by scipy."""

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision.models import VGG16_Weights

from evalkit.data.imagenet import imagenet, wnids
from evalkit.errors import UserError

WNIDS = ["n02000000", "n01000000", "n03000000"]  # by ILSVRC2012_ID, which is not the order of the wnids
TRUTH = [2, 3, 1, 2, 3, 1]


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    root = tmp_path / "val_images"
    root.mkdir()
    for i in range(1, 7):
        Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(root / f"ILSVRC2012_val_{i:08d}.JPEG", quality=95)
    return root


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    kit = tmp_path / "kit" / "ILSVRC2012_devkit_t12"
    (kit / "data").mkdir(parents=True)
    synsets = np.array([(i, w) for i, w in enumerate(WNIDS, 1)], dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")])
    savemat(kit / "data" / "meta.mat", {"synsets": synsets})
    (kit / "data" / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(map(str, TRUTH)) + "\n")
    return kit


EXPECTED = [WNIDS[t - 1] for t in TRUTH]


def keys(source) -> list:
    return [str(*source.class_keys(i)) for i in range(len(source))]


def test_flat_folder_with_devkit_folder_archive_or_list(flat, devkit, tmp_path):
    assert keys(imagenet(str(flat), devkit=str(devkit))) == EXPECTED
    archive = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(devkit, devkit.name)
    assert keys(imagenet(str(flat))) == EXPECTED  # found beside the images
    archive.unlink()
    listed = tmp_path / "labels.csv"
    listed.write_text("file,wnid,index\n" + "".join(f"ILSVRC2012_val_{i:08d}.JPEG,{w},0\n" for i, w in enumerate(EXPECTED, 1)))
    assert keys(imagenet(str(flat), labels=str(listed))) == EXPECTED
    kaggle = tmp_path / "LOC_val_solution.csv"
    kaggle.write_text("ImageId,PredictionString\n" + "".join(f"ILSVRC2012_val_{i:08d},{w} 1 2 3 4 \n" for i, w in enumerate(EXPECTED, 1)))
    assert keys(imagenet(str(flat))) == EXPECTED


def test_class_folders_with_and_without_val(flat, tmp_path):
    root = tmp_path / "data" / "val"
    for i, wnid in enumerate(EXPECTED, 1):
        (root / wnid).mkdir(parents=True, exist_ok=True)
        shutil.copy(flat / f"ILSVRC2012_val_{i:08d}.JPEG", root / wnid)
    for given in (root, root.parent):
        source = imagenet(str(given))
        assert keys(source) == sorted(EXPECTED)
        assert source.image_id(0) == f"{WNIDS[1]}/ILSVRC2012_val_00000001.JPEG"


def test_tar_is_read_without_unpacking(flat, devkit, tmp_path):
    tar = tmp_path / "kit" / "ILSVRC2012_img_val.tar"
    with tarfile.open(tar, "w") as archive:
        for file in sorted(flat.iterdir(), reverse=True):
            archive.add(file, file.name)
    inside, outside = imagenet(str(tar)), imagenet(str(flat), devkit=str(devkit))
    assert keys(inside) == keys(imagenet(str(tar.parent))) == EXPECTED
    for i in range(6):
        assert inside.image_id(i) == outside.image_id(i)
        assert np.array_equal(np.asarray(inside.load(i)), np.asarray(outside.load(i)))


def test_what_is_missing_is_said(flat, tmp_path):
    with pytest.raises(UserError, match="labels are needed"):
        imagenet(str(flat))
    (tmp_path / "other" / "cats").mkdir(parents=True)
    shutil.copy(flat / "ILSVRC2012_val_00000001.JPEG", tmp_path / "other" / "cats")
    with pytest.raises(UserError, match="is not ImageNet val"):
        imagenet(str(tmp_path / "other"))
    with pytest.raises(UserError, match=r"set data\.root"):
        imagenet(str(tmp_path / "absent"))


def test_wnids_are_the_thousand_in_torchvisions_order():
    assert len(set(wnids())) == 1000 and wnids() == sorted(wnids())
    names = VGG16_Weights.IMAGENET1K_V1.meta["categories"]
    known = {"n01440764": "tench", "n02123159": "tiger cat", "n07920052": "espresso", "n15075141": "toilet tissue"}
    assert {w: names[wnids().index(w)] for w in known} == known


def test_damaged_development_kits_and_archives(flat, devkit, tmp_path):
    truth = devkit / "data" / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text(truth.read_text(), encoding="utf-16")
    assert keys(imagenet(str(flat), devkit=str(devkit))) == EXPECTED
    for text, says in (("1\n9\n", "holds '9', which is no ILSVRC2012_ID"), ("1\nx\n", "holds 'x'"), ("1\n\0\n", "line 2: a NUL byte")):
        truth.write_text(text)
        with pytest.raises(UserError, match=says):
            imagenet(str(flat), devkit=str(devkit))
    (devkit / "data" / "meta.mat").write_bytes(b"x" * 200)
    with pytest.raises(UserError, match="is not that of ILSVRC2012"):
        imagenet(str(flat), devkit=str(devkit))
    archive = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    archive.write_bytes(b"x" * 2000)
    with pytest.raises(UserError, match="is no complete tar archive"):
        imagenet(str(flat), devkit=str(archive))
