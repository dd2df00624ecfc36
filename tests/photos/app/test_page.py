"""The app as its reader meets it: a real server, a real browser, keyboard and mouse."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from browsing import needs_browser
from builders import ROOT
from commands import Command
from playwright.sync_api import Page, expect

from evalkit.data.digits import Digits
from evalkit.photos.app import answers, channels
from evalkit.photos.app.answers import ExplainRequest
from evalkit.photos.app.explainer import Explainer, View
from evalkit.photos.app.offer import open_album, open_offer

pytestmark = needs_browser
OVERRIDES = ["limit=6", "method=[ablation_cam,grad_cam,cam]"]


APP = ["app", "--port", "0", "--no-browser"]


def start(folder: Path, *arguments: str) -> tuple[Command, str]:
    """Start a server in a fork, and return its address too."""
    command = Command(folder / "printed", *APP, *arguments)
    line = command.line()
    assert "Ctrl-C ends" in line, command.err.read_text()
    return command, line.split()[0]


def stop(command: Command) -> str:
    os.kill(command.pid, signal.SIGINT)
    code, errors = command.wait(60), command.err.read_text()
    assert code == 0, errors
    return errors


@pytest.fixture(scope="module")
def address():
    """A server that starts and ends as a user's does."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "evalkit", *APP, *OVERRIDES]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    line = process.stdout.readline()
    assert "Ctrl-C ends" in line, process.communicate()[1]
    yield line.split()[0]
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 0 and errors == "", errors  # nothing went wrong behind the page either


@pytest.fixture(scope="module")
def explainer():
    offer = open_offer(OVERRIDES, None)
    return Explainer(offer, open_album(offer.config))


@pytest.fixture
def page(address, browser):
    """A fresh page; at its end nothing was complained of in the console, and nobody else was asked."""
    tab = browser.new_page(viewport={"width": 1280, "height": 800})
    complaints, asked = [], []
    tab.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(address)
    settled(tab)
    yield tab
    tab.close()
    refused = "the server responded with a status of 422"  # Chromium's own line about a question that ended in a sentence
    assert [text for text in complaints if refused not in text] == []
    assert {url.split("/")[2] for url in asked if not url.startswith(("data:", "blob:"))} == {urlsplit(address).netloc}


def settled(page: Page) -> None:
    page.locator("#answers[aria-busy=false]").wait_for(timeout=60_000)


def short(value: float) -> str:
    """As the page writes numbers."""
    return "<0.001" if 0 < value < 0.0005 else f"{value:.3f}".replace("-", "\N{MINUS SIGN}")


def numbers(page: Page, method: str) -> list[list[str]]:
    return [row.locator("td").all_inner_texts() for row in page.locator(f"[data-method={method}] tbody tr").all()]


def expected(explainer: Explainer, method: str, top: float, *, select="keep_top", fill="black", **view) -> tuple[list[list[str]], str]:
    """Scores and picture, as the explainer of this process computes them."""
    point = {"select": select, "top_percent": None if select == "soft" else top, "fill": fill}
    asked = ExplainRequest(view=View(**{"photo": "s0", "model": "digits_fc", **view}), methods=[method], point=point)
    found = answers.explain(explainer, asked)["methods"][method]
    rows = []
    for score in ("confidence", "logit"):
        before, after, drop, increased = (found[score][key] for key in ("before", "after", "drop", "increased"))
        lost = "undefined" if drop is None else "0 % (rose)" if increased else f"{drop:.1f} %"
        rows.append([short(before), short(after), lost])
    return rows, found["picture"]


def shown(page: Page, method: str) -> tuple[list[list[str]], str]:
    return numbers(page, method), page.locator(f"[data-method={method}] img").nth(1).get_attribute("src")


def fragment(page: Page) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).fragment).items()}


