"""Pictures, figures and the app for networks with one output: a quantity shows its score, one logit a confidence too."""

import pytest
from matplotlib import pyplot as plt
from starlette.testclient import TestClient

from evalkit.config.compose import compose_jobs
from evalkit.data.digits import Digits
from evalkit.errors import UserError
from evalkit.photos import explain
from evalkit.photos.app.explainer import Explainer
from evalkit.photos.app.offer import open_album, open_offer
from evalkit.photos.app.server import TOKEN, application
from evalkit.photos.figures import explanation, methods, saturation, unit, units
from evalkit.photos.figures.layout import ExplainedPhoto
from evalkit.photos.session import open_photo_session

CUSTOM = ["model=custom", "model.factory=builders.TinyFC", "+model.args.classes=1", "model.layer=features", "model.resize=[16,16]"]


@pytest.fixture(params=["binary", "raw"])
def overrides(request):
    return [*CUSTOM, f"model.output={request.param}", "method=[ablation_cam,grad_cam]"]


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def texts(figure) -> str:
    return "\n".join(part.get_text() for part in figure.findobj(lambda part: hasattr(part, "get_text")))


def test_pictures_say_what_there_is(overrides, tmp_path):
    session = open_photo_session(compose_jobs(overrides)[0].config)
    (probe,) = session.probes(Digits().load(0))
    raw = session.config.model.output == "raw"
    z = float(probe.scores[0])
    assert z >= 0  # of -z and z, the predicted one
    drawn = texts(explain.draw(session.config, session.model, probe, {name: session.map(name, probe) for name in session.methods}))
    assert (f"score {z:.2f} →" in drawn, "confidence" in drawn, "(logit)" in drawn) == (raw, not raw, not raw)
    assert ("class" in drawn) != raw
    photos = [ExplainedPhoto("0.png", probe)]
    assert ("class score" in texts(units.draw(session, photos))) != raw
    for figure in (explanation, units):
        said = texts(figure.draw(session, photos))
        assert f"{z:.2f}" in said and ("confidence" in said) != raw
    for figure in (methods, unit):
        if hasattr(figure, "draw"):
            figure.draw(session, photos)
    if raw:
        with pytest.raises(UserError, match=r"model\.output=raw has neither"):
            saturation.two_classes(session, Digits().load(0))
    else:
        both = [ExplainedPhoto("0.png", one) for one in saturation.two_classes(session, Digits().load(0))]
        assert len(both) == 2 and "from its sigmoid" in texts(saturation.draw(session, both))


def test_the_app_answers(overrides):
    explainer = Explainer(offer := open_offer(["limit=2", *overrides], None), open_album(offer.config))
    client = TestClient(application(explainer, {"my-machine"}), base_url="http://127.0.0.1:8421")
    client.headers[TOKEN] = _token(client)
    view = {"photo": next(iter(explainer.album.samples)), "model": explainer.offer.config.model.name}
    shown = client.post("/view", json=view).json()
    raw = offer.config.model.output == "raw"
    assert shown["raw"] == raw and len(shown["top"]) == 2 and (shown["target"]["confidence"] is None) == raw
    point = {"select": "keep_top", "top_percent": 20, "fill": "black"}
    answer = client.post("/explain", json={"view": view, "methods": ["ablation_cam", "grad_cam"], "point": point}).json()
    for one in answer["methods"].values():
        assert (one["confidence"] is None) == raw
        y, o = one["logit"]["before"], one["logit"]["after"]
        assert one["logit"]["drop"] == pytest.approx(100 * max(0, y - o) / abs(y)) and one["logit"]["increased"] == (o > y)


def _token(client: TestClient) -> str:
    return client.get("/").text.partition('"token": "')[2].partition('"')[0]
