"""Runs of networks that take other images than RGB, against a plain loop over files in float64; pairings that cannot be."""

import json
import re

import numpy as np
import pytest
import torch
from builders import TinyChannels, encoded, fresh, save_pictures, tiny_overrides
from commands import through_main
from PIL import Image
from torch.nn.functional import interpolate

from evalkit.config.compose import compose_jobs
from evalkit.errors import UserError
from evalkit.evaluation.session import open_session
from evalkit.launch.run import run_job
from evalkit.photos.app import answers
from evalkit.photos.app.explainer import Explainer, Network, View
from evalkit.photos.app.offer import open_album, open_offer

METHODS = "ablation_cam,grad_cam,random,constant,centre,edges,occlusion,gradient,guided_backprop,integrated_gradients"
GREY = ["model.channels=1", "model.mean=[0.5]", "model.std=[0.5]"]
BANDS = ["model.channels=5", "+model.args.channels=5", "model.mean=[0.1,0.3,0.5,0.7,0.9]", "model.std=[0.5,0.4,0.3,0.2,0.1]"]


@pytest.fixture
def greys(tmp_path):
    """Grey PNGs of 96x96 pixels, half of them of 16 bits."""
    for name in "ab":
        (tmp_path / "greys" / name).mkdir(parents=True)
        for i in range(2):
            deep = fresh().integers(0, 65536, (96, 96), dtype=np.uint16)
            Image.fromarray(deep if i else (deep >> 8).astype(np.uint8)).save(tmp_path / "greys" / name / f"{i}.png")
    return tmp_path / "greys"


@pytest.fixture
def bands(tmp_path):
    """Arrays of five channels, 40x56, from -100 to 900."""
    for name in "ab":
        (tmp_path / "bands" / name).mkdir(parents=True)
        for i in range(2):
            np.save(tmp_path / "bands" / name / f"{i}.npy", fresh().integers(-100, 900, (5, 40, 56)).astype(np.int16))
    return tmp_path / "bands"


def overrides(root, out, *more: str) -> list[str]:
    (out.parent / "classes.txt").write_text("a\nb\n")
    return [
        "model=custom", "model.factory=builders.TinyChannels", "model.layer=features", f"model.classes={out.parent / 'classes.txt'}",
        f"data.root={root}", f"out={out}", "workers=0", "batch_size=3", *more,
    ]  # fmt: skip


def blurred(image: np.ndarray) -> np.ndarray:
    """The blur of RISE, tap by tap: 11 taps of a Gaussian of 5 pixels, the image mirrored at its edges."""
    taps = np.exp(-(np.arange(-5, 6) ** 2) / 50)
    taps /= taps.sum()
    _, height, width = image.shape
    padded = np.pad(image, ((0, 0), (5, 5), (5, 5)), mode="reflect")
    rows = sum(tap * padded[:, k : k + height] for k, tap in enumerate(taps))
    return sum(tap * rows[:, :, k : k + width] for k, tap in enumerate(taps))


def check_by_hand(config, folder, load, mean, std) -> int:
    """Mask every image by its stored map, pixel by pixel, and score it with the whole network in float64; return the number of rows."""
    torch.manual_seed(config.model.seed)
    network = TinyChannels(config.model.channels).double().eval()
    mean, std = (np.array(values)[:, None, None] for values in (mean, std))

    def scores(image: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy((image - mean) / std)[None])[0].softmax(0).numpy()

    maps = {(row["index"], row["method"]): row for row in folder.stored_maps(0)[0].to_pylist()}
    rows = folder.rows()
    for row in rows.itertuples():
        image, stored = load(row.image_id), maps[row.index, row.method]
        heat = torch.tensor(stored["map"]).view(1, 1, stored["height"], stored["width"])
        large = interpolate(heat, image.shape[1:], mode="bilinear", align_corners=False)[0, 0]
        order = np.argsort(-large.clamp(heat.min(), heat.max()).flatten().numpy(), kind="stable")
        kept = np.zeros(order.size, dtype=bool)
        kept[order[: round(row.top_percent / 100 * order.size)]] = True
        filler = {"black": np.zeros_like(image), "mean": np.broadcast_to(mean, image.shape), "blur": blurred(image)}[row.fill]
        masked = np.where(kept.reshape(image.shape[1:]), image, filler)
        assert row.prob_full == pytest.approx(scores(image)[row.target], abs=1e-5), row
        assert row.prob_masked == pytest.approx(scores(masked)[row.target], abs=1e-5), row
    return len(rows)