def test_first_sight(page, explainer):
    view = answers.view(explainer, View(photo="s0", model="digits_fc"))
    expect(page.locator("#top button")).to_have_count(5)
    listed = [button.inner_text().split("\n") for button in page.locator("#top button").all()]
    assert [words[:2] for words in listed] == [[found["name"], short(found["confidence"])] for found in view["top"]]
    expect(page.locator("#question")).to_contain_text(f"Why “{view['target']['name']}”?")
    assert page.locator("#picture").get_attribute("src") == view["picture"]
    assert page.locator("[data-method]").evaluate_all("them => them.map(it => it.dataset.method)") == ["ablation_cam", "grad_cam", "cam"]
    assert shown(page, "ablation_cam") == expected(explainer, "ablation_cam", 20)
    expect(page.locator("[data-method=cam]")).to_contain_text("cam is not possible here: cam needs global average pooling")
    expect(page.locator("#problem")).to_have_text("")


def test_another_sample_and_another_class(page, explainer):
    page.locator("#photos button").nth(4).click()
    settled(page)
    view = answers.view(explainer, View(photo="s4", model="digits_fc"))
    second = view["top"][1]
    button = page.locator("#top button").nth(1)
    button.focus()
    page.keyboard.press("Enter")
    settled(page)
    expect(page.locator("#question")).to_contain_text(f"Why “{second['name']}”?")
    expect(button).to_have_attribute("aria-pressed", "true")
    assert shown(page, "grad_cam") == expected(explainer, "grad_cam", 20, photo="s4", target=second["index"])


def test_a_class_by_name_by_number_and_one_that_does_not_exist(page, explainer):
    for typed in ("7", "9"):
        page.get_by_label("Any other class").fill(typed)
        page.keyboard.press("Enter")
        settled(page)
        expect(page.locator("#question")).to_contain_text(f"Why “{typed}”?")
        assert shown(page, "grad_cam") == expected(explainer, "grad_cam", 20, target=int(typed))
        pressed = page.locator("#top button[aria-pressed=true]")  # also where it is none of the likeliest
        expect(pressed).to_have_count(1)
        expect(pressed).to_contain_text(typed)
    page.set_viewport_size({"width": 600, "height": 500})
    page.get_by_label("Any other class").fill("<b>espresso</b>")
    page.keyboard.press("Enter")
    settled(page)
    expect(page.locator("#problem")).to_contain_text("target=<b>espresso</b>: the model has no such class")
    expect(page.get_by_label("Any other class")).to_be_in_viewport()
    expect(page.locator("#problem")).to_be_in_viewport()  # although it stands at the top of the page
    expect(pressed).to_contain_text("9")
    expect(page.locator("#question")).to_contain_text("Why “9”?")
    assert shown(page, "grad_cam") == expected(explainer, "grad_cam", 20, target=9)


def test_methods_come_and_go(page, explainer):
    page.get_by_label("centre", exact=True).check()
    page.get_by_label("constant", exact=True).check()
    page.get_by_label("cam", exact=True).uncheck()
    settled(page)
    assert page.locator("[data-method]").count() == 4 and page.locator("[data-method=cam]").count() == 0
    assert shown(page, "centre") == expected(explainer, "centre", 20)
    expect(page.locator("[data-method=constant]")).to_contain_text("This map is constant")
    assert fragment(page)["methods"] == "ablation_cam,grad_cam,centre,constant"


def test_the_slider_by_keyboard_and_by_mouse(page, explainer):
    slider = page.get_by_label("of the pixels")
    slider.focus()
    for _ in range(7):
        page.keyboard.press("ArrowRight")
    settled(page)
    expect(page.locator("#percent")).to_have_text("27 %")
    assert shown(page, "ablation_cam") == expected(explainer, "ablation_cam", 27)
    box = slider.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.27, box["y"] + box["height"] / 2)
    page.mouse.down()
    for share in (0.4, 0.6, 0.8):
        page.mouse.move(box["x"] + box["width"] * share, box["y"] + box["height"] / 2, steps=10)
    page.mouse.up()
    settled(page)
    top = int(slider.input_value())
    assert 70 < top < 90
    for method in ("ablation_cam", "grad_cam"):
        assert shown(page, method) == expected(explainer, method, top)
    expect(page.locator("[data-method=grad_cam] figcaption").nth(1)).to_have_text(f"{round(top / 100 * 4096):,} of 4,096 pixels")


