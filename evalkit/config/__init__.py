"""Configurations: their types (`schema`) and how Hydra composes them (`compose`)."""
