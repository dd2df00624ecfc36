"""Shared by all tests: small networks, small images, and the optional folder of real ones."""

import gc
import os
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from browsing import CHROMIUM
from builders import HALF, ROOT, TinyFC, TinyGAP, from_pool, save_pictures
from playwright.sync_api import Browser, sync_playwright

from evalkit import SplitModel

SEED = "EVALKIT_TEST_SEED"


def pytest_configure(config: pytest.Config) -> None:
    """Draw a seed for the session, the same for all workers."""
    worker = getattr(config, "workerinput", {})
    config.stash_seed = worker.get("seed") or int(os.environ.get(SEED, "0")) or int.from_bytes(os.urandom(4))


def pytest_configure_node(node) -> None:
    node.workerinput["seed"] = node.config.stash_seed


def pytest_collection_finish() -> None:
    """Take what is imported out of garbage collection: a collection lasts a quarter of a second with it."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    terminalreporter.write_line(f"inputs were drawn from seed {config.stash_seed}; {SEED}={config.stash_seed} draws them again")


@pytest.fixture(autouse=True)
def _seed(request: pytest.FixtureRequest) -> None:
    """Draw fresh inputs on every run, for every test its own: see `builders.fresh`."""
    torch.manual_seed(zlib.crc32(f"{request.config.stash_seed} {request.node.name}".encode()))


@pytest.fixture(autouse=True)
def _forget_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Forget modules that a test wrote and imported: another test may write one of the same name."""
    yield
    temporary = str(tmp_path_factory.getbasetemp())
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(temporary):
            del sys.modules[name]


@pytest.fixture
def reachable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Worker processes find the networks of these tests, and compute as one thread does."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for the tests of a file; pages of `browser.new_page()` share nothing."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def quick_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build large networks in a fraction of the time: see `builders.from_pool`."""
    monkeypatch.setattr(torch.Tensor, "normal_", from_pool(torch.Tensor.normal_, torch.randn, lambda mean, std: std))
    monkeypatch.setattr(torch.Tensor, "uniform_", from_pool(torch.Tensor.uniform_, torch.rand, lambda low, high: high - low))


@pytest.fixture
def tiny_gap() -> SplitModel:
    return SplitModel(TinyGAP().eval(), "features", mean=HALF, std=HALF)


@pytest.fixture
def tiny_fc() -> SplitModel:
    return SplitModel(TinyFC().eval(), "features", mean=HALF, std=HALF)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_pictures(tmp_path / "pictures")