def computed(root, out, *more: str):
    (job,) = compose_jobs(
        [*overrides(root, out, *more), "maps=store", f"method=[{METHODS}]", "method.integrated_gradients.steps=4",
         "method.occlusion.window=16", "protocol.top_percent=[20,50]", "protocol.fill=[black,mean,blur]"]
    )  # fmt: skip
    return job.config, run_job(job)


def shown(out, capfd) -> None:
    """Tables, report and its gallery of a run."""
    for words in (["tables", str(out), "--no-figures"], ["report", str(out)]):
        done = through_main(*words)
        assert done.returncode == 0, done.stderr
    page = (out / "report.html").read_text()
    assert "data:image/webp" in page and "No photographs" not in page and "No maps" not in page


def test_grey_pictures_of_8_and_16_bits(greys, tmp_path, capfd):
    config, folder = computed(greys, tmp_path / "run", *GREY, "model.resize=[96,96]", "data=image_folder")

    def load(name: str) -> np.ndarray:
        array = np.asarray(Image.open(greys / name))
        return (array / (65535 if name.endswith("1.png") else 255))[None].astype(np.float64)

    assert check_by_hand(config, folder, load, [0.5], [0.5]) == 4 * 10 * 6
    shown(tmp_path / "run", capfd)
    chosen = [word for word in overrides(greys, tmp_path / "run", *GREY) if word.startswith("model")]
    pictures = [str(greys / "a" / f"{i}.png") for i in range(2)]
    done = through_main("explain", *pictures, *chosen, f"method=[{METHODS}]", "--out", str(tmp_path / "explained"))
    assert done.returncode == 0, done.stderr
    for i in range(2):
        with Image.open(tmp_path / "explained" / f"{i}-explained.png") as drawn:
            first = np.asarray(drawn.convert("RGB"))[110:350:7, 60:300:7].astype(int)
        assert (first == first[..., :1]).all() and first.std() > 20  # the photograph is shown, in grey
    done = through_main("figure", "methods", pictures[1], *chosen, "--out", str(tmp_path / "figures"))
    assert done.returncode == 0 and (tmp_path / "figures" / "1-methods.png").is_file(), done.stderr


def test_arrays_of_five_channels_that_are_not_square(bands, tmp_path, capfd):
    config, folder = computed(bands, tmp_path / "run", *BANDS, "data=arrays", "data.value_range=[0,800]")

    def load(name: str) -> np.ndarray:
        return np.clip(np.load(bands / name).astype(np.float64) / 800, 0, 1)

    assert check_by_hand(config, folder, load, config.model.mean, config.model.std) == 4 * 10 * 6
    shown(tmp_path / "run", capfd)
    words = [*overrides(bands, tmp_path / "run", *BANDS), "data=arrays", "data.value_range=[0,800]"]
    done = through_main("explain", str(bands / "a" / "0.npy"), *words, f"out={tmp_path / 'explained'}")
    assert done.returncode == 0 and (tmp_path / "explained" / "0-explained.png").is_file(), done.stderr
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["identity"]["model"]["channels"] == 5


@pytest.mark.parametrize("resize", ["[64,80]", "null"])
def test_rectangles_of_one_channel(tmp_path, resize):
    """Odd sizes too; a picture of another size is an error row."""
    (tmp_path / "set" / "a").mkdir(parents=True)
    for i in range(3):
        Image.fromarray(fresh().integers(0, 65536, (67, 91) if i < 2 else (67, 90), dtype=np.uint16)).save(
            tmp_path / "set" / "a" / f"{i}.tif"
        )
    (job,) = compose_jobs(
        [*overrides(tmp_path / "set", tmp_path / "run", *GREY, "data=image_folder"), f"model.resize={resize}", "method=[centre]"]
    )
    rows = run_job(job).rows()
    assert list(rows.groupby("index").status.first()) == ["ok", "ok", "error" if resize == "null" else "ok"]


