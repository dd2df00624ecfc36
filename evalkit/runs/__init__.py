"""The run folder: what a run is, its shards, who works on them, its stored maps."""
