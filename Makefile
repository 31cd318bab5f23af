# Everything happens in this folder: .venv for Python, node_modules for the chains. Nothing else is installed.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test torture up install lint contracts docs bench lock clean

demo: $(INSTALLED)
	$(BIN)/coffer demo

test: $(INSTALLED)
	$(BIN)/python -m pytest -n auto --dist loadgroup

# A campaign of faults against the whole system. DURATION=2m SEED=7 make torture
torture: $(INSTALLED)
	$(BIN)/coffer torture --duration $(or $(DURATION),15m) $(if $(SEED),--seed $(SEED))

up: $(INSTALLED)
	$(BIN)/coffer up

install: $(INSTALLED)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

contracts: $(INSTALLED)
	$(BIN)/python -m contracts.build --check --test

# Runs the examples of the pages in docs/ and writes down what they print.
docs: $(INSTALLED)
	$(BIN)/python -m tests.documentation.pages --write

bench: $(INSTALLED)
	$(BIN)/coffer bench all

# The locks hold hashes and no addresses.
lock: $(INSTALLED)
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
	    requirements/uv.in -o requirements/uv.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
	    --extra sandbox --extra dev pyproject.toml -o requirements/development.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header \
	    -c requirements/development.txt pyproject.toml -o requirements/runtime.txt

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -rf contracts/out contracts/cache contracts/node_modules sandbox/node/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): requirements/development.txt requirements/uv.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Coffer needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/uv.txt
	$(BIN)/uv pip install -q --require-hashes -r requirements/development.txt
	$(BIN)/uv pip install -q --no-deps --no-build-isolation -e .
	touch $@
