# Two commands do everything on a fresh machine:  make search   |   make test
PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
BIN    := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: search real test check lint types imports format catalogue clean

search: $(VENV)/.ready  ## the main job: search, store, print the front
	$(BIN)/autotc search --model qwen2.5-vl --max-tflops 800 $(ARGS)

real: $(VENV)/.ready    ## with weights: verify, calibrate, three budgets; MODEL=DIR DATA=F [POLICY=P]
	@test -n "$(MODEL)" -a -n "$(DATA)" || { echo 'make real MODEL=DIR DATA=my.jsonl [POLICY=policy.json]'; exit 2; }
	$(BIN)/autotc real --model "$(MODEL)" --data "$(DATA)" $(if $(POLICY),--policy "$(POLICY)") $(ARGS)

test: $(VENV)/.ready    ## the whole test suite, one thread a process
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(ARGS)

check: lint imports types  ## what CI checks beside the tests

lint: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

imports: $(VENV)/.ready
	$(BIN)/lint-imports --no-cache

types: $(VENV)/.ready
	$(BIN)/mypy

format: $(VENV)/.ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

catalogue: $(VENV)/.ready  ## what README.md and studies/catalogue.md list, from the registry
	$(BIN)/python -m autotc.tables.pages .

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