def test_what_is_kept_and_what_replaces_the_rest(page, explainer):
    page.get_by_label("The rest is").select_option("mean")
    page.get_by_label("The network sees").select_option("remove_top")
    settled(page)
    assert shown(page, "grad_cam") == expected(explainer, "grad_cam", 20, select="remove_top", fill="mean")
    page.get_by_label("The network sees").select_option("soft")
    settled(page)
    expect(page.get_by_label("of the pixels")).to_be_disabled()
    assert shown(page, "grad_cam") == expected(explainer, "grad_cam", 0, select="soft", fill="mean")


def test_an_uploaded_photograph(page, explainer, tmp_path):
    Digits().load(5).save(tmp_path / "mine.png")
    page.get_by_label("Your own").set_input_files(tmp_path / "mine.png")
    expect(page.locator("#photos button")).to_have_count(7)
    settled(page)
    expect(page.locator("#photos button").last).to_have_attribute("aria-pressed", "true")
    assert shown(page, "ablation_cam") == expected(explainer, "ablation_cam", 20, photo="s5")
    page.reload()
    settled(page)
    expect(page.locator("#photos button")).to_have_count(7)
    assert shown(page, "ablation_cam") == expected(explainer, "ablation_cam", 20, photo="s5")


def test_a_text_called_png(page, explainer, tmp_path):
    hostile = tmp_path / "<img src=x onerror=alert(1)>.png"
    hostile.write_text("no picture")
    page.get_by_label("Your own").set_input_files(hostile)
    expect(page.locator("#problem")).to_contain_text("<img src=x onerror=alert(1)>.png cannot be read: not an image in JPEG, PNG")
    assert page.locator("#photos button").count() == 6 and page.locator("img[src=x]").count() == 0
    (tmp_path / "long.png").write_bytes(b"\0" * 10_000_001)
    page.get_by_label("Your own").set_input_files(tmp_path / "long.png")
    expect(page.locator("#problem")).to_contain_text("long.png has more than 10 MB")
    page.locator("#photos button").nth(1).click()
    settled(page)
    expect(page.locator("#problem")).to_have_text("")
    assert shown(page, "grad_cam") == expected(explainer, "grad_cam", 20, photo="s1")


def test_another_network_and_another_layer(page, explainer):
    page.get_by_label("Model").select_option("digits_gap")
    settled(page)
    assert shown(page, "cam") == expected(explainer, "cam", 20, model="digits_gap")
    layer = page.get_by_label("Layer that is explained")
    assert "(proposed)" in layer.locator("option:checked").inner_text()
    layer.select_option("features.6")
    settled(page)
    assert shown(page, "grad_cam") == expected(explainer, "grad_cam", 20, model="digits_gap", layer="features.6")
    expect(page.locator("[data-method=cam]")).to_contain_text("cam is not possible here")
    page.get_by_label("Model").select_option("cifar7")
    settled(page)
    expect(page.locator("#weights")).to_contain_text("RANDOM WEIGHTS")


def test_the_address_can_be_shared(page, address, browser, explainer):
    page.locator("#photos button").nth(2).click()
    page.get_by_label("Model").select_option("digits_gap")
    page.get_by_label("Any other class").fill("6")
    page.keyboard.press("Enter")
    page.get_by_label("of the pixels").fill("45")
    settled(page)
    assert fragment(page) == {
        "photo": "s2", "model": "digits_gap", "layer": "features.13", "target": "6", "methods": "ablation_cam,grad_cam,cam",
        "select": "keep_top", "top": "45", "fill": "black",
    }  # fmt: skip
    other = browser.new_page()
    other.goto(page.url)
    settled(other)
    assert shown(other, "cam") == shown(page, "cam") == expected(explainer, "cam", 45, photo="s2", model="digits_gap", target=6)
    other.close()


