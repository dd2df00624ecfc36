"""The workers that compute the shards of a run: local processes, Ray tasks, SLURM jobs."""
