"""Packages of the distribution: those below evalkit/, and conf/ as evalkit.conf. Everything else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["evalkit", "evalkit.*"]), "evalkit.conf"])
