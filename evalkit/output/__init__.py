"""Tables, figures and pages of the results. Nothing here imports torch."""
