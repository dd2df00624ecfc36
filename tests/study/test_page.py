"""Raters at work: the page of each design in a headless browser, opened from disk, answered to its end and scored."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browsing import needs_browser, opened
from commands import through_main as command
from playwright.sync_api import Browser, Page
from studies import digits, page_data, pairs

from evalkit.study.prepare import prepare
from evalkit.study.records import PAGE, read_answers, read_key
from evalkit.study.score import score

pytestmark = needs_browser


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [str(digits(folder / "one", images=40)), str(digits(folder / "two", "digits_gap", 40))]


@pytest.fixture
def studies(runs, folder, tmp_path):
    def made(design: str) -> Path:
        given = {"better": runs[:1], "trust": runs, "which": [str(pairs(folder, tmp_path / "pairs"))] if design == "which" else []}[design]
        prepare(design, given, tmp_path / design, images=3, classes=None if design == "which" else 3)
        return tmp_path / design

    return made


@contextmanager
def rating(browser: Browser, study: Path, rater: str = "Ann") -> Iterator[Page]:
    """The page after a rater's name; leaving it fails the test where the browser complained or asked for another host."""
    with opened(browser, (study / PAGE).as_uri()) as page:
        page.get_by_label("Your name or code").fill(rater)
        page.get_by_role("button", name="Start").click()
        yield page


def current(page: Page, data: dict) -> tuple[str, list[str]]:
    """The item on the screen and its options from left to right, by what is seen of them."""
    pictures = page.eval_on_selector_all("#pictures img", "all => all.map((one) => one.src)")
    kept = json.loads(page.evaluate(f"localStorage.getItem('evalkit-study-{data['study']}')"))
    sheet = kept["sheets"][kept["rater"]]
    item = next(one for one in data["items"] if one["id"] == sheet["order"][sheet["position"]])
    shown = sheet["shown"][item["id"]]
    options = [next(option for option in item["options"] if option["id"] == one) for one in shown]
    maps = [item["picture"]] if "picture" in item else [option["picture"] for option in options]
    assert pictures == [item["photograph"], *maps]
    names = [option["name"] for option in options if "name" in option]
    assert names == [text[1:] for text in page.locator("#choices button").all_text_contents()][: len(names)]
    return item["id"], shown


def save(page: Page, folder: Path) -> Path:
    with page.expect_download() as coming:
        page.get_by_role("button", name="Save answers").click()
    file = folder / coming.value.suggested_filename
    coming.value.save_as(file)
    assert f"Saved as {file.name}" in page.locator("#saved").text_content()
    return file


def test_better_by_keyboard(studies, tmp_path, browser):
    study = studies("better")
    key, data = read_key(study), page_data(study)
    with rating(browser, study) as page:
        size = len(key.items)
        for number in range(size):
            assert page.locator("#progress").text_content() == f"{number + 1} of {size}"
            item, shown = current(page, data)
            at = [key.items[item].options[one] for one in shown].index("ablation_cam")
            page.keyboard.press(str(at + 1) if number else "3")
        assert f"All {size} answered" in page.locator("#done").text_content()
        file = save(page, tmp_path)
        found = score(key, read_answers(key, [file])).table.set_index("of").value
        assert found[["ablation_cam", "grad_cam", "same"]].tolist() == [size - 1, 0, 1]
        ended = command("study", "score", str(study), str(file))
        assert ended.returncode == 0 and f"{size} of {size} answers, 0 skipped" in ended.stdout


def test_trust_by_mouse(studies, tmp_path, browser):
    study = studies("trust")
    key, data = read_key(study), page_data(study)
    with rating(browser, study) as page:
        while page.locator("#item").is_visible():
            item, shown = current(page, data)
            first = key.items[item].options[shown[0]] == "digits_fc"
            page.wait_for_timeout(300)  # a click sooner than anybody can look is taken for the second of two
            page.get_by_role("button", name="slightly more (+1)" if first else "slightly less (-1)").click()
        (sheet,) = read_answers(key, [save(page, tmp_path)])
        found = score(key, [sheet]).table
        assert found.value.tolist() == [1] and set(sheet.answers.values()) <= {1, -1}


def test_which_by_keyboard(studies, tmp_path, browser):
    study = studies("which")
    key, data = read_key(study), page_data(study)
    with rating(browser, study) as page:
        while page.locator("#item").is_visible():
            item, shown = current(page, data)
            asked = key.items[item]
            named = [asked.options[one] for one in shown].index(asked.target_name)
            page.keyboard.press(str(named + 1) if asked.method == "guided_ablation_cam" else "3")
        found = score(key, read_answers(key, [save(page, tmp_path)])).table.query("quantity == 'correct %'")
        assert found.value.tolist() == [100, 0, 100]


