"""From rows to numbers: metrics, intervals, tests. Nothing here imports torch."""
