"""What README and documentation show, done: commands by the code that would run them, Python as it stands.

Commands on the embedded digits run, on six images. Those that need ImageNet, other networks' weights, a cluster or a store
are composed: options parsed, keys and names checked, methods found. Their run folder is then made by the embedded network, so
that what reads it runs too.
"""

import inspect
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from safetensors.torch import save_file
from torch.distributed.run import get_args_parser
from torchvision.models import vgg16
from typer.main import get_command
from typer.testing import CliRunner

from evalkit.cli import app
from evalkit.config import Job, compose_jobs
from evalkit.data.digits import Digits
from evalkit.launch import worker_count
from evalkit.models.zoo import find
from evalkit.session import load_methods

FEW = ["limit=6", "workers=0"]
PROGRAMS = ("evalkit", "make", "python", "pip", "torchrun")
SCRIPTS_THAT_RUN = ("experiments/average_drops.py",)


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
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if word != "&&":
                words.append(word)
                continue
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words and (block.language == "bash" or words[0] in PROGRAMS):
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
        else:
            assert block.language in ("yaml", "text"), f"nobody checks a block of {block.language}"

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
        self._composed(options.training_script_args)

    def _python(self, words: list[str]) -> None:
        if words[0] == "-c":
            compile(words[1], "command", "exec")
            return
        script = ROOT / words[0]
        assert all(word.partition("=")[0] in script.read_text() for word in words[1:] if word.startswith("--")), words
        if words[0] in SCRIPTS_THAT_RUN:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", words)
                runpy.run_path(str(script), run_name="__main__")

    def _evalkit(self, words: list[str]) -> None:
        if "..." in words:
            words = [word for word in words if word != "..."]
            words += ["data.root=/data/imagenet"] if any(word.startswith("experiment=table") for word in words) else []
        if words[0] == "run":
            self._run(words)
        elif words[0] == "explain":
            self._invoke([*words, "model.weights=null"])
        elif words[0] == "list":
            self._invoke(["digits_gap" if word == "MODEL" else word for word in words])
        elif words[0] == "tables" and not any("://" in word for word in words):
            self._invoke([*words, "--no-figures"])
        else:
            self._composed(words)

    def _run(self, words: list[str]) -> None:
        jobs = self._composed(words)
        if all(map(embedded, jobs)):
            if not any(word.startswith("out=") for word in words):  # the default folder, which another command may have used
                for job in jobs:
                    shutil.rmtree(job.config.out, ignore_errors=True)
            self._invoke([*(word for word in words if not word.startswith(("sample=", "limit="))), *FEW])
        else:
            for job in jobs:
                if isinstance(job.config.out, Path) and not job.config.out.exists():
                    self._invoke(["run", "method=[ablation_cam,grad_cam]", f"out={job.config.out}", *FEW])

    def _invoke(self, words: list[str]) -> None:
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, f"evalkit {shlex.join(words)}: {result.exception!r} {result.output}"
        self.said.append(result.output)

    def _composed(self, words: list[str]) -> list[Job]:
        """Parse the options, and compose and check the configurations that a command asks for."""
        parameters = parsed(words)
        overrides = parameters.get("overrides") or []
        if "model" in parameters:
            models = parameters["model"] if isinstance(parameters["model"], list) else [parameters["model"]]
            return [job for model in models for job in composed([f"model={model}", *overrides])]
        return composed(overrides, parameters.get("multirun", False), parameters.get("conf")) if words[0] == "run" else []


def parsed(words: Sequence[str]) -> dict:
    """What a command's own parser makes of its options."""
    command, path = get_command(app), ["evalkit"]
    words = list(words)
    while hasattr(command, "commands"):
        path.append(words.pop(0))
        command = command.commands[path[-1]]
    return command.make_context(" ".join(path), words).params


def composed(overrides: Sequence[str], multirun: bool = False, conf: Path | None = None) -> list[Job]:
    """The jobs, their methods and data sets found, and their options known."""
    jobs = compose_jobs(overrides, multirun=multirun, conf=conf)
    for job in jobs:
        load_methods(job.config.method)
        settings = {key: value for key, value in job.config.data.items() if key not in ("name", "_target_")}
        inspect.signature(find(job.config.data["_target_"], "data._target_")).bind(**settings)
    return jobs


def embedded(job: Job) -> bool:
    """Whether a run needs nothing but this package, and one process."""
    config = job.config
    alone = config.launcher.name == "local" and config.devices == "auto" and worker_count(job) == 1
    ours = config.data["name"] == "digits" and str(config.model.weights).startswith("embedded:")
    return alone and ours and config.precision == "fp32" and config.decode == "pil"


def placeholders() -> dict[str, object]:
    """What README's Python takes for granted."""
    return {"module": vgg16(init_weights=False).eval(), "images": torch.rand(1, 3, 224, 224)}
