"""Benchmarks that time several functions in turns in one process."""
