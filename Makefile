# On a fresh machine with Python 3.11 or later, each target first makes the virtual environment that it needs.

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed

.PHONY: venv demo test lint check docs

venv: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --constraint constraints.txt --editable '.[test,dev,docs]'
	touch $@

# A private classifier of handwritten digits at ε = 2, in a run directory of its own.
demo: $(INSTALLED)
	$(VENV)/bin/dpvision train bundled:digits --epsilon 2 --test bundled:digits \
		--out runs/demo-$$(date +%Y%m%d-%H%M%S)

# As many tests at a time as there are cores, up to four, each on one thread.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

lint: $(INSTALLED)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

check: lint test

# The documentation as a site, of docs/ and the docstrings. A warning is an error.
docs: $(INSTALLED)
	$(VENV)/bin/python -m sphinx -c docs -W --keep-going -q . build/docs
	@echo "The site is in build/docs: open build/docs/index.html"

# The long checks of the guarantee (docs/guarantee/index.md): check-mutants, check-kill, check-requeue, check-disk, check-race,
# check-index, check-fuzz, check-noise, check-clip, check-accountants; and of the package, check-package.
check-%: $(INSTALLED)
	$(VENV)/bin/python -m checks.$*

check-fuzz: $(INSTALLED)
	$(VENV)/bin/python -m pip install --constraint constraints.txt --editable '.[fuzz]'
	$(VENV)/bin/python -m checks.fuzz --runs 100000
