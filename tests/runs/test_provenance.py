"""What makes a run another run, and what does not."""

import pytest
from builders import save_pictures, tiny_overrides

from evalkit.config.compose import compose_jobs
from evalkit.evaluation.session import open_session
from evalkit.runs import provenance


@pytest.fixture
def identity(folder, tmp_path):
    def of(*overrides: str):
        (job,) = compose_jobs([*tiny_overrides(folder, tmp_path / "run"), *overrides])
        return provenance.identify(open_session(job.config))

    return of


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory):
    """The identity of the run of the same pictures in another folder."""
    place = tmp_path_factory.mktemp("unchanged")
    (job,) = compose_jobs(tiny_overrides(save_pictures(place / "pictures"), place / "run"))
    return provenance.identify(open_session(job.config))


@pytest.mark.parametrize(
    "harmless",
    ["batch_size=3", "workers=1", "shard_size=7", "device=cpu", "out=elsewhere", "maps=store", "seed=5", "model.expected_top1=50"],
)
def test_what_changes_no_number_is_not_in_it(identity, unchanged, harmless):
    assert identity(harmless).hash == unchanged.hash


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("model.seed=1", "model.weights_hash"), ("model.layer=features.0", "model.layer"), ("model.crop=16", "model.crop"),
        ("model.interpolation=bicubic", "model.interpolation"), ("model.mean=[0,0,0]", "model.mean"), ("limit=5", "limit"),
        ("sample=5", "sample"), ("target=1", "target"), ("images=correct", "images"), ("precision=bf16", "precision"),
        ("protocol.fill=mean", "protocol.fill"), ("protocol.top_percent=21", "protocol.top_percent"),
        ("protocol.select=soft", "protocol.select"), ("method.random.seed=1", "method.random.seed"),
    ],
)  # fmt: skip
def test_what_changes_numbers_is(identity, unchanged, override, key):
    difference = identity(override).difference(unchanged)
    assert [line.split(":")[0] for line in difference][:1] == [key]


def test_other_pictures_are_another_run(identity, folder):
    before = identity()
    (folder / "a" / "0.png").write_bytes((folder / "a" / "0.png").read_bytes() + b"x")
    assert [line.split(":")[0] for line in identity().difference(before)] == ["data.fingerprint"]


def test_only_other_peoples_code_is_hashed_by_file(tmp_path, monkeypatch):
    from evalkit.methods import grad_cam

    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "their_method.py").write_text("def f(probe):\n    return probe.activations.sum(1)\n")
    import their_method

    first = provenance.source_hash(their_method.f)
    assert first is not None
    (tmp_path / "their_method.py").write_text("def f(probe):\n    return probe.activations.sum(1) * 2\n")
    assert provenance.source_hash(their_method.f) not in (None, first)
    assert provenance.source_hash(grad_cam) is None
    assert provenance.source_hash(pytest.fixture) is None


def test_a_method_behind_guided_backpropagation_is_part_of_it(identity, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "behind_guided.py"
    file.write_text("def f(probe):\n    return probe.activations.sum(1)\n")
    theirs = ["+method.fine._target_=evalkit.methods.guided", "+method.fine.method=behind_guided.f"]
    before = identity(*theirs)
    file.write_text(file.read_text() + "# edited\n")
    assert [line.split(":")[0] for line in identity(*theirs).difference(before)] == ["code.method.fine.method"]


def test_hardware_and_versions_are_told(folder, tmp_path):
    (job,) = compose_jobs(tiny_overrides(folder, tmp_path / "run"))
    told = provenance.provenance(open_session(job.config))
    assert told["weights"] == "random (seed 0)" and told["class_names"] == list("abcde")
    assert {"torch", "torchvision", "numpy", "pyarrow"} <= told["versions"].keys()
    assert told["hardware"]["threads"] >= 1
