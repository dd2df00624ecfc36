"""The report shows the run's numbers and images, opens from disk without asking anybody, and stays small."""

import json
import re
import shutil

import numpy as np
import pytest
from browsing import needs_browser, opened
from builders import HOSTILE, fresh, make_run, save_pictures, tiny_overrides
from commands import through_main

from evalkit.analysis.evaluated import evaluate_run
from evalkit.analysis.load import at_point, load_runs
from evalkit.analysis.metrics import relative_drop
from evalkit.config.compose import compose_jobs
from evalkit.launch.run import run_job
from evalkit.output.tables import cells, main_points
from evalkit.photos import gallery_choice as selection
from evalkit.photos.gallery import report_runs
from evalkit.point import Point

POINT = Point("keep_top", 20.0, "black")


def report_of(runs, file, **options):
    """Evaluate runs and write their report; 24 images for every reason, as on the command line."""
    return report_runs([evaluate_run(run) for run in runs], file, **{"each": 24, **options})


def scores(n):
    """Full and masked scores of two methods and a control."""
    rng = fresh()
    full = rng.uniform(1, 9, n)
    return full, {name: full * rng.uniform(0, 1.2, n) for name in ("ablation_cam", "grad_cam", "centre")}


def embedded(page: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_selection_against_brute_force(tmp_path):
    full, masked = scores(200)
    run = make_run(tmp_path / "run", full, masked)
    entries = {entry.index: entry for entry in selection.select(run, POINT, 10)}
    drops = {name: relative_drop(full, masked[name]) for name in ("ablation_cam", "grad_cam")}
    clipped = {name: np.maximum(0, full - masked[name]) for name in drops}
    differ = np.argsort(-np.abs(drops["ablation_cam"] - drops["grad_cam"]), kind="stable")[:10]
    assert {i for i, entry in entries.items() if selection.DIFFER in entry.reasons} == set(differ)
    best = np.minimum(*drops.values())
    fail = [i for i in np.argsort(-best, kind="stable") if best[i] > 50][:10]
    assert {i for i, entry in entries.items() if selection.FAIL in entry.reasons} == set(fail)
    for one, other in (("ablation_cam", "grad_cam"), ("grad_cam", "ablation_cam")):
        margin = clipped[other] - clipped[one]
        best = sorted(np.flatnonzero(margin > 0), key=lambda i: -margin[i])[:10]
        assert {i for i, entry in entries.items() if f"{one} wins" in entry.reasons} == set(best)
        assert {i for i, entry in entries.items() if entry.winner == one} == {i for i in entries if margin[i] > 0}
    assert sum(selection.RANDOM in entry.reasons for entry in entries.values()) == 10
    assert selection.select(run, POINT, 10) == list(entries.values())


def test_selection_where_pixels_were_removed(tmp_path):
    full, masked = np.array([5.0, 5, 5, 5]), {"a": np.array([1.0, 5, 4, 5]), "b": np.array([2.0, 1, 4, 5])}
    entries = {
        entry.index: entry
        for entry in selection.select(make_run(tmp_path, full, masked, select="remove_top"), Point("remove_top", 20.0, "black"), 1)
    }
    assert (entries[0].winner, entries[1].winner) == ("a", "b") and "all fail" in entries[3].reasons and "b wins" in entries[1].reasons


@pytest.mark.parametrize(("methods", "n"), [(("ablation_cam",), 5), (("random", "constant"), 5), (("ablation_cam", "grad_cam"), 1)])
def test_selection_of_little(tmp_path, methods, n):
    full = np.arange(1.0, n + 1)
    entries = selection.select(make_run(tmp_path, full, dict.fromkeys(methods, full / 2)), POINT, 3)
    assert entries and {entry.winner for entry in entries} == {selection.TIE}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Three protocol points of a tiny network, one of whose pictures is broken; maps stored."""
    place = tmp_path_factory.mktemp("finished")
    (save_pictures(place / "pictures") / "c" / "3.png").write_bytes(b"no picture")
    overrides = [*tiny_overrides(place / "pictures", place / "run"), "protocol.top_percent=[10,20,50]", "maps=store"]
    run_job(compose_jobs(overrides)[0])
    return place / "run"


@pytest.fixture
def run_folder(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def test_the_report_holds_the_tables_and_the_reasons(run_folder, tmp_path):
    runs = load_runs([run_folder])
    assert report_of(runs, tmp_path / "report.html") == []
    page = (tmp_path / "report.html").read_text()
    for line in cells(evaluate_run(runs[0]), main_points(runs[0])[0]):
        assert all(f">{cell}<" in page for cell in line)
    assert "c/3.png" in page and "unreadable: not an image" in page and "RANDOM WEIGHTS" in page
    assert page.count("data:image/svg+xml") == 4 + 3  # of the tables, and of the verdict
    (gallery,) = embedded(page)["galleries"]
    rows = at_point(runs[0].scored, POINT).set_index(["image_id", "method"])
    assert gallery["shown"] == ["ablation_cam", "grad_cam"] and {item["image"] for item in gallery["items"]} == set(
        rows.index.levels[0]
    ) - {"c/3.png"}
    for item in gallery["items"]:
        assert item["photograph"].startswith("data:image/webp")
        for method in item["methods"]:
            row = rows.loc[(item["image"], method["name"])]
            assert method["confidence"] == row.prob_masked and item["confidence"] == row.prob_full and method["logit"] == row.logit_masked
            assert ("map" in method) == ("seen" in method) == (method["name"] in gallery["shown"])


def test_a_report_without_maps_or_images_says_so(folder, tmp_path):
    run_job(compose_jobs(tiny_overrides(folder, tmp_path / "run"))[0])
    (note,) = report_of(load_runs([tmp_path / "run"]), tmp_path / "one.html")
    assert "maps=store" in note and note in (tmp_path / "one.html").read_text()
    folder.rename(tmp_path / "moved")
    (note,) = report_of(load_runs([tmp_path / "run"]), tmp_path / "two.html")
    assert note.startswith("No photographs")
    assert report_of(load_runs([tmp_path / "run"]), tmp_path / "three.html", root=str(tmp_path / "moved"))[0].startswith("No maps")


def test_a_gallery_stays_within_its_bytes(run_folder, tmp_path):
    (note,) = report_of(load_runs([run_folder]), tmp_path / "report.html", most_bytes=5_000)
    assert re.match(r"Only [1-9] of 11 chosen images", note)


def test_the_command(run_folder, tmp_path):
    ended = through_main("report", str(run_folder))
    assert ended.returncode == 0 and "written:" in ended.stderr and (run_folder / "report.html").is_file()
    for arguments, says in (
        ([str(tmp_path / "nothing")], "no run folder was found"),
        ([str(run_folder), "--out", str(tmp_path)], "is a folder"),
    ):
        ended = through_main("report", *arguments)
        assert ended.returncode == 2 and says in ended.stderr and "Traceback" not in ended.stderr


def test_names_in_a_run_are_only_text(tmp_path):
    full, masked = scores(6)
    made = make_run(tmp_path / "run", full, {HOSTILE: masked["grad_cam"], "</script><script>alert(2)": masked["centre"]}, model=HOSTILE)
    report_of([made], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("<script") == 2 and "\x1b" not in page and "<script>alert" not in page
    assert "alert(2)" in embedded(page)["galleries"][0]["methods"][1]


@needs_browser
def test_the_gallery_in_a_browser(run_folder, tmp_path, browser):
    report_of(load_runs([run_folder]), tmp_path / "report.html")
    items = embedded((tmp_path / "report.html").read_text())["galleries"][0]["items"]
    with opened(browser, (tmp_path / "report.html").as_uri()) as page:
        cards = page.locator(".card")
        page.locator(".card img").first.scroll_into_view_if_needed()  # it is loaded only then
        page.wait_for_timeout(500)
        assert cards.count() == len(items) == 11 and page.locator(".card img").first.evaluate("i => i.complete")
        for menu, option, fits in (
            ("winner", "grad_cam", lambda item: item["winner"] == "grad_cam"),
            ("class", "b", lambda item: item["label"] == "b"),
            ("shown because", "drawn at random", lambda item: "drawn at random" in item["reasons"]),
        ):
            page.get_by_label(menu).select_option(option)
            assert cards.count() == sum(map(fits, items)) and f"{cards.count()} of 11 images" in page.locator(".count").inner_text()
            page.get_by_label(menu).select_option("all")
        assert page.locator(".panel").count() == 22
        page.locator(".tick", has_text="centre").click()
        assert page.locator(".panel").count() == 33
        assert page.get_by_text("only scores: pictures are of the first 2 methods").count() == 11
        every = page.get_by_role("button", name="show all images")
        assert not every.is_visible()
        page.get_by_label("winner").select_option("ablation_cam")
        page.get_by_label("shown because").select_option("grad_cam wins")
        assert cards.count() == 0
        every.click()
        assert cards.count() == 11 and page.get_by_label("winner").input_value() == "all" and not every.is_visible()
        first = items[0]["methods"][0]
        assert f"{items[0]['confidence']:.3f} → {first['confidence']:.3f}" in page.locator(".panel").first.inner_text()
        assert page.evaluate("[...document.images].every(i => i.loading === 'lazy' || i.naturalWidth > 0)")


@needs_browser
def test_hostile_names_in_a_browser(tmp_path, browser):
    full, masked = scores(6)
    made = make_run(tmp_path / "run", full, {HOSTILE: masked["grad_cam"], "<img src=http://z/y.png onerror=alert(1)>": masked["centre"]})
    report_of([made], tmp_path / "report.html")
    with opened(browser, (tmp_path / "report.html").as_uri()) as page:
        assert page.locator(".card").count() == 6 and page.locator("img:not([src^='data:'])").count() == 0
