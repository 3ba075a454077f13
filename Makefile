# Two commands do everything on a fresh machine:  make search   |   make test
PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
BIN    := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: search real test postgres fuzz chaos check lint types imports format catalogue gpu-wheels gpu-test gpu-bench gpu-kernels gpu-device \
  gpu-apply gpu-serving clean

search: $(VENV)/.ready  ## the main job: search, store, print the front
	$(BIN)/autotc search --model qwen2.5-vl --max-tflops 800 $(ARGS)

real: $(VENV)/.ready    ## with weights: verify, calibrate, three budgets; MODEL=DIR DATA=F [POLICY=P]
	@test -n "$(MODEL)" -a -n "$(DATA)" || { echo 'make real MODEL=DIR DATA=my.jsonl [POLICY=policy.json]'; exit 2; }
	$(BIN)/autotc real --model "$(MODEL)" --data "$(DATA)" $(if $(POLICY),--policy "$(POLICY)") $(ARGS)

test: $(VENV)/.ready postgres  ## the whole test suite, one thread a process
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(ARGS)

# The tests start a server of their own from these programs. Only root installs them, where apt-get is: nobody is asked
# for a password, and elsewhere the tests that need a server are skipped and counted (with CI set they fail).
postgres:               ## PostgreSQL's programs for the tests, from the system's packages
	@if [ -n "$$AUTOTC_POSTGRES_BIN" ] || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null; \
	then :; elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
	then echo "Installing PostgreSQL for the tests (apt-get)"; \
	  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends postgresql; } \
	    >/dev/null || echo "PostgreSQL could not be installed: the tests that need it cannot run"; \
	else echo "No PostgreSQL here: the tests that need it are skipped. sudo make postgres, or your system's package, brings it"; fi

fuzz: $(VENV)/.ready    ## 100,000 policies, specs, constraints and workloads made of anything
	AUTOTC_FUZZ=100000 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/service/test_fuzz.py $(ARGS) \
	  && echo "100,000 cases: no traceback, nothing accepted wrongly"

chaos: $(VENV)/.ready postgres  ## workers killed, frozen and starved, databases crashed and cut off; prints its counts
	AUTOTC_CHAOS=full AUTOTC_REQUIRE_POSTGRES=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/chaos $(ARGS)

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


# On a machine with an NVIDIA GPU: its own Python with torch, transformers, numpy and CuPy; what it may lack besides is in
# GPU_WHEELS (with what they need) and GPU_ALONE (needs only numpy, which is there); `make gpu-wheels` fetches both
# beforehand for a machine without a network. Each of the five steps should take less than ten minutes on a card of the H200's class, writes as it goes and
# may be run again. GPU_OUT is the folder of the results.
GPU_PYTHON  ?= python3
GPU_VERSION ?= 3.12
GPU_WHEELS  ?= pydantic typer rich nvidia-ml-py pytest
GPU_ALONE   ?= scipy
GPU_SITE    := .gpu/site
GPU_MODELS  ?= qwen2.5-vl llava-1.5-7b
GPU_OUT     ?= studies
GPU_RUN     := PYTHONPATH=$(GPU_SITE):. PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1 $(GPU_PYTHON)
GPU_AUTOTC  := $(GPU_RUN) -c "from autotc.cli import main; main()"
GPU_FETCH   := -m pip download --quiet --only-binary=:all: --python-version $(GPU_VERSION) -d .gpu/wheels

gpu-wheels:             ## fetch what gpu-test needs besides torch, transformers, numpy and CuPy
	rm -rf .gpu/wheels
	$(PYTHON) $(GPU_FETCH) $(GPU_WHEELS)
	$(if $(GPU_ALONE),$(PYTHON) $(GPU_FETCH) --no-deps $(GPU_ALONE))

$(GPU_SITE)/.ready: Makefile
	mkdir -p $(GPU_SITE)
	lacks() { ! $(GPU_PYTHON) -m pip show --quiet $$1 2>/dev/null; }; \
	from=$$(test -d .gpu/wheels && echo --no-index --find-links .gpu/wheels); \
	put="$(GPU_PYTHON) -m pip install --quiet --no-compile --target $(GPU_SITE) --upgrade $$from"; \
	for name in $(GPU_WHEELS); do lacks $$name && { $$put $$name || exit 1; }; done; \
	for name in $(GPU_ALONE); do lacks $$name && { $$put --no-deps $$name || exit 1; }; done; true
	touch $@

gpu-test: $(GPU_SITE)/.ready   ## every operation and a trial on the GPU; needs a GPU, fails without
	$(GPU_AUTOTC) bench kernels --operation gather_rows --repeats 3
	$(GPU_RUN) -m pytest -rs -o filterwarnings=default tests/kernels/test_gpu.py tests/device/test_gpu.py $(ARGS)

gpu-bench: gpu-kernels gpu-device gpu-apply gpu-serving  ## all figures: $(GPU_OUT)/kernels/results.csv, $(GPU_OUT)/device/*.json

gpu-kernels: $(GPU_SITE)/.ready  ## times of the operations
	$(GPU_AUTOTC) list kernels
	$(GPU_AUTOTC) bench kernels --out $(GPU_OUT)/kernels/results.csv

gpu-device: $(GPU_SITE)/.ready   ## the table of this GPU
	$(GPU_AUTOTC) bench device $(foreach m,$(GPU_MODELS),--model $(m)) --out $(GPU_OUT)/device

gpu-apply: $(GPU_SITE)/.ready    ## speed and memory of policies; goes on where a run was cut short
	for m in $(GPU_MODELS); do $(GPU_AUTOTC) bench apply --model $$m --table auto \
	  --out $(GPU_OUT)/device/apply-$$m.json || exit 1; done

gpu-serving: $(GPU_SITE)/.ready  ## simulated throughput against batches that were answered
	for m in $(GPU_MODELS); do $(GPU_AUTOTC) bench serving --check --model $$m --table auto \
	  --out $(GPU_OUT)/device/serving-$$m.json || exit 1; done

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
