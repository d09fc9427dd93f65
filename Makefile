PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
COVERING := $(addprefix tests/,test_conflicts.py test_store.py test_storage.py test_format.py test_change.py test_bulk.py \
	test_scale.py test_table.py test_parsing.py test_rare_moments.py test_object_repair.py \
	test_object_early.py test_object_moments.py test_object_copies.py torture)

.PHONY: test demo docs lint bench bench-quick bench-s3 limits scale torture torture-s3 coverage clean

test: lint
	$(BIN)/python -m pytest -q

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Everything that can go wrong, in full; PART=faults for one part of it.
torture: $(READY)
	cd tests && PYTHONPATH=$(CURDIR) $(CURDIR)/$(BIN)/python -m torture $(PART)

# Every fault at every request to an object store: a quarter of an hour.
torture-s3: $(READY)
	OBJECT_FAULTS=all $(BIN)/python -m pytest -q tests/test_object_faults.py

# Which branches of the code that commits, recovers and parses the tests about it take: a quarter of an hour.
# Not under Ctrl-C, which may be heard while the measuring itself holds a lock.
coverage: $(READY)
	$(BIN)/coverage run -m pytest -q --timeout 900 -k "not ctrl_c" $(COVERING)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

# The site, in build/site; a warning fails.
docs: $(READY)
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs build/site
	@echo open build/site/index.html

demo: $(READY)
	$(BIN)/python perf/demo.py

# Everything, with all sweeps: more than an hour, resumed where it was interrupted.
bench: $(READY)
	$(BIN)/python -m perf.bench

bench-quick: $(READY)
	$(BIN)/python -m perf.bench --quick

# Object storage, through a proxy with 30 ms a request and 200 MB/s, beside zarr and tensorstore: a quarter of an hour.
bench-s3: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[peers]'
	$(BIN)/python -m perf.objectstore

# How far reads are from what the machine allows, and small ones from those of others: a minute.
limits: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[peers]'
	$(BIN)/python -m perf.limits

# What a store costs as it grows to a million datasets: ten minutes.
scale: $(READY)
	$(BIN)/python -m perf.scale

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) demo-store .bench build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
