"""How far a run is, for those who watch and for those who read a log later."""

import io

import pytest
from rich.console import Console

from evalkit.cli import progress
from evalkit.cli.progress import meter


@pytest.fixture
def clock(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def said(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()


def test_a_log_gets_a_line_now_and_then(clock):
    console = Console(file=io.StringIO(), width=200)
    with meter("[net]", console) as shown:
        clock[0] += 40  # to load the network
        shown.announce(1000, 200)
        for _ in range(9):  # two images a second
            clock[0] += 1
            shown.advance(2)
        assert said(console) == ["[net]: continues: 200 of 1,000 images were done before"]
        clock[0] += 1
        shown.advance(2)
        assert said(console)[1:] == ["[net]: 220 of 1,000 images, 2.0 images/s, 6 min left"]
        for _ in range(30):
            clock[0] += 1
            shown.advance(2)
        assert len(said(console)) == 3  # after 10 seconds, then after 20 more
        for _ in range(350):
            clock[0] += 1
            shown.advance(2)
    assert len(said(console)) == 1 + 5  # after 10, 30, 70, 150 and 310 seconds


@pytest.mark.parametrize(("seconds", "words"), [(0, "0 s"), (89, "89 s"), (90, "2 min"), (3570, "1 h 00 min"), (11100, "3 h 05 min")])
def test_times_in_words(seconds, words):
    assert progress._time(seconds) == words


def test_a_terminal_gets_a_bar():
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    with meter("net", console) as shown:
        shown.announce(10, 4)
        shown.advance(6)
    assert "10/10" in console.file.getvalue() and "images," not in console.file.getvalue()
