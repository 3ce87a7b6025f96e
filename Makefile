# Every target makes the environment that it needs, with nothing but Python and pip, and keeps it
# until setup.cfg or pyproject.toml changes. `make test PYTHON=python3.13` uses another interpreter.
# ARGS is handed on: `make test ARGS="-k cancelled"`, `make bench ARGS=--full`.

PYTHON ?= python3
ARGS ?=

VERSION := $(shell $(PYTHON) -c 'import platform; print(platform.python_version())')
ifeq ($(VERSION),)
$(error $(PYTHON) does not run; name a Python >= 3.10: make PYTHON=python3.12)
endif
VENVS := .venv/$(VERSION)

demo_extras := atlas,rest
dev_extras := atlas,bench,integrations,lint,test
bench_extras := bench

DEMO := $(VENVS)/demo/bin/python
DEV := $(VENVS)/dev/bin/python
BENCH := $(VENVS)/bench/bin/python

# What is around the core needs other packages, and must not help to cover the core.
OUTER_TESTS := $(wildcard tests/integrations tests/examples tests/test_benchmarks.py \
	tests/test_cache_benchmarks.py \
	tests/test_torture.py)
# Thousands of generated cases: the core is covered without them, and they are slower with it.
LONG_TESTS := $(addprefix tests/,test_model.py test_schedules.py test_cache_model.py \
	test_cache_schedules.py)
CORE_ONLY := $(addprefix --ignore=,$(OUTER_TESTS) tests/typing)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Pyright is installed by its release; what it would say about newer ones is no finding.
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.PHONY: help demo serve rest test test-core test-long test-typing test-outer check test-all bench clean

help:
	@echo 'make demo      run the atlas: the same GraphQL queries with and without loaders'
	@echo 'make serve     serve the atlas with GraphiQL'
	@echo 'make rest      serve it as a REST API'
	@echo 'make test      run all tests, with the coverage of the core'
	@echo 'make check     check format, lint, types, imports and the built distributions'
	@echo 'make test-all  run the tests of the core on every Python >= 3.10 found here'
	@echo 'make bench     measure against other loaders'
	@echo 'make clean     remove what the other targets made'

demo: $(VENVS)/demo/.ready
	$(DEMO) -m examples.atlas.demo $(ARGS)

serve: $(VENVS)/demo/.ready
	$(DEMO) -m examples.atlas.serve $(ARGS)

rest: $(VENVS)/demo/.ready
	$(DEMO) -m examples.rest $(ARGS)

# One after the other, and the core first: what it says is read most.
test: $(VENVS)/dev/.ready
	$(MAKE) test-core
	$(MAKE) test-long
	$(MAKE) test-typing
	$(MAKE) test-outer

# In as many processes as there are cores. They find coverage's plugin by PYTHONPATH.
test-core: $(VENVS)/dev/.ready
	rm -f .coverage .coverage.*
	PYTHONPATH=. $(DEV) -m coverage run -m pytest -n auto --dist worksteal \
		$(CORE_ONLY) $(addprefix --ignore=,$(LONG_TESTS)) $(ARGS)
	$(DEV) -m coverage combine -q
	$(DEV) -m coverage report

test-long: $(VENVS)/dev/.ready
	$(DEV) -m pytest -n auto --dist worksteal $(LONG_TESTS) $(ARGS)

test-typing: $(VENVS)/dev/.ready
	$(DEV) -m mypy tests/typing
	$(DEV) -m pyright --pythonpath $(DEV) tests/typing

# A file at a time in each process: they start servers, which their tests share.
test-outer: $(VENVS)/dev/.ready
	$(DEV) -m pytest -n auto --dist loadfile $(OUTER_TESTS) $(ARGS)

# The core is for every Python from 3.10 up, so it is checked as the oldest and the newest see it.
check: $(VENVS)/dev/.ready
	$(DEV) -m ruff format --check .
	$(DEV) -m ruff check .
	$(DEV) -m mypy
	$(DEV) -m mypy --python-version 3.10 dataloader_cache
	$(DEV) -m mypy --python-version 3.14 dataloader_cache
	$(DEV) -m pyright --pythonpath $(DEV)
	$(DEV) -m pytest -m "wheel or not wheel" tests/test_imports.py tests/test_packaging.py

test-all:
	$(PYTHON) scripts/test_all.py $(CORE_ONLY) $(ARGS)

bench: $(VENVS)/bench/.ready
	$(BENCH) -m benchmarks $(ARGS)

# The mark is written last, so an interrupted installation starts over.
$(VENVS)/%/.ready: setup.cfg pyproject.toml
	@echo 'Making the environment $(@D); this takes a minute, once.'
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install -qq --editable '.[$($*_extras)]'
	@touch $@

clean:
	rm -rf .venv .atlas build dist *.egg-info .coverage .coverage.* .hypothesis
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
