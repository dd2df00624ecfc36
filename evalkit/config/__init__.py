"""Configurations: their types (`schema`), the yaml files to choose from (`choices`), and their composition by Hydra (`compose`)."""
