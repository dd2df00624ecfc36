"""Pictures of explanations: one panel for each thing the numbers know."""

import pytest
import torch
from matplotlib import pyplot as plt

from evalkit import Probe, protocol
from evalkit.config.compose import compose_jobs
from evalkit.data.digits import Digits
from evalkit.errors import UserError
from evalkit.methods import ablation_cam
from evalkit.models import zoo
from evalkit.photos import explain
from evalkit.photos.session import in_full
from evalkit.scores import confidence_and_logit


def config(*overrides: str):
    return compose_jobs(["model=digits_fc", "method=[ablation_cam,constant]", *overrides])[0].config


@pytest.fixture
def photos(tmp_path):
    for i in range(2):
        (tmp_path / f"d{i}").mkdir()
        Digits().load(i).save(tmp_path / f"d{i}" / "digit.png")
    return [tmp_path / f"d{i}" / "digit.png" for i in range(2)]


def test_titles_tell_the_scores_before_and_after():
    settings = config("protocol.select=[keep_top,remove_top,soft]", "protocol.top_percent=[20,50]", "protocol.fill=mean", "target=3")
    model = zoo.load(settings.model, torch.device("cpu"))
    probe = Probe(model.net, model.preprocess(Digits().load(4))[None].float() / 255, torch.tensor([3]))
    maps = {"ablation_cam": protocol.upsample(ablation_cam(probe), (64, 64)), "constant": torch.ones(1, 64, 64)}
    figure = explain.draw(settings, model, probe, maps)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert len(titles) == 2 * (2 + 5)  # two methods; photograph, heat map and five protocol points
    keep = protocol.Ranking(maps["ablation_cam"]).top(50)
    masked = torch.where(keep[:, None], probe.images, model.net.mean)
    before, after = (confidence_and_logit(logits, probe.targets) for logits in (probe.logits, model.net(masked)))
    wanted = (
        f"confidence {in_full(float(before[0][0]))} → {in_full(float(after[0][0]))}\nscore (logit) {before[1][0]:.2f} → {after[1][0]:.2f}"
    )
    assert f"top 50 % kept, the rest mean colour\n{wanted}" in titles
    assert "constant (constant map)" in titles
    assert 'why "3"? (chosen class 3) · digits_fc at features.13' in figure.get_suptitle()
    plt.close(figure)


def test_an_imputed_rest(photos, tmp_path):
    settings = config("protocol.top_percent=30", "protocol.fill=road", "target=3")
    model = zoo.load(settings.model, torch.device("cpu"))
    probe = Probe(model.net, model.preprocess(Digits().load(4))[None].float() / 255, torch.tensor([3]))
    maps = {"ablation_cam": protocol.upsample(ablation_cam(probe), (64, 64))}
    figure = explain.draw(settings, model, probe, maps)
    kept = protocol.Ranking(maps["ablation_cam"]).top(30)
    masked = torch.where(kept[:, None], probe.images, protocol.Fills(probe.images, model.net.mean, model.net.std, [0])("road", kept))
    score = float(model.net(masked)[0, 3])
    assert any(
        title.startswith("top 30 % kept, the rest imputed") and f"→ {score:.2f}" in title for title in map(plt.Axes.get_title, figure.axes)
    )
    plt.close(figure)


def test_files_of_one_name_do_not_overwrite_each_other(photos, tmp_path):
    written = explain.explain_images(config(), photos, tmp_path / "out")
    assert [path.name for path in written] == ["digit-explained.png", "digit-explained-2.png"]
    again = explain.explain_images(config(), photos[:1], tmp_path / "out")
    assert again == written[:1]  # a later call replaces its own pictures
    beside = explain.explain_images(config(), photos[:1], photos[0].parent)
    assert beside[0] != photos[0] and photos[0].stat().st_size < 30_000


def test_mistakes_are_told_before_anything_is_computed(photos, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UserError, match=r"cannot read .*text.png: not an image"):
        explain.explain_images(config(), [*photos, tmp_path / "text.png"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="photographs have no labels"):
        explain.explain_images(config("target=label"), photos, tmp_path / "out")
    with pytest.raises(UserError, match=r"cannot write to .*choose another folder with --out"):
        explain.explain_images(config(), photos, photos[0])


def test_several_layers_have_a_row_each(photos, tmp_path, monkeypatch):
    drawn = {}
    draw = explain.draw
    monkeypatch.setattr(explain, "draw", lambda settings, model, probe, maps: draw(settings, model, probe, drawn.setdefault("maps", maps)))
    explain.explain_images(config("model.layer=[features.7,features.13]", "model.fuse=max"), photos[:1], tmp_path / "out")
    names = [f"ablation_cam@{layer}" for layer in ("features.7", "features.13", "max")]
    assert list(drawn["maps"]) == [*names, "constant"]
    for layer in ("features.7", "features.13"):
        settings = config(f"model.layer={layer}")
        model = zoo.load(settings.model, torch.device("cpu"))
        probe = Probe(model.net, model.preprocess(Digits().load(0))[None].float() / 255)
        assert torch.equal(drawn["maps"][f"ablation_cam@{layer}"], protocol.upsample(ablation_cam(probe), (64, 64)))
