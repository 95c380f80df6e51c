# Every target works from a fresh clone with Python >= 3.11 and make: `make demo`, `make test`, …
PYTHON ?= python3
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.gelora-installed
DEMO := demo-output

# A figure or a test never needs a window or the network.
export MPLBACKEND := Agg
export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format docs figures bench bench-accuracy bench-path bench-ranks bench-theory bench-adapters bench-comparison bench-cost bench-faults bench-extraction bench-approximate bench-rivals readme validate clean distclean figure-inputs

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

# The stamp is newer than pyproject.toml and constraints.txt when the environment is up to date.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "gelora needs Python >= 3.11, give one: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]'
	touch $@

install: $(INSTALLED)  ## make .venv with gelora, its extras and the tested versions

demo: $(INSTALLED)  ## profile, ranks and fine-tuning on a real model, offline, into demo-output/
	$(BIN)/gelora demo --output $(DEMO)

# One thread a worker: two workers with a thread pool each are slower than one.
test: export OMP_NUM_THREADS := 1
test: export OPENBLAS_NUM_THREADS := 1
test: export MKL_NUM_THREADS := 1
test: export NUMBA_NUM_THREADS := 1
test: $(INSTALLED)  ## the tests but the slow ones, on WORKERS processes
	$(BIN)/pytest -m "not slow" --numprocesses $(WORKERS) --dist worksteal --benchmark-disable

lint: $(INSTALLED)  ## format, style, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)  ## rewrite the code in the project's style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(INSTALLED)  ## the HTML documentation with tutorials that are run and figures that are drawn, into docs/_build/html/
	$(BIN)/sphinx-build --fail-on-warning --keep-going --jobs $(WORKERS) docs docs/_build/html
	$(BIN)/python docs/check_links.py docs/_build/html README.md paper_figures/README.md

figures: $(INSTALLED)  ## the figures of paper_figures/ from committed results, into paper_figures/output/
	$(BIN)/python paper_figures/draw_all.py

figure-inputs: export OMP_NUM_THREADS := 1
figure-inputs: $(INSTALLED)  ## what the figures are drawn from, measured on data sets from DATA=FOLDER, into paper_figures/profiles/
	$(BIN)/python tests/benchmarks/intermediate_tuning.py --data $(DATA)
	for script in paper_figures/measure/[a-z]*.py; do $(BIN)/python $$script --data $(DATA) || exit 1; done

bench: $(INSTALLED)  ## speed: the pieces, the estimators beside limits and rivals, and steps of the adapters, from DATA=FOLDER, into docs/benchmarks/
	$(BIN)/pytest tests/benchmarks --benchmark-only --benchmark-columns=min,median,stddev,rounds
	$(BIN)/python tests/benchmarks/estimator_speed.py $(if $(DATA),--data $(DATA)) $(if $(DADAPY),--dadapy $(DADAPY))
	$(if $(DATA),$(BIN)/python tests/benchmarks/adapters.py --data $(DATA) --part steps && $(BIN)/python tests/benchmarks/adapters_page.py)

bench-accuracy: $(INSTALLED)  ## coverage of every interval and the benchmark manifolds, into docs/benchmarks/
	$(BIN)/python tests/benchmarks/interval_coverage.py
	$(BIN)/python tests/benchmarks/manifolds.py

bench-path: $(INSTALLED)  ## the whole path on CoLA, RTE and SST-2 from DATA=FOLDER, into docs/benchmarks/
	$(BIN)/python tests/benchmarks/whole_path.py --data $(DATA)

bench-ranks: $(INSTALLED)  ## noise, stability and cost of ranks on GLUE files from DATA=FOLDER, into docs/benchmarks/
	$(BIN)/python tests/benchmarks/rank_stability.py --data $(DATA) $(if $(CACHE),--cache $(CACHE))

