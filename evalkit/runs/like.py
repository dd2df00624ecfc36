"""A run like another (`like=`): its folder, which methods are new, and whether both make one table."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from typing import Any

import yaml
from omegaconf import OmegaConf

from evalkit.config.like import identity_settings
from evalkit.config.schema import Former, Job
from evalkit.errors import UserError
from evalkit.files import Place, listed
from evalkit.imports import find
from evalkit.runs.folder import RunFolder
from evalkit.runs.identity import Identity

CONTROLS = "evalkit.methods.controls"
"""The module of the methods that do not look at the network, and so have no control versions."""


def beside(job: Job, *, multirun: bool = False) -> tuple[Job, str]:
    """Return the job of a run like another, without the methods that the other holds, and what was left out in words.

    Where the rest of the configuration is the same, methods of the same settings are not computed again. Without `out=`, the folder
    is the former one's name with a number, as in results/mine-2: that of the same command's run, or the first that is free; with
    `multirun`, that of all jobs. Raises UserError: every method is there already, or `out=` is the former folder.
    """
    former = job.like
    if former is None:
        return job, ""
    _ = RunFolder(former.path).provenance  # raises where it is damaged, before anything is computed
    ours, theirs = job.config, former.config
    alike = identity_settings(ours) == identity_settings(theirs)
    remark = ""
    if alike and ours.control == theirs.control and all(theirs.method.get(m, s) == s for m, s in ours.method.items()):
        there = [name for name in ours.method if name in theirs.method]
        new = {name: settings for name, settings in ours.method.items() if name not in theirs.method}
        if not new:
            raise UserError(
                f"{former.path} holds {', '.join(there)} already, of the same images, network and protocol: "
                "name methods that it lacks, as in method=[score_cam], or change another key"
            )
        if there or former.config.control:
            job = _with(job, method=new, **_controls(job, former, new))
            remark = f"{', '.join(there)}: in {former.path} already, and not computed again" if there else ""
    if "out" not in former.given:
        swept = job.config.out.name if multirun else None
        job = _with(job, out=_free(job, former, swept))
    if str(job.config.out.absolute()) == str(former.path.absolute()):
        raise UserError(f"out={job.config.out} is the folder of the run that like= names: choose another one, or leave out= away")
    return job, remark


def _controls(job: Job, former: Former, new: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the keys of the former run's control versions that new methods alone cannot have as they are."""
    if not job.config.control or {"control", "control_of"} & former.given:
        return {}
    of = [name for name in job.config.control_of or () if name in new] or None
    targets = [str(settings["_target_"]) for settings in new.values()]
    looking = [name for name in targets if not name.startswith("evalkit.methods.") or find(name, name).__module__ != CONTROLS]
    return {"control_of": of} if of or looking else {"control_of": None, "control": {}}


def _with(job: Job, **changed: Any) -> Job:
    """Return a job with other methods or another folder, also in its run.yaml."""
    content = {**yaml.safe_load(job.yaml), **{key: str(value) if key == "out" else value for key, value in changed.items()}}
    return replace(job, config=job.config.model_copy(update=changed), yaml=OmegaConf.to_yaml(OmegaConf.create(content)))


def _free(job: Job, former: Former, swept: str | None) -> Place:
    """Return the folder beside the former run that holds this run already, or the first that holds none."""
    for number in count(2):
        folder = former.path.with_name(f"{former.path.name}-{number}")
        if swept is not None:
            if not RunFolder(folder).exists:
                return folder / swept
        elif RunFolder(folder).exists:
            if _settings_in(folder) == _decisive(yaml.safe_load(job.yaml)):
                return folder
        elif not listed(folder, "*/provenance.json"):
            return folder
    raise AssertionError("count has no end")


def _settings_in(folder: Place) -> Any:
    try:
        return _decisive(yaml.safe_load((folder / "run.yaml").read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError):  # damaged: not the same run, as far as can be told
        return None


def _decisive(content: Any) -> Any:
    """Return the settings of a run.yaml without those that do not change numbers."""
    free = ("out", "batch_size", "shard_size", "device", "devices", "launcher", "workers", "maps", "maps_from")
    return {key: value for key, value in content.items() if key not in free} if isinstance(content, dict) else None


def apart(folder: RunFolder, former: Former) -> str:
    """Return why the methods of a run and those of the one it is like do not make one table, as text; empty where they do."""
    ours, theirs = folder.provenance["identity"], RunFolder(former.path).provenance["identity"]
    difference = _without_methods(ours).difference(_without_methods(theirs))
    both = [name for name in ours["method"] if name in theirs["method"]]
    if not difference and not both:
        return ""
    why = f"other than in {former.path}: {'; '.join(difference)}" if difference else f"{', '.join(both)}: in {former.path} too"
    return f"{why}; so the two runs have tables of their own"


def _without_methods(identity: Mapping[str, Any]) -> Identity:
    """Return the facts that two runs must share for one table: all but the methods and their code."""
    code = {key: digest for key, digest in identity.get("code", {}).items() if not key.startswith(("method.", "control."))}
    return Identity({**{key: fact for key, fact in identity.items() if key != "method"}, "code": code})


def shared_end(former: RunFolder, identity: Identity) -> dict[str, Any]:
    """Return why the run `until_from` ended, for a run of other methods on the same images.

    Raises UserError: it has not ended, or would have had other images than this run.
    """
    record = former.provenance
    if not isinstance(record.get("end"), dict):
        raise UserError(f"{former.path} runs with until and has not ended: finish it first, by its own command, or set until=null")
    difference = _without_methods(identity.facts).difference(_without_methods(record["identity"]))
    if difference:
        raise UserError(
            f"until ended {former.path} on images that this run would not have, or not so ({'; '.join(difference)}): "
            "set until=null for all images, or name the two methods of its until too"
        )
    return dict(record["end"])
