"""What README and documentation show, done: commands by the code that would run them, Python as it stands.

Commands that need nothing else run, on four images. Those that need ImageNet, weights of other networks, a cluster or a store
are composed: options parsed, keys and names checked, methods found. Their run folder is then made by the embedded network, so
that what reads it runs too.
"""

import ast
import functools
import inspect
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from builders import ROOT
from safetensors.torch import save_file
from torch.distributed.run import get_args_parser
from torchvision.models import vgg16
from typer.main import get_command
from typer.testing import CliRunner

from evalkit.cli.main import app
from evalkit.config.compose import compose_jobs
from evalkit.config.schema import Job
from evalkit.data.digits import Digits
from evalkit.evaluation.apply import load_methods
from evalkit.imports import find
from evalkit.launch.local import worker_count
from evalkit.launch.run import run_job
from evalkit.runs.like import beside

FEW = ["limit=4", "workers=0"]
PROGRAMS = ("evalkit", "make", "python", "pip", "torchrun")
SCRIPTS_THAT_RUN = ("experiments/findings/average_drops.py",)


@dataclass(frozen=True)
class Block:
    """A block of code on a page; without a language it was indented, and may hold other things than commands."""

    line: int
    language: str
    title: str
    text: str


def blocks(markdown: str) -> Iterator[Block]:
    """Fenced and indented blocks, in order."""
    for found in re.finditer(r"^```(\w*)(.*)\n((?s:.*?))^```$|(?<=\n\n)((?:    .*\n|\n(?=    ))+)", markdown, re.MULTILINE):
        language, rest, fenced, indented = found.groups()
        line = markdown.count("\n", 0, found.start()) + 1
        title = re.search(r'title="([^"]+)"', rest or "")
        yield Block(line, language or "", title.group(1) if title else "", fenced if indented is None else indented)