def open_channels(page) -> None:
    page.locator("#channels-fold summary").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#channels button").first).to_be_visible(timeout=60_000)
    settled(page)


def order(page) -> list[int]:
    return page.locator("#channels button").evaluate_all("them => them.map(it => Number(it.dataset.channel))")


def test_all_channels_of_the_layer(page, explainer):
    """Tiles, order, keyboard and the enlarged channel, against the probe of this process."""
    open_channels(page)
    probe = explainer.probe(explainer.resolve(View(photo="s0", model="digits_fc")))
    assert order(page) == list(range(64))
    expect(page.locator("#channels-about")).to_have_text("64 channels of 16 x 16 positions.")
    values = {"drop": probe.drops[0], "weight": probe.gradients[0].mean((1, 2)), "mean": probe.activations[0].mean((1, 2))}
    for name, by_number in values.items():
        page.get_by_label("In the order of").select_option(name)
        assert order(page) == by_number.argsort(descending=True, stable=True).tolist()
    page.get_by_label("In the order of").focus()
    second = order(page)[1]
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.channel") == str(second)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    settled(page)
    expect(page.locator("#channel h3")).to_have_text(f"Channel {second}")
    expect(page.locator(f"[data-channel='{second}']")).to_have_attribute("aria-pressed", "true")
    shown = [float(text.replace("\N{MINUS SIGN}", "-")) for text in page.locator("#channel td").all_inner_texts()]
    assert shown == pytest.approx([float(by_number[second]) for by_number in values.values()], rel=6e-3)
    found = channels.channel(explainer, channels.ChannelRequest(view=View(photo="s0", model="digits_fc"), number=second))
    assert page.locator("#channel img").get_attribute("src") == found["picture"]
    assert {"channels": "true", "channel": str(second), "by": "mean"}.items() <= fragment(page).items()
    assert page.evaluate("document.querySelector('#channels').scrollWidth <= document.querySelector('#channels').clientWidth")


def test_channels_follow_the_photograph_and_the_layer(page, explainer):
    open_channels(page)
    page.locator("#channels button").nth(7).click()
    settled(page)
    page.locator("#photos button").nth(3).click()
    settled(page)
    expect(page.locator("#channel h3")).to_have_text("Channel 7")  # it stays, of the new photograph
    seen = View(photo="s3", model="digits_fc")
    assert (
        page.locator("#channel img").get_attribute("src")
        == channels.channel(explainer, channels.ChannelRequest(view=seen, number=7))["picture"]
    )
    grid = page.locator("#channels")
    assert channels.channels(explainer, seen)["sprite"] in grid.evaluate("it => it.style.getPropertyValue('--sprite')")
    page.get_by_label("Layer that is explained").select_option("features.2")
    settled(page)
    expect(page.locator("#channels button")).to_have_count(16)
    expect(page.locator("#channel")).to_be_hidden()
    inner = View(photo="s3", model="digits_fc", layer="features.2")
    assert channels.channels(explainer, inner)["sprite"] in grid.evaluate("it => it.style.getPropertyValue('--sprite')")
    page.locator("#channels-fold summary").click()
    page.wait_for_function("() => !location.hash.includes('channels')")  # the address changes after the fold does


def test_an_address_with_a_channel(page, address, explainer):
    page.goto("about:blank")
    page.goto(f"{address}/#model=digits_gap&methods=grad_cam&channels=true&channel=5&by=drop")
    settled(page)
    expect(page.locator("#channel h3")).to_have_text("Channel 5")
    drops = explainer.probe(explainer.resolve(View(photo="s0", model="digits_gap"))).drops[0]
    assert order(page) == drops.argsort(descending=True, stable=True).tolist()
    page.goto("about:blank")
    page.goto(f"{address}/#model=digits_gap&methods=grad_cam&channels=true&channel=64&by=colour")
    settled(page)
    expect(page.locator("#problem")).to_contain_text("layer 'features.13' has no channel 64: it has 64, from 0 to 63")
    expect(page.locator("#channel")).to_be_hidden()
    assert order(page) == list(range(64)) and "channel" not in fragment(page)


