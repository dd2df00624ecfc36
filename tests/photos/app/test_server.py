"""The app's answers are those of a plain computation, and its door is shut to everybody else's pages."""

import base64
import io
import json
import re
import socket
import struct
import zlib
from functools import cache
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient
from theirs import noted as calls

from evalkit import Probe, methods
from evalkit.cli.app import serve
from evalkit.config.choices import choices
from evalkit.config.compose import compose_jobs
from evalkit.data.digits import Digits
from evalkit.errors import UserError
from evalkit.models import zoo
from evalkit.models.split import SplitModel
from evalkit.photos.app.album import MOST_BYTES, UPLOADS, Album
from evalkit.photos.app.explainer import Explainer
from evalkit.photos.app.offer import Offer, open_album, open_offer
from evalkit.photos.app.server import TOKEN, application
from evalkit.protocol import upsample

HERE = "http://127.0.0.1:8421"
VIEW = {"photo": "s3", "model": "digits_fc"}
OWN = [f"+method.{name}._target_=theirs.noted_{name}" for name in ("counted", "failing", "nan_map", "vandal")]


def make_explainer(*overrides: str) -> Explainer:
    offer = open_offer(["limit=6", *overrides], None)
    return Explainer(offer, open_album(offer.config))


def opened(explainer: Explainer) -> TestClient:
    client = TestClient(application(explainer, {"my-machine"}), base_url=HERE)
    client.headers[TOKEN] = data_of(client)["token"]
    return client


def data_of(client: TestClient) -> dict:
    found = re.search(r'id="data">(.*?)</script>', client.get("/").text, re.DOTALL)
    return json.loads(found[1])


@pytest.fixture(scope="module")
def client():
    return opened(make_explainer(*OWN))


def request_of(*names: str, select="keep_top", top=20, fill="black", heat=True, **view) -> dict:
    point = {"select": select, "top_percent": None if select == "soft" else top, "fill": fill}
    return {"view": {**VIEW, **view}, "methods": list(names), "point": point, "heat": heat}


def image_of(data_uri: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(data_uri.partition(",")[2]))))


