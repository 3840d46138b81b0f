# make demo         set up, then train both phases on phantoms, evaluate and draw (outputs/demo/)
# make test         set up, then the whole test suite on all cores   PYTEST_ARGS="-k name" narrows it
# make lint         set up, then ruff
# make venv         set up only: the exact versions of requirements.lock
# make lock         write the lock files anew: the newest versions in the ranges of requirements*.txt
# make test-newest  the suite on the newest versions in these ranges, in .venv-newest
# make test-oldest  the suite on the oldest, in .venv-oldest
#
# PYTHON=python3.12 picks the interpreter; TORCH=torch==2.12.1 picks another torch (>=2.11,<2.14).

PYTHON ?= python3
TORCH ?= torch==2.13.0
PYTEST_ARGS ?=
BIN := .venv/bin
STAMP := .venv/.requirements
LOCKS := requirements.lock requirements-deepspeed.lock
PIP := bin/python -m pip install --disable-pip-version-check -q
# A worker a core and a thread a worker: more threads only wait for each other.
PYTEST := bin/python -m pytest -q -n logical --maxprocesses 8 --dist loadfile \
  --no-loadscope-reorder

.PHONY: demo test lint venv lock test-newest test-oldest

demo: venv
	@$(BIN)/python train.py

test: venv
	@OMP_NUM_THREADS=1 .venv/$(PYTEST) $(PYTEST_ARGS)

lint: venv
	@$(BIN)/ruff check .

venv: $(STAMP)

$(STAMP): $(LOCKS)
	$(call new_venv,.venv)
	$(call install,.venv,$(TORCH),.)
	@touch $(STAMP)

lock: .venv-lock/bin/uv
	.ci/lock

test-newest test-oldest: test-%: .venv-lock/bin/uv
	$(call new_venv,.venv-$*)
	.ci/lock $* .venv-$*
	$(call install,.venv-$*,$$(cat .venv-$*/torch.lock),.venv-$*)
	@OMP_NUM_THREADS=1 .venv-$*/$(PYTEST) $(PYTEST_ARGS)

.venv-lock/bin/uv:
	$(call new_venv,.venv-lock)
	.venv-lock/$(PIP) uv

# $(call new_venv,FOLDER)
define new_venv
@test -x $(1)/bin/python || $(PYTHON) -c "import sys; v = sys.version_info[:2]; \
  sys.exit(None if (3, 11) <= v < (3, 14) else 'error: Python %d.%d is not supported; call \
make with PYTHON=python3.11, python3.12 or python3.13' % v)"
@test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
endef

# $(call install,ENVIRONMENT,TORCH,FOLDER OF THE LOCKS)
# torch goes in by a call of its own: machines without a GPU map exactly this specification to their
# CPU build, and a resolver that sees it beside other packages may pick the CUDA one. DeepSpeed has
# no wheel and is used by trainer=zero2 alone: where it cannot be built, that is all that is missing.
# Nothing of it is compiled here, and no GPU is looked for.
define install
$(1)/$(PIP) "$(2)"
$(1)/$(PIP) --no-deps --require-hashes -r $(3)/requirements.lock
@DS_ACCELERATOR=cpu DS_BUILD_OPS=0 $(1)/$(PIP) --no-build-isolation --no-deps \
  --require-hashes -r $(3)/requirements-deepspeed.lock || echo "warning: DeepSpeed could not be \
installed: trainer=zero2 will not run and its tests are skipped"
endef
