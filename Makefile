# The project's commands; `make` alone lists them. Nothing here needs root, and nothing is installed
# outside this folder except Horovod's wheel, which is kept in the user's cache.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
PYTEST_ARGS ?=
TEST_WORKERS ?= 2
REPRODUCE_DATA ?=
SEEDS ?= 3
DEMO_DATA ?= .demo/data
DEMO_DATE ?= 2017-12-31
DEMO_CONFIG ?= jobs/conf/complete_journey.yaml

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BOOTSTRAP := $(PYTHON) recsys_spark/bootstrap/__main__.py
IN_VENV := source .venv/recsys_env.sh &&
IN_PARALLEL = -n $(TEST_WORKERS) --no-loadscope-reorder
LINTED := setup.py recsys_spark jobs tests

.PHONY: help
help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: ## make .venv with everything in it; at once when it is up to date
	@if [ -z "$(PYTHON)" ]; then \
	  echo "recsys_spark set-up: no Python 3.11 found; install it, for example 'apt-get install python3.11 python3.11-venv'" >&2; \
	  exit 1; fi
	@$(BOOTSTRAP)

.PHONY: setup-airflow
setup-airflow: setup ## make .venv-airflow, for the DAG and its test
	@$(BOOTSTRAP) --airflow

.PHONY: setup-browser
setup-browser: setup ## make .venv-browser, for the test of the pages in a real browser (230 MB to fetch)
	@$(BOOTSTRAP) --browser

.PHONY: setup-peers
setup-peers: setup ## make .venv-peers, for what bench-score compares with beside .venv (100 MB to fetch)
	@$(BOOTSTRAP) --peers

.PHONY: demo-data
demo-data: setup ## fetch the demo's data (a year of grocery purchases) into .demo/data
	@$(BOOTSTRAP) --demo-data $(DEMO_DATA)

.PHONY: demo
demo: demo-data ## run the whole nightly job on real purchases
	@$(IN_VENV) recsys-spark run --config $(DEMO_CONFIG) --date $(DEMO_DATE)

.PHONY: test
test: demo-data setup-airflow ## all tests: unit and integration (PYTEST_ARGS="-k name", TEST_WORKERS=2)
	@$(IN_VENV) python -m pytest tests $(IN_PARALLEL) $(PYTEST_ARGS)

.PHONY: test-unit
test-unit: setup ## the tests of single functions
	@$(IN_VENV) python -m pytest tests/unit $(IN_PARALLEL) $(PYTEST_ARGS)

.PHONY: test-faults
test-faults: setup ## kill nights on a tiny log 200 times, and other faults: about an hour (FAULTS_SEED=1 FAULTS_KILLS=50 FAULTS_ONLY=17)
	@$(IN_VENV) PYTHONPATH=tests:tests/integration python -m faults

.PHONY: lint
lint: setup ## style, formatting and types
	@$(IN_VENV) ruff check $(LINTED)
	@$(IN_VENV) ruff format --check $(LINTED)
	@$(IN_VENV) mypy

.PHONY: format
format: setup ## rewrite the source as lint wants it
	@$(IN_VENV) ruff check --fix-only --exit-zero $(LINTED)
	@$(IN_VENV) ruff format $(LINTED)

.PHONY: bench-demo
bench-demo: demo-data ## time and memory of each stage; BENCH_SCALE=small (default) or full
	@$(IN_VENV) python tests/benchmarks/bench_demo.py

.PHONY: bench-data
bench-data: setup ## cleaning and features on generated logs, beside polars and duckdb; BENCH_SCALE=small or full
	@$(IN_VENV) python tests/benchmarks/bench_data.py

.PHONY: bench-sharded
bench-sharded: setup ## matrix factorization, users dealt out to two ranks: memory, speed, traffic; BENCH_SCALE=small or full
	@$(IN_VENV) python tests/benchmarks/bench_sharded.py

.PHONY: bench-train
bench-train: setup ## training speed beside peers (REPRODUCE_DATA=FOLDER BENCH_SCALE=small|full BENCH_ONLY=part,part)
	@$(IN_VENV) REPRODUCE_DATA="$(REPRODUCE_DATA)" python tests/benchmarks/bench_train.py

.PHONY: bench-score
bench-score: setup ## scoring speed beside the bare product and peers; BENCH_SCALE=small|full BENCH_ONLY=part,part
	@$(IN_VENV) python tests/benchmarks/bench_score.py

.PHONY: bench-nights
bench-nights: setup ## 30 generated nights with drift: warm start beside full retrain, in quality and time; BENCH_NIGHTS=30
	@$(IN_VENV) python tests/benchmarks/bench_nights.py

.PHONY: reproduce-ncf reproduce-gowalla reproduce-ctr
reproduce-ncf: setup ## published table: MovieLens-1M, leave-one-out (REPRODUCE_DATA=FOLDER SEEDS=3)
reproduce-gowalla: setup ## published table: Gowalla, full ranking (REPRODUCE_DATA=FOLDER SEEDS=3)
reproduce-ctr: setup ## published table: MovieLens-1M, liked or disliked, AUC (REPRODUCE_DATA=FOLDER SEEDS=3)
reproduce-ncf reproduce-gowalla reproduce-ctr:
	@$(IN_VENV) REPRODUCE_DATA="$(REPRODUCE_DATA)" SEEDS=$(SEEDS) python tests/benchmarks/reproduce/reproduce.py $(@:reproduce-%=%)

.PHONY: notebook
notebook: setup ## run the notebooks on the demo's tables; pages in .demo/notebooks
	@$(IN_VENV) jupyter nbconvert --to html --execute --output-dir .demo/notebooks notebooks/*.ipynb

.PHONY: pyfiles
pyfiles: ## dist/recsys_spark.zip, for spark-submit --py-files
	@$(BOOTSTRAP) --pyfiles dist/recsys_spark.zip

.PHONY: env-archive
env-archive: setup ## dist/environment.tar.gz, what executors need, for spark.archives
	@$(BOOTSTRAP) --env-archive dist/environment.tar.gz

.PHONY: clean
clean: ## remove build outputs; keeps environments, data and tables
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find recsys_spark jobs tests -type d -name __pycache__ -prune -exec rm -rf {} +
