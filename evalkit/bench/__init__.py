"""Benchmarks: ratios of contestants that take turns in one process."""
