"""From numbers to tables, figures and pages. Nothing here imports torch."""
