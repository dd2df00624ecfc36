"""Packages of the distribution: evalkit and its subpackages, and conf/ as evalkit.conf. All other settings are in pyproject.toml."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["evalkit", "evalkit.*"]), "evalkit.conf"])