def commands(block: Block) -> Iterator[list[str]]:
    """Words of each command of a block, without comments, and without what sets the environment."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if block.language != "bash" and not re.match(rf"\s*(?:[A-Z_]+=\S+ )?(?:{'|'.join(PROGRAMS)}) ", line):
            continue
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word != "&&":
                words.append(word)
                continue
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words:
                yield words
            words = []


class Reader:
    """Somebody who follows one page from top to bottom, in a folder with a copy of the Makefile and some stand-ins."""

    def __init__(self, folder: Path, excepted: Sequence[str]) -> None:
        self.folder, self.excepted = folder, excepted
        self.namespace: dict[str, object] = {}
        self.done: set[str] = set()
        self.said: list[str] = []
        shutil.copy(ROOT / "Makefile", folder)
        for name in ("experiments", "pyproject.toml", "constraints.txt"):
            (folder / name).symlink_to(ROOT / name)
        (folder / "classes.txt").write_text("a\nb\nc\n")
        for i in range(3):
            for name in ("dog.jpg", "cat.jpg", f"photos/{'abc'[i]}/{i}.jpg"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                Digits().load(i).save(folder / name)

    def follow(self, block: Block) -> None:
        """Write, run or check one block."""
        name = block.title or self._name_inside(block)
        if name:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(block.text)
        if block.language == "python":
            exec(compile(block.text, name or "block", "exec"), self.namespace)
            if "mynet" in self.namespace:  # its weights are the reader's
                save_file(self.namespace["mynet"]().state_dict(), self.folder / "mynet.safetensors")
        elif block.language in ("", "bash"):
            for words in commands(block):
                self.do(words)
        elif block.language == "py":
            ast.parse(block.text)  # a signature
        else:
            assert block.language in ("yaml", "text", "sql"), f"nobody checks a block of {block.language}"

    @staticmethod
    def _name_inside(block: Block) -> str:
        """Of blocks that say in their first line which file they are."""
        first = block.text.partition("\n")[0]
        if block.language == "yaml" and (package := re.fullmatch(r"# @package method\.(\w+)", first)):
            return f"myconf/method/{package.group(1)}.yaml"
        named = re.fullmatch(r"# ([\w/]+\.py)", first)
        return named.group(1) if named else ""

    def do(self, words: list[str]) -> None:
        """Run a command, or check it as far as it goes here."""
        line = shlex.join(words)
        if line in self.done or line in self.excepted:
            return
        self.done.add(line)
        if "..." in words:  # whatever the reader's own run is
            given = {word.partition("=")[0] for word in words}
            theirs = [word for word in ("experiment=table1", "data.root=/data/imagenet") if word.partition("=")[0] not in given]
            words = [*(word for word in words if word != "..."), *theirs]
        program = Path(words[0]).name
        getattr(self, f"_{program}")(words[1:])

    def _make(self, words: list[str]) -> None:
        printed = subprocess.run(["make", "-n", *words], capture_output=True, text=True, check=False)
        assert printed.returncode == 0, printed.stderr
        for line in printed.stdout.splitlines():
            if line.startswith(".venv/bin/evalkit "):
                self.do(shlex.split(line))

    def _pip(self, words: list[str]) -> None:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        for word in words[1:]:
            named = re.fullmatch(r"(?:\.|evalkit)(?:\[([\w,]+)\])?", word)
            assert named and set((named.group(1) or "").split(",")) - {""} <= set(extras), f"pip install {word}"

    def _torchrun(self, words: list[str]) -> None:
        options = get_args_parser().parse_args(words)
        assert options.module and options.training_script == "evalkit"
        self._checked(options.training_script_args)

    def _python(self, words: list[str]) -> None:
        if words[0] == "-c":
            compile(words[1], "command", "exec")
            return
        script = ROOT / words[0]
        assert all(word.partition("=")[0] in script.read_text() for word in words[1:] if word.startswith("--")), words
        if words[0] in SCRIPTS_THAT_RUN:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", words)
                try:
                    runpy.run_path(str(script), run_name="__main__")
                except SystemExit as ended:
                    assert not ended.code, words

    def _evalkit(self, words: list[str]) -> None:
        if words[0] == "run":
            self._run(words)
        elif words[0] == "explain":
            self._invoke([*words, "model.weights=null"])
        elif words[0] == "list":
            self._invoke(["digits_gap" if word == "MODEL" else word for word in words])
        elif words[0] in ("audit", "export") or (words[0] == "verify" and not any("=" in word or word == "--allow" for word in words)):
            self._invoke(words)
        elif words[0] == "leaderboard":
            found = [path for word in words for path in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
            self._invoke(found) if Path("results/leaderboard").is_dir() or not any("*" in word for word in words) else self._checked(words)
        elif words[0] in ("tables", "verdict") and not any("://" in word for word in words):
            self._invoke([*words, "--no-figures"])
        else:
            self._checked(words)

    def _run(self, words: list[str]) -> None:
        parameters = parsed(words)
        overrides = [word for word in parameters["overrides"] or [] if not word.startswith(("sample=", "limit="))]
        jobs = composed((*overrides, *FEW), parameters["multirun"], parameters["conf"])
        for job in jobs:
            if not any(word.startswith("out=") for word in overrides):  # the default folder, which another command may have used
                shutil.rmtree(job.config.out, ignore_errors=True)
            if runs_here(job):
                run_job(job)
            elif isinstance(job.config.out, Path) and not job.config.out.exists():
                (ours,) = composed(("method=[ablation_cam,grad_cam,centre]", *FEW))
                run_job(replace(ours, config=ours.config.model_copy(update={"out": job.config.out})))

    def _invoke(self, words: list[str]) -> None:
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, f"evalkit {shlex.join(words)}: {result.exception!r} {result.output}"
        self.said.append(result.output)

    def _checked(self, words: list[str]) -> None:
        """Parse the options, and compose and check the configurations that a command asks for."""
        parameters = parsed(words)
        overrides, models = parameters.get("overrides") or [], parameters.get("model")
        if words[0] == "run":
            composed(tuple(overrides), parameters["multirun"], parameters["conf"])
        for model in models if isinstance(models, list) else [models] if models else []:
            composed((f"model={model}", *overrides))


def parsed(words: Sequence[str]) -> dict:
    """What a command's own parser makes of its options."""
    command, path = get_command(app), ["evalkit"]
    words = list(words)
    while hasattr(command, "commands"):
        path.append(words.pop(0))
        command = command.commands[path[-1]]
    return command.make_context(" ".join(path), words).params


def composed(overrides: tuple[str, ...], multirun: bool = False, conf: Path | None = None) -> list[Job]:
    """The jobs, their methods and data sets found, and their options known."""
    new = conf is not None or any(word.startswith("like=") for word in overrides)
    jobs = compose_jobs(overrides, multirun=multirun, conf=conf) if new else _compose(overrides, multirun)
    jobs = [beside(job, multirun=multirun)[0] for job in jobs]
    for job in jobs:
        load_methods(job.config.method)
        settings = {key: value for key, value in job.config.data.items() if key not in ("name", "_target_")}
        inspect.signature(find(job.config.data["_target_"], "data._target_")).bind(**settings)
    return jobs


@functools.cache
def _compose(overrides: tuple[str, ...], multirun: bool) -> list[Job]:
    """Most of the time goes there, and pages show the same commands."""
    return compose_jobs(overrides, multirun=multirun)


def runs_here(job: Job) -> bool:
    """Whether a run needs nothing but this package and what the page made, and one process."""
    config = job.config
    alone = config.launcher.name == "local" and config.devices == "auto" and worker_count(job) == 1
    images = config.data["name"] == "digits" or Path(str(config.data.get("root"))).is_dir()
    weights = str(config.model.weights).startswith("embedded:") or Path(str(config.model.weights)).is_file()
    return alone and images and weights and config.precision == "fp32" and config.decode == "pil"


def placeholders() -> dict[str, object]:
    """What README's Python takes for granted."""
    return {"module": vgg16(init_weights=False).eval(), "images": torch.rand(1, 3, 224, 224)}
