"""A layer is proposed at the size of the images that are explained, where the configuration does not fix it."""

import pytest
import yaml
from builders import fresh
from commands import through_main
from PIL import Image

from evalkit.cli.listing import layers
from evalkit.errors import UserError

NET = ["model=custom", "model.factory=builders.TinyFC", "model.layer=auto"]  # it takes 16 x 16 pixels and no other size


@pytest.fixture
def photos(tmp_path):
    """Six pictures of 16 x 16 pixels in two classes."""
    for name in "ab":
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(fresh().integers(0, 256, (16, 16, 3), dtype="uint8")).save(tmp_path / "photos" / name / f"{number}.png")
    return tmp_path / "photos"


def test_a_run_proposes_at_the_size_of_its_images(photos, tmp_path):
    words = [*NET, "data=image_folder", f"data.root={photos}", "method=[centre]", "workers=0"]
    done = through_main("run", *words, f"out={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    assert "model.layer=features.1: the last maps (16 x 16) through which all data passes" in done.stderr
    assert yaml.safe_load((tmp_path / "run" / "run.yaml").read_text())["model"]["layer"] == "features.1"
    named = through_main("run", *words, "model.layer=features.1", f"out={tmp_path / 'run'}")
    assert "every shard was done before" in named.stderr + named.stdout  # one identity, whoever names the layer


def test_a_shorter_side_keeps_the_proportions_of_the_images(photos, tmp_path):
    for file in photos.rglob("*.png"):
        Image.open(file).resize((48, 32)).save(file)
    words = ["model=custom", "model.factory=builders.TinyGAP", "model.layer=auto", "model.resize=20", "data=image_folder"]
    done = through_main("run", *words, f"data.root={photos}", "method=[centre]", "workers=0", f"out={tmp_path / 'run'}")
    assert "(20 x 30)" in done.stderr and done.returncode == 0, done.stderr


def test_a_photograph_is_explained_at_its_own_size(photos, tmp_path):
    done = through_main("explain", str(photos / "a" / "0.png"), *NET, "method=[centre]", "--out", str(tmp_path / "explained"))
    assert done.returncode == 0, done.stderr


def test_a_list_of_layers_names_the_size_to_set():
    with pytest.raises(UserError, match=r"cannot process a 224x224 image: .*; it takes 64x64: .* for example 'model.resize=\[64,64\]'"):
        layers("custom", ["model.factory=theirs.for_64"], None)
    table = layers("custom", ["model.factory=theirs.for_64", "model.resize=[64,64]"], None)
    assert "for images of 64 x 64" in str(table.title) and "features.1" in table.columns[0].cells
