"""Which images a study shows, and that its page tells nobody whose maps they are."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import Tables, save_pictures
from commands import through_main as command
from PIL import Image
from sklearn.metrics import f1_score
from studies import digits, page_data, pairs, run

from evalkit.analysis.load import Run, load_runs
from evalkit.analysis.rows import Rows, read_part
from evalkit.errors import UserError
from evalkit.photos.pictures import heat
from evalkit.photos.run_images import RunImages
from evalkit.study import choose
from evalkit.study.items import SIDE
from evalkit.study.prepare import prepare
from evalkit.study.records import KEY, PAGE, read_key


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two networks on the same digits, under names that would give them away."""
    folder = tmp_path_factory.mktemp("runs")
    return digits(folder / "telltale-one"), digits(folder / "telltale-two", "digits_gap")


@pytest.fixture(scope="module")
def paired(tmp_path_factory):
    """A run on pictures of which some show two classes."""
    place = tmp_path_factory.mktemp("pairs")
    return pairs(save_pictures(place / "pictures"), place / "telltale-pairs")


def test_the_classes_of_the_highest_f1(runs):
    (loaded,) = load_runs([runs[0]])
    rows = loaded.rows.drop_duplicates("index")
    expected = {}
    for digit in range(10):
        true, called = rows.label == digit, rows.predicted == digit
        expected[digit] = 2 * (true & called).sum() / (true.sum() + called.sum())
    found = choose.best_classes([loaded], 5, loaded)
    assert found.to_dict() == {c: pytest.approx(expected[c]) for c in sorted(expected, key=lambda c: (-expected[c], c))[:5]}
    assert list(found.index) == sorted(expected, key=lambda c: (-expected[c], c))[:5]
    assert f1_score(rows.label, rows.predicted, labels=found.index, average=None) == pytest.approx(found.to_numpy())
    assert min(expected.values()) < found.min()  # else the choice would mean nothing


def test_better_shows_images_whose_class_is_their_label(runs, tmp_path):
    key, left_out = prepare("better", [str(runs[0])], tmp_path / "study")
    (loaded,) = load_runs([runs[0]])
    best = choose.best_classes([loaded], 5, loaded).index
    rows = loaded.rows.drop_duplicates("index")
    rows = rows[rows.label.isin(best)]
    assert {item.index for item in key.items.values()} == set(rows[rows.label == rows.predicted]["index"])
    assert left_out == (rows.label != rows.predicted).sum() and key.contestants == ("ablation_cam", "grad_cam")
    few, _ = prepare("better", [str(runs[0])], tmp_path / "few", images=2, classes=3, seed=1)
    assert pd.Series([item.target for item in few.items.values()]).value_counts().to_dict() == dict.fromkeys(best[:3], 2)
    again, _ = prepare("better", [str(runs[0])], tmp_path / "again", images=2, classes=3, seed=1)
    assert {item.index for item in again.items.values()} == {item.index for item in few.items.values()}
    assert not again.items.keys() & few.items.keys() and again.study != few.study


def test_better_keeps_misclassified_images_of_a_run_that_explained_labels(runs, tmp_path):
    """As the paper: all images of the best classes, each with maps of its label; random weights err often."""
    poor = digits(tmp_path / "poor", "digits_fc", 80, "model.weights=null", "target=label")
    with pytest.raises(UserError, match=r"no image of .* run it with target=label"):
        prepare(
            "better", [str(digits(tmp_path / "one", "digits_fc", 80, "target=0"))], tmp_path / "no", classes_from=str(runs[1]), classes=1
        )
    (loaded,) = load_runs([poor])
    rows = loaded.rows.drop_duplicates("index")
    key, left_out = prepare("better", [str(poor)], tmp_path / "study", classes_from=str(runs[0]))
    best = choose.best_classes(load_runs([runs[0]]), 5, loaded).index
    assert left_out == 0 and {item.index for item in key.items.values()} == set(rows[rows.label.isin(best)]["index"])
    assert all(item.target == rows.set_index("index").label[item.index] for item in key.items.values())
    assert (rows[rows.label.isin(best)].predicted != rows[rows.label.isin(best)].label).sum() > 5
    own = choose.best_classes([loaded], 5, loaded)  # a run with target=label has predictions, and so an F1
    for digit, found in own.items():
        true, called = rows.label == digit, rows.predicted == digit
        assert found == pytest.approx(2 * (true & called).sum() / (true.sum() + called.sum()))


def test_the_command_says_what_keeps_misclassified_images(runs, tmp_path):
    _, left_out = prepare("better", [str(runs[0])], tmp_path / "known", classes=10)
    ended = command("study", "prepare", "better", str(runs[0]), "--classes", "10", "--out", str(tmp_path / "study"))
    assert f"left out: {left_out} other images of these classes" in ended.stderr and left_out > 1
    assert "a run with target=label keeps them" in ended.stderr


