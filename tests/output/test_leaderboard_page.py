"""The leaderboard in a browser: it sorts, filters, has an address for each view, and fits a phone."""

import re
from urllib.parse import parse_qs

import pytest
from browsing import needs_browser, opened
from builders import HOSTILE, fresh, make_run
from playwright.sync_api import expect

from evalkit.output.leaderboard import write_leaderboard
from evalkit.output.leaderboard_check import summary_bytes
from evalkit.output.leaderboard_summary import summarised
from evalkit.runs.folder import RunFolder

SIZES = [(1400, 900), (390, 800)]
METHODS = ("layer_cam", "ablation_cam", "grad_cam", "random", "centre")


@pytest.fixture
def address(tmp_path):
    """Two networks on the same images and one on others, under one protocol point; a further point for the first."""
    rng = fresh()
    full = rng.uniform(1, 9, 40)
    masked = {"layer_cam": 0.7, "ablation_cam": 0.9, "grad_cam": 0.8, "random": 0.1, "centre": 0.3}
    noisy = {name: full * (share + rng.uniform(-0.05, 0.05, 40)) for name, share in masked.items()}
    noisy["worse"] = full * 0.05
    paths = [
        make_run(tmp_path / "one", full, noisy, model="one").path,
        make_run(tmp_path / "soft", full, noisy, model="one", select="soft", top=None, asked={"protocol": "soft"}).path,
        make_run(tmp_path / "two", full, {name: noisy[name] for name in METHODS}, model="two").path,
        make_run(tmp_path / "others", full, noisy, model="three", fingerprint="g", record={"weights": "random (seed 0)"}).path,
    ]
    write_leaderboard(paths, tmp_path / "page.html")
    return (tmp_path / "page.html").as_uri()


def names(page):
    return page.locator("table.board tbody th").all_inner_texts()


def fits(page):
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@needs_browser
@pytest.mark.parametrize("size", SIZES, ids=["desk", "phone"])
def test_sorts_filters_and_remembers(address, browser, size):
    with opened(browser, address) as page:
        page.set_viewport_size({"width": size[0], "height": size[1]})
        assert fits(page)
        assert page.locator("table.board thead th").count() == 4  # the methods and three networks
        page.get_by_label("network").select_option("one")
        by_value = ["ablation_cam", "grad_cam", "layer_cam", "worse", "centre", "random"]
        expect(page.locator("table.board tbody th")).to_have_text(by_value)
        expect(page.locator(".flag")).to_have_text(["worse than centre", "the best control"])
        assert page.locator("circle").count() == 6 and fits(page)
        page.get_by_role("button", name="method", exact=True).click()
        expect(page.locator("table.board tbody th")).to_have_text(["ablation_cam", "grad_cam", "layer_cam", "worse", "centre", "random"])
        page.get_by_role("button", name="method").click()
        expect(page.locator("table.board tbody th")).to_have_text(["worse", "layer_cam", "grad_cam", "ablation_cam", "random", "centre"])
        assert page.locator("th[aria-sort=ascending]").inner_text().startswith("method")
        page.get_by_role("button", name="better than the best control by").press("Enter")
        expect(page.locator("table.board tbody th").first).to_have_text("ablation_cam")
        assert page.evaluate("document.activeElement.dataset.sort") == "gain"  # the keyboard stays where it was
        page.get_by_label("controls", exact=True).uncheck()
        expect(page.locator("table.board tbody th")).to_have_text(["ablation_cam", "grad_cam", "layer_cam", "worse"])
        page.get_by_label("only methods that beat them").check()
        expect(page.locator("table.board tbody th")).to_have_text(["ablation_cam", "grad_cam", "layer_cam"])
        page.get_by_label("methods that contain").fill("GRAD")
        expect(page.locator("table.board tbody th")).to_have_text(["grad_cam"])
        assert page.locator("#says").inner_text().startswith("1 method, 0 controls.") and fits(page)
        same = page.url
    with opened(browser, same) as page:
        page.set_viewport_size({"width": size[0], "height": size[1]})
        assert names(page) == ["grad_cam"] and page.get_by_label("methods that contain").input_value() == "GRAD"
        assert not page.get_by_label("controls", exact=True).is_checked() and fits(page)
        assert page.get_by_label("network").evaluate("menu => menu.selectedOptions[0].textContent") == "one"
        page.get_by_label("protocol point").select_option("soft mask, black fill")
        assert parse_qs(page.url.partition("#")[2])["point"] == ["soft-black"]
        page.go_back()
        assert page.get_by_label("protocol point").input_value() == "keep_top-20-black"
        page.go_forward()
        assert page.get_by_label("protocol point").input_value() == "soft-black"


