"""What a user's file does wrong while it is imported or called ends in one sentence that names the file."""

import argparse
import sys

import pytest

from evalkit.errors import UserError
from evalkit.evaluation.apply import apply_method
from evalkit.evaluation.session import load_source
from evalkit.imports import arguments_refused, exit_of_users_code, find, is_users
from evalkit.models import zoo
from evalkit.models.settings import ModelConfig

PARSES = "import argparse\n{}argparse.ArgumentParser().parse_args()\n"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module `theirs_N` and returns its name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["evalkit", "run", "model=custom"])
    names = (f"theirs_{number}" for number in range(9))

    def write(text: str) -> str:
        name = next(names)
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return name

    yield write
    for name in [name for name in sys.modules if name.startswith("theirs_")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import sys\nsys.exit(0)\n", "importing 'theirs_0' failed: theirs_0.py, line 2, calls sys.exit(0)"),
        ("\nexit('done')\n", "theirs_0.py, line 2, calls sys.exit('done')"),
        ("raise SystemExit\n", "theirs_0.py, line 1, calls sys.exit()"),
        (
            PARSES.format(""),
            "theirs_0.py, line 2, parses the arguments of the command line, which are evalkit's; put that under if __name__",
        ),
        ("import absent_package.part\n", "theirs_0.py, line 1, needs the package absent_package, which is not installed"),
        ("from math import nothing\n", "failed: ImportError: cannot import name 'nothing' from 'math'"),
        ("def f(:\n", "failed: SyntaxError: invalid syntax (theirs_0.py, line 1)"),
        ("def g(): g()\ng()\n", "failed: RecursionError: maximum recursion depth exceeded (theirs_0.py, line 1)"),
        ("raise ValueError('a\\nb')\n", "failed: ValueError: a (theirs_0.py, line 1)"),
    ],
)
def test_at_import(module, capsys, text, says):
    with pytest.raises(UserError) as mistake:
        find(f"{module(text)}.f", "model.factory")
    assert says in str(mistake.value) and str(mistake.value).startswith("model.factory=theirs_0.f: ") and "\n" not in str(mistake.value)
    assert capsys.readouterr() == ("", "")


def test_an_interrupt_and_what_a_file_prints_stay(module, capsys):
    with pytest.raises(KeyboardInterrupt):
        find(f"{module('raise KeyboardInterrupt')}.f", "model.factory")
    name = module("import sys\nprint('out')\nprint('err', file=sys.stderr)\nf = print\n")
    assert find(f"{name}.f", "model.factory") is print and capsys.readouterr() == ("out\n", "err\n")


def config(factory: str) -> ModelConfig:
    return ModelConfig(
        name="x", factory=factory, args={}, weights=None, seed=0, layer="features", resize=(16, 16), crop=None, interpolation="bilinear",
        mean=(0, 0, 0), std=(1, 1, 1), classes=None, class_map=None, output="softmax", expected_top1=None, expected_top1_source=None,
        paper_table=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def f():\n    import sys\n    sys.exit(3)\n", "theirs_0.py, line 3, calls sys.exit(3)"),
        ("def f():\n    import absent_package\n", "theirs_0.py, line 2, needs the package absent_package"),
        ("def f():\n" + "    " + PARSES.format("    ").strip() + "\n", "theirs_0.py, line 3, parses the arguments of the command line"),
    ],
)
def test_in_the_factory(module, capsys, text, says):
    with pytest.raises(UserError, match=says.replace("(", r"\(").replace(")", r"\)")):
        zoo.build(config(f"{module(text)}.f"))
    assert capsys.readouterr() == ("", "")


def test_in_a_data_source_and_a_method(module):
    name = module("import sys\ndef source(): sys.exit(1)\ndef method(probe): sys.exit(1)\n")
    with pytest.raises(UserError, match=r"data=mine cannot be opened: theirs_0.py, line 2, calls"):
        load_source({"name": "mine", "_target_": f"{name}.source"})
    with pytest.raises(UserError, match=r"method mine failed: theirs_0.py, line 3, calls"):
        apply_method("mine", find(f"{name}.method", "method.mine._target_"), None)


def test_an_exit_anywhere_else_is_told_from_our_own(module):
    name = module("import sys\ndef f(): sys.exit(0)\n")
    with pytest.raises(SystemExit) as stop:
        find(f"{name}.f", "model.factory")()
    assert stop.value.__traceback__ is not None
    stop.value.__traceback__ = stop.value.__traceback__.tb_next  # without this file
    assert exit_of_users_code(stop.value) == "theirs_0.py, line 2, calls sys.exit(0), and a run cannot go on after that"
    assert exit_of_users_code(SystemExit(0)) is None


def test_argparse_is_itself_again_afterwards():
    original = argparse.ArgumentParser.error
    with pytest.raises(SystemExit), arguments_refused():
        argparse.ArgumentParser().parse_args(["x"])
    assert argparse.ArgumentParser.error is original


def test_whose_files(tmp_path):
    (tmp_path / "mine.py").write_text("")
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "theirs.py").write_text("")
    assert (
        is_users(tmp_path / "mine.py") and not is_users(tmp_path / "site-packages" / "theirs.py") and not is_users(tmp_path / "absent.py")
    )


def test_a_base_exception_of_a_users_file_is_an_error_of_the_user(tmp_path, monkeypatch):
    (tmp_path / "his_stop.py").write_text("class Stop(BaseException): ...\nraise Stop('no licence')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"importing 'his_stop' failed: .*no licence"):
        find("his_stop.f", "k")