def test_an_address_of_another_server(page, address):
    page.goto("about:blank")  # the page opens anew: with the fragment alone changed it would not
    page.goto(f"{address}/#photo=gone&layer=nowhere&target=espresso&methods=grad_cam,nothing&select=pink&fill=mean&top=999")
    settled(page)
    expect(page.locator("#problem")).to_contain_text("no longer here")
    assert {"photo": "s0", "methods": "grad_cam", "select": "keep_top", "fill": "mean", "top": "20"}.items() <= fragment(page).items()
    expect(page.locator("[data-method]")).to_have_count(1)


def test_the_panels_as_a_picture(page):
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as PNG").click()
    assert saved.value.suggested_filename.startswith("evalkit-digits_fc-")
    with open(saved.value.path(), "rb") as file:  # noqa: PTH123 - playwright's own folder
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"


def test_a_narrow_screen(page):
    page.set_viewport_size({"width": 390, "height": 844})
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_every_control_has_a_name_and_is_reached_by_keyboard(page):
    nameless = page.locator("button, select, input").evaluate_all(
        "them => them.filter(it => !(it.labels?.length || it.innerText.trim() || it.querySelector('img')?.alt)).map(it => it.outerHTML)"
    )
    assert nameless == []
    seen = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.value || document.activeElement.dataset.photo"))
    assert {"s0", "file", "model", "layer", "class", "grad_cam", "select", "fill", "top-percent", "download"} <= seen


def test_weights_that_cannot_be_had_random_ones_and_classes_with_hostile_names(browser, tmp_path):
    """A network of the user's own, whose yaml names a file that is not there."""
    hostile = "<img src=x onerror=alert(1)>"
    settings = yaml.safe_load((ROOT / "conf" / "model" / "digits_fc.yaml").read_text())
    settings |= {"name": "lost", "weights": "/nowhere.safetensors", "classes": [f"{hostile}{i}" for i in range(10)]}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "lost.yaml").write_text(yaml.safe_dump(settings))
    process, address = start(tmp_path, "limit=1", "method=[grad_cam]", "--conf", str(tmp_path))
    tab = browser.new_page()
    tab.goto(address)
    settled(tab)
    tab.get_by_label("Model").select_option("lost")
    settled(tab)
    expect(tab.locator("#problem")).to_contain_text("no weights file /nowhere.safetensors")
    assert tab.locator("[data-method]").count() == 0
    tab.get_by_role("button", name="RANDOM WEIGHTS").click()
    settled(tab)
    expect(tab.locator("#weights")).to_contain_text("RANDOM WEIGHTS")
    expect(tab.locator("#question")).to_contain_text(hostile)
    expect(tab.locator("#problem")).to_have_text("")
    assert tab.locator("[data-method=grad_cam] tbody tr").count() == 2 and tab.locator("img[src=x]").count() == 0
    assert fragment(tab)["random"] == "true"
    tab.get_by_label("Model").select_option("digits_fc")
    settled(tab)
    expect(tab.locator("#weights")).to_have_text("")
    assert "random" not in fragment(tab)
    tab.close()
    stop(process)


def test_a_server_that_has_ended(browser, tmp_path):
    process, address = start(tmp_path, "limit=2")
    tab = browser.new_page()
    tab.goto(address)
    settled(tab)
    stop(process)
    tab.locator("#photos button").nth(1).click()
    expect(tab.locator("#problem")).to_contain_text("the server does not answer")
    tab.close()


def test_others_are_let_in_with_a_warning_only(tmp_path):
    process, address = start(tmp_path, "limit=1", "--host", "0.0.0.0")
    assert address.startswith("http://0.0.0.0:")
    assert "anyone who can reach 0.0.0.0 can use this page" in stop(process)