@needs_browser
def test_says_what_is_not_comparable(address, browser):
    with opened(browser, address) as page:
        says, box = page.locator("#says"), page.locator(".caution")
        assert "columns are measured on different images" in says.inner_text()
        assert box.inner_text().startswith("three: Caution: the network has random weights")
        page.get_by_label("images").select_option(index=1)
        expect(box).to_have_count(0)
        assert page.locator("table.board thead th").count() == 3 and "different images" not in says.inner_text()
        axes = [[label.text_content() for label in axis.locator("text").all()] for axis in page.locator("svg.axis").all()]
        assert axes[0] == axes[1] and len(axes[0]) > 1  # the same images, the same axis
        assert page.locator("tr", has_text="worse").locator("td").last.inner_text() == "not in this run"
        page.get_by_label("protocol point").select_option("soft mask, black fill")
        expect(says).to_contain_text("not shown: two")
        page.goto(f"{address}#point=keep_top-99-black&metric=increase&model=none")
        expect(says).to_contain_text("does not have the network and protocol point of its address")
        assert page.get_by_label("metric").input_value() == "increase"


@needs_browser
def test_shown_numbers_and_marks(tmp_path, browser):
    """Values as rounded as their intervals are wide, bars where the numbers are, and a hollow mark where a control is not beaten."""
    rng = fresh()
    full = rng.uniform(1, 9, 60)
    masked = {"good": full * 0.9, "level": full * rng.uniform(0.3, 0.5, 60), "centre": full * rng.uniform(0.3, 0.5, 60)}
    write_leaderboard([make_run(tmp_path / "run", full, masked).path], tmp_path / "page.html")
    with opened(browser, (tmp_path / "page.html").as_uri()) as page:
        rows = page.evaluate(
            "columns(current(), options(current()).chosen)[0].rows.map(({method, value, low, high}) => [method, value, low, high])"
        )
        for method, *numbers in rows:
            line = page.locator("table.board tbody tr", has_text=re.compile(rf"^\s*{method}"))
            said = [float(number) for number in re.findall(r"[\d.]+", line.locator(".numbers").first.inner_text())]
            assert said == pytest.approx(numbers, abs=0.51) and len(said) == 3
            bar = line.locator("svg.bar line")
            ends = [float(bar.get_attribute(name).rstrip("%")) for name in ("x1", "x2")]
            at = float(line.locator("circle").get_attribute("cx").rstrip("%"))
            scale = (ends[1] - ends[0]) / (numbers[2] - numbers[1]) if numbers[2] > numbers[1] else None
            if scale:
                assert at - ends[0] == pytest.approx((numbers[0] - numbers[1]) * scale, rel=1e-3) and 0 < ends[0] < ends[1] < 100
        fills = {line.locator("th").inner_text(): line.locator("circle").get_attribute("fill") for line in page.locator("tbody tr").all()}
        assert fills["good"] == "var(--accent)" and fills["centre"] == "var(--faint)"
        level = page.locator("tbody tr", has_text="level")
        beaten = level.locator(".flag").count() == 0
        assert fills["level"] == ("var(--accent)" if beaten else "var(--paper)")


@needs_browser
def test_runs_with_other_numbers_of_images_have_their_own_columns(tmp_path, browser):
    rng = fresh()
    full = rng.uniform(1, 9, 12)
    masked = {"grad_cam": full * 0.9, "centre": full * 0.5}
    fewer = make_run(tmp_path / "fewer", full, {"layer_cam": full * 0.8, "centre": full * 0.5}, status={(3, "layer_cam"): "nonfinite"})
    further = make_run(tmp_path / "further", full, {"mine": full * 0.7, "random": full * 0.95})
    write_leaderboard([make_run(tmp_path / "run", full, masked).path, fewer.path, further.path], tmp_path / "page.html")
    with opened(browser, (tmp_path / "page.html").as_uri()) as page:
        assert page.locator("thead th .of").all_inner_texts() == ["set (f), 12 of 12 images", "set (f), 11 of 12 images"]
        assert "with 12 and 11 images scored are not ranked together" in page.locator("#says").inner_text()
        mine = page.locator("tbody tr", has_text="mine").locator("td")
        assert (
            "worse than random" in mine.first.inner_text() and mine.last.inner_text() == "not in this run"
        )  # the floor is the best of both runs
        assert "worse than random" in page.locator("tbody tr", has_text="grad_cam").locator("td").first.inner_text()
        assert "No method is better than random on vgg16: what is rewarded" in page.locator("#says").inner_text()


