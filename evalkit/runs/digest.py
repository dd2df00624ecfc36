"""One digest for all rows of a run folder."""

import hashlib

from evalkit.files import listed
from evalkit.runs.folder import RunFolder
from evalkit.runs.shards import stored_checksum


def rows_digest(folder: RunFolder) -> str:
    """Return the SHA-256 over the checksums of all finished shards' rows, in the order of their numbers: 64 hexadecimal digits.

    Only the files' footers are read; whether the checksums match the rows is what reading a shard tests. Two folders have the same
    digest where the same shards hold the same rows and say the same of who computed them.
    """
    digest = hashlib.sha256()
    counted = {f"shard-{number:05d}.parquet" for number in folder.shards}
    for file in listed(folder.path, "rows/shard-*.parquet"):
        if file.name in counted:
            digest.update(f"{file.stem} {stored_checksum(file)}\n".encode())
    return digest.hexdigest()
