"""Published and measured figures, installed as `evalkit.results`."""
