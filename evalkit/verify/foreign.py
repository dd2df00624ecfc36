"""Files in a run folder that are of none of its shards."""

from evalkit.files import listed
from evalkit.runs.folder import RunFolder


def foreign_files(folder: RunFolder) -> list[str]:
    """Return what lies in rows/ and maps/ besides the files of the run's shards, as `rows/shard-00003.parquet`.

    Programs that read rows/*.parquet take such files for a part of the run. Hidden files that an interrupted process leaves are not named.
    """
    own = {f"shard-{shard:05d}.parquet" for shard in folder.shards}
    found = [(kind, file.name) for kind in ("rows", "maps") for file in listed(folder.path / kind, "*")]
    return [f"{kind}/{name}" for kind, name in found if name not in own and (not name.startswith(".") or name.endswith(".parquet"))]