def test_going_back_skipping_and_reloading(studies, tmp_path, browser):
    study = studies("better")
    key, data = read_key(study), page_data(study)
    size = len(key.items)
    with rating(browser, study, "Zoë 7") as page:
        first, _ = current(page, data)
        for pressed in "123":
            page.keyboard.press(pressed)
        page.keyboard.press("ArrowRight")  # the fourth is skipped
        fifth, shown = current(page, data)
        page.reload()
        assert page.locator("#progress").text_content() == f"5 of {size}" and current(page, data) == (fifth, shown)
        for _ in range(4):
            page.keyboard.press("ArrowLeft")
        assert current(page, data)[0] == first and page.locator("#back").is_disabled()
        assert page.locator("#choices [aria-pressed=true]").text_content() == "1A"
        page.keyboard.press("2")
        page.keyboard.press("Control+1")
        assert page.locator("#progress").text_content() == f"2 of {size}"
        page.get_by_role("button", name="To the end, to save").click()
        assert page.locator("#done").text_content() == f"3 of {size} answered"
        file = save(page, tmp_path)
        (sheet,) = read_answers(key, [file])
        assert (len(sheet.answers), sheet.rater, file.name) == (3, "Zoë 7", "answers-Zoë_7.json")
        assert sheet.answers[first] == sheet.shown[first][1] and fifth not in sheet.answers
        assert score(key, [sheet]).skipped == size - 3
        page.get_by_role("button", name="Go to the first without an answer").click()
        assert page.locator("#progress").text_content() == f"4 of {size}"


def test_raters_who_share_a_browser(studies, browser):
    study = studies("better")
    data = page_data(study)
    with rating(browser, study) as page:
        page.keyboard.press("1")
        ann, _ = current(page, data)
        page.get_by_role("button", name="Not Ann?").click()
        page.get_by_label("Your name or code").fill("<b>Bob</b>")
        page.keyboard.press("Enter")
        assert page.locator("#progress").text_content().startswith("1 of")
        page.get_by_role("button", name="Not <b>Bob</b>?").click()
        page.get_by_label("Your name or code").fill("  ")
        page.keyboard.press("Enter")
        assert page.locator("#start").is_visible()
        page.get_by_label("Your name or code").fill("Ann")
        page.keyboard.press("Enter")
        assert current(page, data)[0] == ann and page.locator("#progress").text_content().startswith("2 of")
        kept = json.loads(page.evaluate(f"localStorage.getItem('evalkit-study-{data['study']}')"))["sheets"]
        assert kept["Ann"]["order"] != kept["<b>Bob</b>"]["order"]
        turned = {shown == sorted(shown) for sheet in kept.values() for shown in sheet["shown"].values()}
        assert turned == {True, False}  # of 18 pairs


def test_a_browser_that_keeps_nothing(studies, tmp_path, browser):
    study = studies("better")
    key = read_key(study)
    refuse = "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('denied', 'SecurityError'); }});"
    with opened(browser, (study / PAGE).as_uri()) as page:
        page.add_init_script(refuse)
        page.reload()
        page.get_by_label("Your name or code").fill("Ann")
        page.keyboard.press("Enter")
        assert page.locator("#forgetful").is_visible()
        for _ in key.items:
            page.keyboard.press("3")
        (sheet,) = read_answers(key, [save(page, tmp_path)])
        assert len(sheet.answers) == len(key.items)


def test_a_double_click_answers_once(studies, browser):
    study = studies("better")
    with rating(browser, study) as page:
        page.wait_for_timeout(300)
        page.locator("#choices button").nth(2).dblclick()
        assert page.locator("#progress").text_content().startswith("2 of")
        assert page.locator("#choices [aria-pressed=true]").count() == 0


@pytest.mark.parametrize("design", ["better", "trust", "which"])
def test_it_fits_the_screen(design, studies, browser):
    with rating(browser, studies(design)) as page:
        for width, height in ((1280, 720), (390, 844), (360, 640)):
            page.set_viewport_size({"width": width, "height": height})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            boxes = [one.bounding_box() for one in page.locator("#choices button").all()]
            assert min(box["height"] for box in boxes) >= 44  # for fingers
            if (width, design) != (360, "trust"):  # five buttons under three pictures: there one scrolls
                assert max(box["y"] + box["height"] for box in boxes) <= height
