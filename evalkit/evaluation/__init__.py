"""One shard: load, explain, perturb, score, and the rows that come of it."""
