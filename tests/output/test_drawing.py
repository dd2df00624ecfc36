"""Figures are the same files wherever they are drawn."""

import matplotlib.pyplot as plt
import pytest
from builders import FULL, MASKED, make_run

from evalkit.analysis.evaluated import evaluate_run
from evalkit.errors import UserError
from evalkit.output import drawing, plots


@pytest.mark.parametrize("cores", [1, 2])
def test_another_process_draws_the_same_bytes(tmp_path, monkeypatch, cores):
    evaluated = evaluate_run(make_run(tmp_path / "run", FULL, MASKED))
    expected = {name: drawing.drawn(figure) for name, figure in plots.figures(evaluated)}
    monkeypatch.setattr(drawing, "cores", lambda: cores)
    with drawing.Drawer() as drawer:
        assert cores == 2 or not drawer.free
        found = {name: drawer.draw(figure) for name, figure in plots.figures(evaluated)}
        assert {name: done.result() for name, done in found.items()} == expected
        plots.write_figures([evaluated], tmp_path / "figures", drawer=drawer)
    assert not plt.get_fignums()
    for name, contents in expected.items():
        assert {form: (tmp_path / "figures" / f"run-{name}.{form}").read_bytes() for form in contents} == contents


def test_the_formats_that_are_asked_for(tmp_path):
    evaluated = evaluate_run(make_run(tmp_path / "run", FULL, MASKED))
    plots.write_figures([evaluated], tmp_path / "figures", drawing.formats_of("svg, png,svg"))
    assert {file.suffix for file in (tmp_path / "figures").iterdir()} == {".svg", ".png"}
    with pytest.raises(UserError, match=r"--plots svg,pmg: 'pmg' is no format of figures; did you mean 'png'\?"):
        drawing.formats_of("svg,pmg")


def test_what_fails_there_fails_here():
    figure, axes = plt.subplots()
    axes.set_title("$x^$", parse_math=True)  # no formula
    with drawing.Drawer() as drawer:
        done = drawer.draw(figure, ("svg",))
        with pytest.raises(ValueError, match=r"ParseException|Expected|parse"):
            done.result()