def test_trust_does_not_depend_on_the_order_of_the_runs(runs, tmp_path):
    first, second = map(str, runs)
    untrained = str(digits(tmp_path / "untrained", "digits_gap", 80, "model.weights=null", "method=[ablation_cam]"))
    for number, (other, given) in enumerate(
        [(second, {"classes": 3}), (second, {"images": 2}), (untrained, {"classes": 10}), (untrained, {"classes_from": first})]
    ):
        studies = [
            prepare("trust", order, tmp_path / f"{number}-{order[0] == first}", **given) for order in ([first, other], [other, first])
        ]
        shown = [(sorted((item.index, item.target) for item in key.items.values()), left_out) for key, left_out in studies]
        assert shown[0] == shown[1] and len(shown[0][0]) > 0
    loaded = load_runs([first, untrained])
    f1 = [choose.f1_scores(one) for one in loaded]
    lowest = {c: min(f1[0][c], f1[1][c]) for c in f1[0].index}
    mean = {c: (f1[0][c] + f1[1][c]) / 2 for c in f1[0].index}
    expected = sorted(lowest, key=lambda c: (-lowest[c], -mean[c], c))[:4]
    assert list(choose.best_classes(loaded, 4, loaded[0]).index) == list(choose.best_classes(loaded[::-1], 4, loaded[1]).index) == expected
    assert expected != list(choose.best_classes(loaded[:1], 4, loaded[0]).index)


def test_classes_are_matched_by_name_where_networks_number_them_differently():
    """Three classes, in the second network's outputs as c, a, b."""

    def made(names, labels, predicted):
        scored = {"method": "m", "select": "keep_top", "top_percent": 20.0, "fill": "black", "status": "ok"}
        rows = pd.DataFrame({"index": range(len(labels)), "label": [names.index(x) for x in labels], **scored})
        rows["predicted"] = rows["target"] = [names.index(x) for x in predicted]
        about = {"class_names": names, "identity": {"images": "all", "model": {}}}
        return Run(Path("run"), about, Rows([read_part(Tables(rows, pd.DataFrame()))], ["m"]), [], ())

    labels = list("aaabbbcccd")
    one, two = made(list("abcd"), labels, "aaabbccccd"), made(list("dcab"), labels, "aaabbbcaad")
    found = choose.best_classes([one, two], 3, one), choose.best_classes([two, one], 3, two)
    by_name = [{names[i]: f1 for i, f1 in one.items()} for names, one in zip(("abcd", "dcab"), found, strict=True)]
    assert by_name[0] == by_name[1] == {"d": 1, "b": pytest.approx(0.8), "a": pytest.approx(0.75)}
    assert list(by_name[0]) == list(by_name[1]) == ["d", "b", "a"]


def test_methods_of_a_second_run_are_found(runs, tmp_path):
    """The run that the message of a missing method asks for."""
    added = digits(tmp_path / "added", "digits_fc", 80, "method=[guided_grad_cam]")
    key, _ = prepare("better", [str(runs[0]), str(added)], tmp_path / "study", methods=["guided_grad_cam", "grad_cam"], images=1)
    assert key.contestants == ("guided_grad_cam", "grad_cam") and len(key.items) == 5


def test_trust_shows_what_both_networks_get_right(runs, tmp_path):
    untrained = digits(tmp_path / "untrained", "digits_gap", 80, "model.weights=null", "method=[ablation_cam]")
    paths = [str(runs[0]), str(untrained)]
    key, left_out = prepare("trust", paths, tmp_path / "study", classes=10)
    rows = [load_runs([path])[0].rows.drop_duplicates("index").set_index("index") for path in paths]
    right = [set(table.index[table.label == table.predicted]) for table in rows]
    assert {item.index for item in key.items.values()} == right[0] & right[1] != right[0]
    assert left_out == 80 - len(right[0] & right[1]) and key.contestants == ("digits_fc", "digits_gap") and key.method == "ablation_cam"
    turned, _ = prepare("trust", paths[::-1], tmp_path / "turned", classes=10)
    assert turned.contestants == ("digits_gap", "digits_fc") and len(turned.items) == len(key.items)


def test_which_asks_about_both_categories_of_images_that_have_two(paired, tmp_path):
    key, left_out = prepare("which", [str(paired)], tmp_path / "study")
    assert len(key.items) == 8 * 2 * 2 and left_out == 4
    maps = pd.concat(pd.read_parquet(file) for file in (paired / "maps").glob("*.parquet")).set_index(["index", "target", "method"])
    for item in key.items.values():
        stored = maps.loc[(item.index, item.target, item.method)]
        assert item.target_name == stored.target_name in item.options.values() and len(set(item.options.values())) == 2
        for name in ("energy_inside", "energy_others"):
            assert getattr(item, name) == (None if np.isnan(stored[name]) else stored[name])
    few, _ = prepare("which", [str(paired)], tmp_path / "few", images=3)
    assert len({item.index for item in few.items.values()}) == 3 and len(few.items) == 12