bench-theory: $(INSTALLED)  ## the theorems against MiniLM on GLUE files from DATA=FOLDER, into docs/benchmarks/
	$(BIN)/python tests/benchmarks/theory_report.py --data $(DATA)

bench-adapters: $(INSTALLED)  ## step time, scores and ranks of every adapter on GLUE files from DATA=FOLDER, into docs/benchmarks/
	$(BIN)/python tests/benchmarks/adapters.py --data $(DATA)
	$(BIN)/python tests/benchmarks/adapters_page.py

COMPARISON := comparison-output
bench-comparison: MODEL = $(shell $(BIN)/python -c 'import os; from gelora.demo import demo_model; print(os.path.relpath(demo_model()))')
bench-comparison: $(INSTALLED)  ## the measured comparison of methods, SQuAD and intermediate tuning on files from DATA=FOLDER, into docs/benchmarks/
	$(BIN)/gelora compare docs/benchmarks/comparison/squad.yaml --model $(MODEL) --data-dir $(DATA) --output $(COMPARISON)/squad
	$(BIN)/python tests/benchmarks/intermediate_tuning.py --data $(DATA)
	$(BIN)/gelora compare docs/benchmarks/comparison/study.yaml --model $(MODEL) --data-dir $(DATA) --output $(COMPARISON)/glue
	cp $(COMPARISON)/squad/comparison.nc docs/benchmarks/comparison/squad.nc
	cp $(COMPARISON)/glue/comparison.nc docs/benchmarks/comparison/comparison.nc
	$(BIN)/python tests/benchmarks/comparison_page.py

# One thread, as the script takes one core for its unit.
bench-cost: export OMP_NUM_THREADS := 1
bench-cost: export OPENBLAS_NUM_THREADS := 1
bench-cost: export MKL_NUM_THREADS := 1
bench-cost: $(INSTALLED)  ## rates of one core, and what models of 7 and 70 billion parameters would take, into docs/benchmarks/
	$(BIN)/python tests/benchmarks/cost_model.py

bench-faults: $(INSTALLED)  ## kills, damage, full disks and wrong clocks against an extraction and an estimation, into docs/benchmarks/
	$(BIN)/python tests/benchmarks/faults.py $(if $(DATA),--data $(DATA))

bench-extraction: $(INSTALLED)  ## time, memory and a kill of extractions on files from DATA=FOLDER, and clouds beyond memory, into docs/benchmarks/
	$(BIN)/python tests/benchmarks/extraction.py --data $(DATA)
	$(BIN)/python tests/benchmarks/large_clouds.py
	$(BIN)/python tests/benchmarks/extraction_page.py

bench-approximate: $(INSTALLED)  ## approximate neighbours beside exact ones: time, recall, dimension, into docs/benchmarks/
	$(BIN)/python tests/benchmarks/approximate.py

bench-rivals: $(INSTALLED)  ## gelora beside scikit-dimension, DADApy (DADAPY=PYTHON) and torchid (TORCHID=PYTHON or folder), into docs/benchmarks/ and README.md
	$(BIN)/python tests/benchmarks/rivals.py $(if $(DADAPY),--dadapy $(DADAPY)) $(if $(TORCHID),--torchid $(TORCHID))
	$(BIN)/python tests/benchmarks/rivals_page.py

readme: $(INSTALLED)  ## run the example of README.md, put its output there and draw its figure
	$(BIN)/python docs/readme.py

validate: $(INSTALLED)  ## the slow tests: simulations against known answers
	$(BIN)/pytest -m slow --benchmark-disable --durations=20

clean:  ## remove what the targets made, but the environment
	rm -rf $(DEMO) docs/_build docs/api/generated docs/auto_tutorials docs/auto_figures build dist .benchmarks .hypothesis
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .grimp_cache
	find src estimators tests docs paper_figures -name __pycache__ -prune -exec rm -rf {} +

distclean: clean  ## remove the environment too
	rm -rf $(VENV)