def test_grey_pictures_on_an_rgb_network_are_rgb_as_before(tmp_path):
    """The same network on grey pictures and on the same pictures saved in colour: the same numbers to the last digit."""
    rows = []
    for name in ("grey", "colour"):
        save_pictures(tmp_path / name / "set")
        for file in (tmp_path / name / "set").rglob("*.png"):
            with Image.open(file) as picture:
                grey = picture.convert("L")
            (grey if name == "grey" else grey.convert("RGB")).save(file)
        (job,) = compose_jobs(tiny_overrides(tmp_path / name / "set", tmp_path / name / "run"))
        rows.append(run_job(job).rows())
    assert rows[0].equals(rows[1])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["data=image_folder"], r"it takes 1-channel images: set model\.channels=1 model\.mean=\[0\.5\] model\.std=\[0\.5\]"),
        (["data=image_folder", "model.channels=1"], r"model\.channels=1 needs one number in model\.mean and model\.std, not 3: set those"),
        (["data=image_folder", "model.channels=1", "model.mean=[0.5]"], r"in model\.std, not 3: .* as in model\.std=\[0\.5\]$"),
        (
            ["data=image_folder", *GREY, "+model.args.channels=3"],
            r"it takes 3-channel images: set model\.channels=3 model\.mean=\[0\.5,0\.5,0\.5\] model\.std=\[0\.5,0\.5,0\.5\]",
        ),
        (["data=image_folder", "+model.args.channels=7"], r"it takes 7-channel images: set model\.channels=7"),
        (["data=image_folder", *BANDS], r"a/0\.png: a picture has 1, 3 or 4 channels, and model\.channels=5: save arrays"),
        (["data=arrays", *GREY, "model.resize=[32,32]"], r"a/0\.npy: its array holds int16 from"),
        (["data=arrays", *GREY, "data.value_range=[0,800]"], r"a/0\.npy: its array \(5, 40, 56\) has 5 channels, and model\.channels=1"),
        (["data=arrays", *BANDS, "model.resize=[32,32]"], r"none of the images tried fits the settings: a/0\.npy: its array holds"),
    ],
)  # fmt: skip
def test_pairings_that_cannot_be(greys, bands, tmp_path, settings, says):
    root = bands if "data=arrays" in settings else greys
    with pytest.raises(UserError, match=says) as error:
        open_session(compose_jobs(overrides(root, tmp_path / "run", *settings))[0].config)
    assert "\n" not in str(error.value) and not re.search(r"Traceback", str(error.value))


@pytest.mark.parametrize("data", ["image_folder", "arrays"])
def test_decoding_on_a_gpu_is_for_rgb_pictures(greys, bands, tmp_path, monkeypatch, data):
    monkeypatch.setattr("evalkit.evaluation.session.open_device", lambda *_: torch.device("cuda"))
    settings = GREY if data == "image_folder" else ["+model.args.channels=3"]
    says = {
        "image_folder": "decode=gpu decodes to the 3 channels of RGB, and model.channels=1",
        "arrays": "data=arrays holds no encoded images",
    }
    with pytest.raises(UserError, match=says[data]):
        open_session(
            compose_jobs(overrides(greys if settings == GREY else bands, tmp_path / "run", f"data={data}", *settings, "decode=gpu"))[
                0
            ].config
        )


def test_the_page_shows_grey_pictures_and_arrays(greys, bands, tmp_path):
    """An upload that does not have the network's channels is refused in one sentence."""
    upload = encoded(Image.fromarray(fresh().integers(0, 65536, (40, 60), dtype=np.uint16)))
    for settings in ([*overrides(greys, tmp_path / "run", *GREY), "data=image_folder"],
                     [*overrides(bands, tmp_path / "run", *BANDS), "data=arrays", "data.value_range=[0,800]"]):  # fmt: skip
        offer = open_offer([*settings, "method=[grad_cam]"], None)
        explainer = Explainer(offer, open_album(offer.config))
        model, grey = offer.config.model.name, offer.config.model.channels == 1
        assert len(explainer.album.samples) == 4
        shown = answers.view(explainer, View(model=model, photo="s1"))
        assert (shown["height"], shown["width"]) == ((96, 96) if grey else (40, 56))
        assert {layer["name"] for layer in answers.network(explainer, Network(model=model))["layers"]} >= {"features", "features.0"}
        asked = View(model=model, photo=explainer.album.add(upload, "mine.png")[0].key)
        if grey:
            assert answers.view(explainer, asked)["width"] == 60
        else:
            with pytest.raises(UserError, match=r"cannot read this picture: a picture has 1, 3 or 4 channels, and model\.channels=5"):
                answers.view(explainer, asked)
