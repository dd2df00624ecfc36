"""From a configuration to the rows of a shard: open the parts, explain images, perturb them, score them, measure maps."""
