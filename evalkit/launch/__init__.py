"""Who computes the shards of a run."""