@needs_browser
@pytest.mark.parametrize("size", SIZES, ids=["desk", "phone"])
def test_hostile_names_in_a_browser(tmp_path, browser, size):
    rng = fresh()
    full = rng.uniform(1, 9, 6)
    masked = {HOSTILE: full / 2, "<img src=http://z/y.png onerror=alert(1)>" * 5: full / 3, "centre": full / 4}
    runs = [make_run(tmp_path / f"{i}", full, masked, model=HOSTILE + str(i), layer="l" * 300, data=HOSTILE).path for i in range(2)]
    for given in (runs, runs[:1]):
        write_leaderboard(given, tmp_path / "page.html")
        with opened(browser, (tmp_path / "page.html").as_uri()) as page:
            page.set_viewport_size({"width": size[0], "height": size[1]})
            assert page.locator("tbody tr").count() == 3 and page.locator("img").count() == 0 and fits(page)
            assert page.locator("tbody th").filter(has_text="<script>alert(1)</script>").count() == 1
            page.locator("details").first.locator("summary").click()
            assert fits(page)


@needs_browser
@pytest.mark.parametrize("size", SIZES, ids=["desk", "phone"])
def test_verified_is_said_of_runs_not_of_columns(tmp_path, browser, size):
    """A column of two runs: how many are verified while not all are, and whose methods are not; then the smallest share."""
    rng = fresh()
    full = rng.uniform(1, 9, 40)
    own = {"first": {"good": full * 0.9, "centre": full * 0.5}, "second": {"mine": full * 0.8, "centre": full * 0.5, "random": full * 0.3}}
    runs = [make_run(tmp_path / name, full, masked).path for name, masked in own.items()]
    records = [
        {"date": "2026-01-02", "images": images, "of": 40, "differences": 0, "rows_digest": RunFolder(run).digest(), "seed": seed}
        for run, images, seed in zip(runs, (4, 10), (3, None), strict=True)
    ]

    def shown(*verified):
        for run, record in zip(runs, verified, strict=True):
            (tmp_path / f"{run.name}.parquet").write_bytes(summary_bytes(summarised(run, verified=[record] if record else [])))
        write_leaderboard([tmp_path / f"{run.name}.parquet" for run in runs], tmp_path / "page.html")
        with opened(browser, (tmp_path / "page.html").as_uri()) as page:
            page.set_viewport_size({"width": size[0], "height": size[1]})
            assert fits(page)
            marked = page.locator("tbody tr", has=page.locator(".flag", has_text="run not verified")).locator("th").all_inner_texts()
            assert page.locator(".gain.known").count() == 3  # the runs have the same best control: all were tested against it
            return page.locator("#board .badge").all_inner_texts(), marked

    assert shown(None, None) == ([], [])
    assert shown(records[0], None) == (["1 of 2 runs verified"], ["mine", "random"])
    assert shown(None, records[1]) == (["1 of 2 runs verified"], ["good"])
    assert shown(*records) == (["verified, 2026-01-02, 10 %, named shards"], [])
    assert shown(records[0], {**records[1], "seed": 3}) == (["verified, 2026-01-02, 10 %"], [])
    assert shown({**records[0], "differences": 1}, records[1]) == (["1 of 2 runs verified"], ["good"])


@needs_browser
@pytest.mark.parametrize("size", SIZES, ids=["desk", "phone"])
def test_long_names_are_cut_and_numbers_stand_on_paper(tmp_path, browser, size):
    rng = fresh()
    full = rng.uniform(1, 9, 20)
    masked = {"m" * 150: full * 0.9, "centre": full * rng.uniform(0, 1, 20)}
    layers = [f"{number}" + "blocks features " * 12 for number in range(2)]
    write_leaderboard([make_run(tmp_path / layer[0], full, masked, layer=layer).path for layer in layers], tmp_path / "page.html")
    with opened(browser, (tmp_path / "page.html").as_uri()) as page:
        page.set_viewport_size({"width": size[0], "height": size[1]})
        assert fits(page) and page.locator("thead th .cut").count() == 3
        for name in page.locator("table.board .cut").all():
            line = float(name.evaluate("node => parseFloat(getComputedStyle(node).lineHeight)"))
            assert name.bounding_box()["height"] <= 2.2 * line
        assert page.locator("tbody th .cut").first.get_attribute("title") == "m" * 150
        assert {f"sort by vgg16, at {layer}" for layer in layers} <= {
            one.get_attribute("title") for one in page.locator("thead button").all()
        }
        assert size[0] > 400 or page.locator("#board .scroll").evaluate("node => node.scrollWidth <= node.clientWidth")
        assert page.locator("thead button").nth(1).inner_text().endswith("▼")
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        for number in page.locator("td .numbers").all():
            box, cell = number.bounding_box(), number.locator("xpath=ancestor::td").bounding_box()
            assert number.evaluate("node => getComputedStyle(node).backgroundColor") == paper and box["width"] < cell["width"]