def png(size=(64, 64), image: Image.Image | None = None, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    (image or Image.new("RGB", size, "teal")).save(file, kind, **options)
    return file.getvalue()


@cache
def plain_network():
    """The network as torch alone runs it, on images in [0,1]."""
    config = compose_jobs(["model=digits_fc"])[0].config.model
    module = zoo.build(config)[0].eval()

    def logits(images):
        with torch.no_grad():
            return module((images - 0.5) / 0.5).double()

    return config, module, logits


def canvas(position: int) -> torch.Tensor:
    return torch.from_numpy(np.array(Digits().load(position))).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize("fill", ["black", "mean"])
@pytest.mark.parametrize("top", [0, 0.5, 20, 37, 100])
@pytest.mark.parametrize("select", ["keep_top", "remove_top"])
def test_scores_are_those_of_a_plain_computation(client, select, top, fill):
    config, module, logits = plain_network()
    image, target = canvas(3), 7
    net = SplitModel(module, config.layer, mean=config.mean, std=config.std)
    answer = client.post("/explain", json=request_of("ablation_cam", "grad_cam", select=select, top=top, fill=fill, target=target)).json()
    assert answer["pixels"] == 64 * 64
    for name in ("ablation_cam", "grad_cam"):
        saliency = upsample(getattr(methods, name)(Probe(net, image, [target])), (64, 64))[0].numpy().ravel()
        k = round(top / 100 * saliency.size)
        keep = np.zeros(saliency.size, dtype=bool)
        keep[np.argsort(-saliency, kind="stable")[:k]] = True
        if select == "remove_top":
            keep = ~keep
        masked = torch.where(torch.from_numpy(keep.reshape(1, 1, 64, 64)), image, {"black": 0.0, "mean": 0.5}[fill])
        found = answer["methods"][name]
        assert found["kept"] == keep.sum()
        np.testing.assert_array_equal(image_of(found["picture"]), (masked[0] * 255).round().byte().permute(1, 2, 0).numpy())
        for score, before, after in (
            ("confidence", logits(image).softmax(1)[0, target], logits(masked).softmax(1)[0, target]),
            ("logit", logits(image)[0, target], logits(masked)[0, target]),
        ):
            assert found[score]["before"] == pytest.approx(float(before), rel=1e-3, abs=1e-6)
            assert found[score]["after"] == pytest.approx(float(after), rel=1e-3, abs=1e-5)
            drop = max(0.0, float(before - after)) / float(before) * 100 if before > 0 else None
            assert found[score]["drop"] == (None if drop is None else pytest.approx(drop, abs=1e-2))
            assert found[score]["increased"] == (found[score]["before"] < found[score]["after"])


def test_a_soft_mask_shows_everything_as_bright_as_the_map(client):
    answer = client.post("/explain", json=request_of("grad_cam", "constant", select="soft")).json()["methods"]
    assert answer["grad_cam"]["kept"] is None
    assert image_of(answer["constant"]["picture"]).max() == 0 and answer["constant"]["constant"]
    assert not answer["grad_cam"]["constant"]


def test_the_likeliest_classes(client):
    logits = plain_network()[2](canvas(3))[0]
    answer = client.post("/view", json=VIEW).json()
    order = logits.argsort(descending=True)[:5]
    assert [found["index"] for found in answer["top"]] == order.tolist()
    assert [found["name"] for found in answer["top"]] == [str(int(index)) for index in order]
    assert [found["confidence"] for found in answer["top"]] == pytest.approx(logits.softmax(0)[order].tolist(), rel=1e-3, abs=1e-7)
    assert answer["target"] == answer["top"][0] and answer["layer"] == "features.13"
    np.testing.assert_array_equal(image_of(answer["picture"]), np.array(Digits().load(3)))
    asked = client.post("/view", json={**VIEW, "target": "4"}).json()
    assert asked["target"] == client.post("/view", json={**VIEW, "target": 4}).json()["target"]
    assert asked["target"]["logit"] == pytest.approx(float(logits[4]), abs=1e-4)


def test_another_layer_is_another_map(client):
    config, module, _ = plain_network()
    known = client.post("/network", json={"model": "digits_fc"}).json()
    names = [layer["name"] for layer in known["layers"]]
    assert known["layer"] == config.layer and config.layer in names and known["classes"] == [str(i) for i in range(10)]
    layer = "features.6"
    assert layer in names
    net = SplitModel(module, layer, mean=config.mean, std=config.std)
    saliency = upsample(methods.grad_cam(Probe(net, canvas(3), [2])), (64, 64))
    keep = np.zeros(64 * 64, dtype=bool)
    keep[np.argsort(-saliency.numpy().ravel(), kind="stable")[: round(0.3 * 64 * 64)]] = True
    found = client.post("/explain", json=request_of("grad_cam", top=30, layer=layer, target=2)).json()["methods"]["grad_cam"]
    np.testing.assert_array_equal(image_of(found["picture"]), np.array(Digits().load(3)) * keep.reshape(64, 64, 1))


def test_maps_are_computed_once_and_a_threshold_costs_one_pass_in_one_batch(client, monkeypatch):
    names = ("counted", "grad_cam", "ablation_cam", "random")
    calls.clear()
    client.post("/explain", json=request_of(*names))
    batches = []
    whole = SplitModel.__call__
    monkeypatch.setattr(SplitModel, "__call__", lambda net, images: batches.append(len(images)) or whole(net, images))
    for top in (10, 30, 70):
        answer = client.post("/explain", json=request_of(*names, top=top, heat=False)).json()
        assert "heat" not in answer["methods"]["counted"]
    assert calls == ["counted"] and batches == [len(names)] * 3


def test_what_cannot_answer_is_told_beside_its_name_and_the_others_go_on(client):
    calls.clear()
    for top in (20, 40):
        answer = client.post("/explain", json=request_of("cam", "failing", "nan_map", "grad_cam", top=top)).json()["methods"]
        assert "cam needs global average pooling" in answer["cam"]["error"]
        assert answer["failing"]["error"].startswith("method failing failed with ValueError: no (theirs.py, line")
        assert "not finite" in answer["nan_map"]["error"]
        assert answer["grad_cam"]["kept"] == round(top / 100 * 4096)
    assert calls == ["failing"]


def test_a_method_that_writes_into_the_network_harms_nobody_else(client):
    before = client.post("/explain", json=request_of("grad_cam", top=33)).json()["methods"]["grad_cam"]
    answer = client.post("/explain", json=request_of("vandal", "grad_cam", "ablation_cam", top=33)).json()["methods"]
    assert "writes into the probe's network" in answer["vandal"]["error"]
    assert answer["grad_cam"]["picture"] == before["picture"]
    assert answer["grad_cam"]["logit"]["after"] == pytest.approx(before["logit"]["after"], abs=1e-4)
    view = client.post("/view", json=VIEW).json()
    assert view["top"][0]["logit"] == pytest.approx(float(plain_network()[2](canvas(3)).max()), abs=1e-4)


def test_an_uploaded_photograph_is_explained_as_the_same_sample_is(client):
    stored = client.post("/upload?name=digit.png", content=png(image=Digits().load(3))).json()
    assert stored["name"] == "digit.png" and image_of(stored["thumbnail"]).shape == (64, 64, 3)
    one, other = (client.post("/explain", json=request_of("ablation_cam", photo=photo)).json() for photo in (stored["key"], "s3"))
    assert one == other
    drawn = client.post("/figure", json=request_of("ablation_cam", "cam", photo=stored["key"]))
    assert drawn.headers["content-type"] == "image/png" and Image.open(io.BytesIO(drawn.content)).width > 800


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_formats(client, kind):
    assert client.post("/upload", content=png(kind=kind)).status_code == 200


def test_phones_photographs_stand_upright(client):
    exif = Image.Exif()
    exif[0x0112] = 6  # lying on its side
    stored = client.post("/upload", content=png((80, 40), kind="JPEG", exif=exif)).json()
    assert image_of(stored["thumbnail"]).shape == (80, 40, 3)


def claiming(width: int, height: int) -> bytes:
    """A PNG of some sixty bytes that claims to be this large."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        (b"no picture", 422, "not an image in JPEG, PNG, WEBP, GIF, BMP"),
        (b"", 422, "the file is empty"),
        (b"<svg onload='alert(1)'/>", 422, "not an image in"),
        (png(kind="TIFF"), 422, "not an image in"),
        (png(kind="JPEG")[:300], 422, "cannot be read"),
        (claiming(8000, 7000), 422, "8000 x 7000 pixels are more than 50 million"),
        (claiming(100_000, 100_000), 422, "cannot be read"),
        (png((2100, 100)), 422, "is too narrow (2100 x 100 pixels)"),
        (b"\0" * (MOST_BYTES + 1), 413, "more than 10 MB"),
    ],
    ids=["text", "empty", "svg", "tiff", "truncated", "large", "bomb", "narrow", "long"],
)
def test_what_is_no_photograph_ends_in_a_sentence(client, content, status, says):
    hostile = "<script>alert(1)</script>\x1b[2J\u202e\n../../etc/passwd.png"
    answer = client.post("/upload", params={"name": hostile}, content=content)
    assert answer.status_code == status and says in answer.json()["error"]
    assert not re.search(r"[\x00-\x1f\u202e]", answer.json()["error"])
    assert client.post("/view", json=VIEW).status_code == 200


def test_only_the_last_uploads_are_kept(client):
    keys = [client.post("/upload", content=png()).json()["key"] for _ in range(UPLOADS + 1)]
    answer = client.post("/view", json={**VIEW, "photo": keys[0]})
    assert answer.status_code == 422 and "no longer here" in answer.json()["error"]
    assert client.post("/view", json={**VIEW, "photo": keys[-1]}).status_code == 200


@pytest.mark.parametrize(
    ("path", "asked", "status", "says"),
    [
        ("/view", {**VIEW, "photo": "../../etc"}, 422, "no longer here"),
        ("/view", {**VIEW, "photo": "\ud800"}, 400, "invalid request"),
        ("/view", {**VIEW, "model": "vgg61"}, 422, "no network 'vgg61' on offer; did you mean 'vgg16'?"),
        ("/view", {**VIEW, "model": "evalkit.cli.main"}, 422, "no network 'evalkit.cli.main' on offer"),
        ("/view", {**VIEW, "target": 10}, 422, "the model has 10, from 0 to 9"),
        ("/view", {**VIEW, "target": "ten\x1b[2J"}, 422, "the model has no such class"),
        ("/view", {**VIEW, "target": -1}, 400, "greater than or equal to 0"),
        ("/explain", request_of("grad_cam", layer="features.12.x"), 422, "of digits_fc cannot be explained; did you mean"),
        ("/explain", request_of("grad-cam"), 422, "no method 'grad-cam' on offer; did you mean 'grad_cam'?"),
        ("/explain", request_of("grad_cam", top=101), 400, "less than or equal to 100"),
        ("/explain", request_of("grad_cam", top=None), 400, "needs a top_percent"),
        ("/explain", request_of("grad_cam", fill="pink"), 400, "'black', 'mean', 'blur' or 'road'"),
        ("/explain", request_of("grad_cam", select="soft", top=None, fill="road"), 400, "road needs a binary mask"),
        ("/explain", request_of(*["grad_cam"] * 101), 400, "at most 100"),
        ("/explain", {**VIEW}, 400, "invalid request"),
        ("/figure", request_of("cam"), 422, "nothing to draw"),
        ("/figure", request_of(), 422, "nothing to draw"),
        ("/nowhere", {}, 404, "Not Found"),
    ],
)  # fmt: skip
def test_what_does_not_exist_ends_in_a_sentence(client, path, asked, status, says):
    answer = client.post(path, content=json.dumps(asked))
    assert answer.status_code == status and says in answer.json()["error"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 20_000])
def test_what_is_no_request(client, content):
    answer = client.post("/view", content=content)
    assert answer.status_code == 400 and "invalid request" in answer.json()["error"]


def test_a_request_that_is_too_long(client):
    assert client.post("/view", content=b" " * 200_000).status_code == 413


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8421", "localhost", "LOCALHOST:1", "[::1]:8421", "10.0.0.7:80", "my-machine:8421", "My-Machine"]
)
def test_its_own_names(client, host):
    assert client.get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8421", "127.0.0.1.evil.example", "localhost.evil.example", "", "[", "a@b:c"]
)
def test_a_rebound_name_is_refused(client, host):
    for answer in (client.get("/", headers={"host": host}), client.post("/view", json=VIEW, headers={"host": host})):
        assert answer.status_code == 403 and "this server is not called" in answer.json()["error"]


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:3000", "http://127.0.0.1:8422"])
def test_another_sites_page_is_refused_whatever_it_knows(client, origin):
    assert client.post("/view", json=VIEW, headers={"origin": origin}).status_code == 403
    assert client.post("/view", json=VIEW, headers={"origin": HERE}).status_code == 200


def test_a_request_without_the_pages_token_is_refused(client):
    for token in ("", "x", "é".encode()):
        answer = client.post("/upload", content=png(), headers={TOKEN: token})
        assert answer.status_code == 403 and "reload" in answer.json()["error"]
    assert client.options("/view", headers={"origin": "http://evil.example", "access-control-request-method": "POST"}).status_code == 403


def test_the_page_may_load_nothing_and_stand_in_no_frame(client):
    answer = client.get("/")
    assert answer.headers["content-security-policy"] == "frame-ancestors 'none'" and answer.headers["x-content-type-options"] == "nosniff"
    assert "connect-src &#39;self&#39;" in answer.text and "default-src &#39;none&#39;" in answer.text
    assert not re.search(r'(src|href)="(https?:)?//', answer.text)
    assert client.get("/view").status_code == 405


def test_every_method_that_stands_alone_is_on_offer(client):
    offered = {method["name"]: method for method in data_of(client)["methods"]}
    wrappers = {"captum", "pytorch_grad_cam", "torch_cam"}
    assert set(offered) == set(choices("method")) - wrappers | {"counted", "failing", "nan_map", "vandal"}
    assert offered["grad_cam"]["about"] == "Grad-CAM (Selvaraju et al. 2017)." and offered["counted"]["family"] == "Yours"
    assert [name for name, method in offered.items() if method["chosen"]] == [
        "ablation_cam", "grad_cam", "random", "counted", "failing", "nan_map", "vandal",
    ]  # fmt: skip
    assert data_of(client)["models"] == ["digits_fc", *(name for name in choices("model") if name not in ("digits_fc", "custom"))]


def test_weights_that_cannot_be_had_and_random_ones(client, monkeypatch):
    def unreachable(*_args, **_options):
        raise URLError("no route")

    monkeypatch.setattr("torchvision.models.WeightsEnum.get_state_dict", unreachable)
    answer = client.post("/network", json={"model": "mobilenet_v3_small"})
    assert answer.status_code == 422 and "cannot download" in answer.json()["error"]
    known = client.post("/network", json={"model": "mobilenet_v3_small", "random": True}).json()
    assert known["random"] and known["weights"] == "random (seed 0)" and known["classes"][504] == "coffee mug"
    assert not client.post("/network", json={"model": "digits_gap"}).json()["random"]


def test_a_network_that_takes_images_as_they_are(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(png((16, 16)))
    (folder / "broken.png").write_bytes(b"")
    own = ["model=custom", "model.factory=builders.TinyFC", "model.layer=features", "data=image_folder", f"data.root={folder}"]
    client = opened(make_explainer(*own, "method=[grad_cam]"))
    assert [photo["name"] for photo in data_of(client)["photos"]] == ["a.png"]
    assert client.post("/view", json={"photo": "s0", "model": "builders.TinyFC"}).status_code == 200
    layers = client.post("/network", json={"model": "builders.TinyFC"}).json()["layers"]
    assert layers[-1] == {"name": "features", "channels": 8, "height": 8, "width": 8}
    for size, says in (
        ((20, 20), "builders.TinyFC cannot process an image of 20 x 20 pixels"),
        ((2100, 2000), "are too many for builders.TinyFC"),
    ):
        key = client.post("/upload", content=png(size)).json()["key"]
        answer = client.post("/view", json={"photo": key, "model": "builders.TinyFC"})
        assert answer.status_code == 422 and says in answer.json()["error"]


def test_scores_that_are_not_finite_are_no_numbers(tmp_path):
    own = ["model=custom", "model.factory=builders.NaNNet", "model.layer=features", "model.resize=[16,16]", "model.mean=[0.5,0.5,0.5]"]
    client = opened(make_explainer(*own, "model.std=[0.5,0.5,0.5]", "method=[grad_cam]"))
    found = client.post("/explain", json=request_of("grad_cam", model="builders.NaNNet", top=0)).json()["methods"]["grad_cam"]
    assert found["confidence"]["after"] is None and found["logit"]["drop"] is None and found["confidence"]["before"] is not None


def test_samples_are_those_of_the_data_set_and_can_all_be_unreadable(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match="none of the 1 sample photographs can be read"):
        make_explainer("data=image_folder", f"data.root={tmp_path}")
    album = Album(Digits(), [5])
    assert album["s5"].name == f"val/0/00005 (labelled {Digits().class_keys(5)[0]})" and album.picture("s5").size == (64, 64)


def test_samples_are_of_all_classes_unless_the_command_line_says_which(folder):
    given = ["model=custom", "model.factory=builders.TinyFC", "model.layer=features", "model.resize=[16,16]", "data=image_folder"]
    given.append(f"data.root={folder}")
    for number in (13, 14, 15):  # of a class with many
        Digits().load(number).save(folder / "a" / f"{number}.png")
    data = data_of(opened(make_explainer(*given, "limit=null", "sample=6")))
    assert {photo["name"][0] for photo in data["photos"]} == set("abc") and data["others"] == 15 - 6
    data = data_of(opened(make_explainer(*given, "limit=3")))
    assert {photo["name"][0] for photo in data["photos"]} == {"a"} and data["others"] == 12
    assert len(data_of(opened(make_explainer("limit=null")))["photos"]) == 24


def test_command_line_mistakes(tmp_path):
    with pytest.raises(UserError, match="photographs have no labels"):
        serve(["target=label"], port=0, browser=False)
    with pytest.raises(UserError, match="nowhere is not a folder"):
        serve([], images=tmp_path / "nowhere", port=0, browser=False)
    with pytest.raises(UserError, match="did you mean 'digits_fc'"):
        serve(["model=digits_cf"], port=0, browser=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"^cannot listen on 127.0.0.1, port {port} \(Address already in use\): choose another"):
            serve([], port=port, browser=False)


def test_the_offer_follows_the_command_line():
    offer = open_offer(["model=digits_gap", "target=3", "method=[grad_cam,torch_cam]", "protocol.top_percent=35"], None)
    assert isinstance(offer, Offer) and offer.target == 3 and offer.chosen == ("grad_cam", "torch_cam") and offer.models[0] == "digits_gap"
    assert offer.model("digits_fc").target == "predicted" and offer.model("digits_gap").target == 3
    assert offer.model("digits_fc", random=True).model.weights is None