def decoded(uri: str) -> np.ndarray:
    kind, _, content = uri.partition(",")
    assert kind == "data:image/webp;base64"
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    assert not picture.info.keys() & {"exif", "xmp", "icc_profile"}
    return np.asarray(picture.convert("RGB"), dtype=float)


def test_ids_stand_for_the_maps_they_show(runs, paired, tmp_path):
    """The key names, for every picture on the page, the map that was stored."""
    key, _ = prepare("trust", [str(path) for path in runs], tmp_path / "study", images=2)
    shown = dict(zip(key.contestants, (RunImages(load_runs([path])[0]) for path in runs), strict=True))
    for asked in page_data(tmp_path / "study")["items"]:
        item = key.items[asked["id"]]
        seen = {item.options[option["id"]]: decoded(option["picture"])[2::5, 2::5] for option in asked["options"]}
        stored = {name: heat(of.map("ablation_cam", item.index, item.target)).permute(1, 2, 0).numpy() for name, of in shown.items()}
        one, two = key.contestants
        likeness = np.corrcoef((seen[one] - seen[two]).ravel(), (stored[one] - stored[two]).ravel())[0, 1]
        assert likeness > 0.7  # -0.7 were they swapped
    key, _ = prepare("which", [str(paired)], tmp_path / "which")
    (shown,) = [RunImages(load_runs([paired])[0])]
    likeness = []
    for asked in page_data(tmp_path / "which")["items"]:
        item = key.items[asked["id"]]
        values = shown.map(item.method, item.index, item.target)
        if values.max() > 0:
            likeness.append(np.corrcoef(decoded(asked["picture"])[10::20, 10::20, 0].ravel(), values.numpy().ravel())[0, 1])
    assert len(likeness) > 4 and min(likeness) > 0.8


SECRETS = (
    "ablation",
    "grad_cam",
    "gradcam",
    "guided",
    "digits_",
    "telltale",
    "TinyFC",
    "builders",
    "val/0/",
    ".png",
    "evalkit/",
    "features",
)


@pytest.mark.parametrize("design", ["better", "trust", "which"])
def test_the_page_tells_nothing(design, runs, paired, tmp_path):
    chosen = {"better": runs[:1], "trust": runs, "which": [paired]}[design]
    prepare(design, [str(path) for path in chosen], tmp_path / "study")
    text = (tmp_path / "study" / PAGE).read_text()
    assert sorted(p.name for p in (tmp_path / "study").iterdir()) == [KEY, PAGE]
    data = page_data(tmp_path / "study")
    words = text
    for asked in data["items"]:
        for uri in [asked.get("photograph"), asked.get("picture"), *(option.get("picture") for option in asked["options"])]:
            if uri:
                words = words.replace(uri, "")
                assert max(decoded(uri).shape[:2]) == SIDE
    assert not [secret for secret in SECRETS if secret.lower() in words.lower()]
    secret = json.loads((tmp_path / "study" / KEY).read_text())
    assert not [one for one in (*secret["contestants"], *(r["identity_hash"] for r in secret["runs"])) if one in words]
    assert {frozenset(asked) for asked in data["items"]} == {frozenset(data["items"][0])}  # nothing that some have and others have not
    shapes = {tuple(len(one) for one in (asked["id"], *(option["id"] for option in asked["options"]))) for asked in data["items"]}
    assert shapes == {(16, 16, 16)}


def test_the_pages_order_is_no_order_of_ours(runs, tmp_path):
    """Of some 40 items, first maps of one method alone, or images in their order, would be one in 2^40."""
    key, _ = prepare("better", [str(runs[0])], tmp_path / "study", classes=10)
    items = page_data(tmp_path / "study")["items"]
    assert len(items) > 30 and [item["id"] for item in items] == sorted(key.items)
    first = [key.items[item["id"]].options[item["options"][0]["id"]] for item in items]
    assert set(first) == set(key.contestants)
    order = [key.items[item["id"]].index for item in items]
    assert order != sorted(order)


def test_a_study_is_never_overwritten(runs, tmp_path):
    arguments = ["study", "prepare", "better", str(runs[0]), "--images", "1", "--classes", "2", "--out", str(tmp_path / "study")]
    first = command(*arguments)
    assert first.returncode == 0, first.stderr
    assert "classes: " in first.stdout and "2 items of 2 images" in first.stdout and "give this one file to every rater" in first.stdout
    key = read_key(tmp_path / "study")
    again = command(*arguments)
    assert again.returncode == 2 and "exists, and answers to its study need its key" in again.stderr
    assert read_key(tmp_path / "study") == key


