"""Metrics, intervals and tests computed from rows. Nothing here imports torch."""
