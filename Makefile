# make demo | test | check | pages | notebooks | docs | reproduce DATA=/data/imagenet
# All targets run in .venv, made from PYTHON (3.11 or newer) with the exact versions of constraints.txt.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check pages notebooks docs soak reproduce

demo: .venv/core.stamp
	$(BIN)/evalkit run experiment=demo
	$(BIN)/evalkit tables results/demo

test: .venv/dev.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

check: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/evalkit leaderboard --check results/leaderboard/*.parquet

# The parts of docs/*.md that repeat the program: commands, keys, Python objects. Commit what it writes.
pages: .venv/docs.stamp
	$(BIN)/python docs/generate

# The notebooks with their outputs, as pages in docs/notebooks/: a few minutes. Commit what it writes.
notebooks: .venv/dev.stamp
	$(BIN)/evalkit run experiment=demo
	$(BIN)/python docs/generate/notebooks.py

# Documentation as HTML pages, site/index.html; `.venv/bin/mkdocs serve` shows it with a working search.
docs: .venv/docs.stamp
	$(BIN)/mkdocs build --strict

# Runs with one, two and three workers, killed twenty times, resumed and compared: about half an hour on two free cores.
soak: .venv/dev.stamp
	$(BIN)/python tests/kill_runs.py

# Tables 1 and 2 of the paper on the ImageNet validation set; torchvision downloads the weights.
reproduce: .venv/core.stamp
	$(if $(DATA),,$(error say where ImageNet val is: make reproduce DATA=/data/imagenet))
	$(BIN)/evalkit run experiment=table1 data.root="$(DATA)"
	$(BIN)/evalkit run experiment=table2 data.root="$(DATA)"
	$(BIN)/evalkit tables results/table1 results/table2

.venv/core.stamp: pyproject.toml constraints.txt
	@echo "installing evalkit and PyTorch into .venv: some minutes, 6 GB"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/dev.stamp: .venv/core.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

.venv/docs.stamp: .venv/core.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@