def test_mistakes_end_in_one_sentence(runs, paired, folder, tmp_path):
    one, two = map(str, runs)
    ended = command("study", "prepare", "beter", one)
    assert ended.returncode == 2 and "no study 'beter'; did you mean 'better'?" in ended.stderr and "Traceback" not in ended.stderr
    for design, paths, more, says in [
        ("better", [one, two], {}, "needs one run .*; .* hold 2"),
        ("trust", [one], {}, "needs two runs, of two models on the same images"),
        ("trust", [one, str(paired)], {}, "saw different images"),
        (
            "which",
            [one],
            {},
            r"explained target=predicted, .*: run it with target=label 'method=\[guided_ablation_cam,guided_grad_cam\]' maps=store, into",
        ),
        (
            "better",
            [one],
            {"methods": ["guided_grad_cam", "grad_cam"]},
            rf"{one} has no guided_grad_cam: repeat its command with 'method=\[guided_grad_cam\]' maps=store out={one}-more, then name",
        ),
        ("which", [str(paired)], {"classes": 3}, "--classes and --classes-from are for"),
        ("which", [str(paired)], {"classes_from": one}, "--classes and --classes-from are for"),
        ("better", [one], {"classes_from": str(runs[0].parent)}, "--classes-from takes one run, and .* holds 2"),
        ("better", [one], {"methods": ["ablation_cam"]}, "shows two different methods, not ablation_cam"),
        ("better", [one], {"methods": ["grad_cam", "grad_cam"]}, "two different methods"),
        ("trust", [one, two], {"methods": ["grad_cam", "ablation_cam"]}, "shows one method"),
        ("better", [one], {"methods": ["ablation_cam", "gradcam"]}, "no method 'gradcam'; did you mean 'grad_cam'"),
        ("better", [str(tmp_path / "nowhere")], {}, "is not a run folder"),
    ]:
        with pytest.raises(UserError, match=says):
            prepare(design, paths, tmp_path / "out", **more)
    bare = digits(tmp_path / "bare", "digits_fc", 20, "maps=none")
    with pytest.raises(UserError, match="run its command again with maps=store"):
        prepare("better", [str(bare)], tmp_path / "out")
    correct = digits(tmp_path / "correct", "digits_fc", 20, "images=correct")
    with pytest.raises(UserError, match="run it with images=all"):
        prepare("better", [str(correct)], tmp_path / "out")
    without_boxes = pairs(folder, tmp_path / "without")
    (folder / "boxes.csv").unlink()
    with pytest.raises(UserError, match=r"no .*boxes.csv"):
        prepare("which", [str(without_boxes)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_maps_as_coarse_as_activations_are_shown_over_the_photograph(paired, tmp_path):
    prepare("which", [str(paired)], tmp_path / "fine")
    prepare("which", [str(paired)], tmp_path / "coarse", methods=["ablation_cam", "grad_cam"])
    fine, coarse = ([decoded(item["picture"]) for item in page_data(tmp_path / name)["items"]] for name in ("fine", "coarse"))
    assert all(np.ptp(picture, axis=2).max() <= 2 for picture in fine)  # shades of grey
    assert np.mean([np.ptp(picture, axis=2).max() > 20 for picture in coarse]) > 0.5  # all but those of constant maps


def test_names_of_classes_are_only_text(folder, tmp_path):
    hostile = '<img src=x onerror=alert(1)>"\x1b[2J</script><script>alert(2)</script>'
    (folder / "labels.csv").write_text(
        "file,class\n" + "\n".join(f'{p.parent.name}/{p.name},"{hostile.replace(chr(34), chr(34) * 2)}"' for p in folder.rglob("*.png"))
    )
    (tmp_path / "map.csv").write_text('class,index\n"' + hostile.replace('"', '""') + '",1\n')
    given = ["model=custom", "model.factory=builders.TinyFC", "model.layer=features", "model.resize=[16,16]", "data=image_folder"]
    made = run([*given, f"data.root={folder}", f"model.class_map={tmp_path}/map.csv", "target=label", "maps=store", "workers=0",
                "method=[ablation_cam,grad_cam]", f"out={tmp_path / 'run'}"])  # fmt: skip
    prepare("better", [str(made)], tmp_path / "study")
    text = (tmp_path / "study" / PAGE).read_text()
    assert text.count("<script") == 2 and "onerror=alert(1)>" not in text and "\x1b" not in text
    assert "<img src=x onerror=alert(1)>" in page_data(tmp_path / "study")["items"][0]["question"]
