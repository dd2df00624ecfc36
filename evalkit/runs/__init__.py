"""The run folder: the identity of a run, its shards, the claims of its workers, its stored maps."""
