# make demo   set up, then train both phases on phantoms, evaluate and draw (outputs/demo/)
# make test   set up, then the whole test suite        PYTEST_ARGS="-k name" narrows it
# make lint   set up, then ruff
# make venv   set up only
#
# PYTHON=python3.12 picks the interpreter; TORCH=torch==2.12.1 picks another torch (>=2.11,<2.14).

PYTHON ?= python3
TORCH ?= torch==2.13.0
PYTEST_ARGS ?=
BIN := .venv/bin
STAMP := .venv/.requirements

.PHONY: demo test lint venv

demo: venv
	@$(BIN)/python train.py

test: venv
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: venv
	@$(BIN)/ruff check .

venv: $(STAMP)

# torch goes in by a call of its own: machines without a GPU map exactly this specification to their
# CPU build, and a resolver that sees it beside other packages may pick the CUDA one.
$(STAMP): requirements.txt
	@test -x $(BIN)/python || $(PYTHON) -c "import sys; v = sys.version_info[:2]; \
	  sys.exit(None if (3, 11) <= v < (3, 14) else 'error: Python %d.%d is not supported; call \
	make with PYTHON=python3.11, python3.12 or python3.13' % v)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q "$(TORCH)"
	$(BIN)/python -m pip install --disable-pip-version-check -q -r requirements.txt
	@touch $(STAMP)
