# make demo: from nothing to a picture.   make test: the tests.   Both set up .venv first, once.
PYTHON ?= python3
VENV := .venv
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
PSANET := test_tipc/configs/psanet/train_infer_python.txt
PSPNET := test_tipc/configs/pspnet/train_infer_python.txt

.PHONY: setup demo demo-pspnet test test-fast clean

setup: $(VENV)/.operator

# A changed list of requirements gives a new environment, so that nothing left over from the old one is relied on.
$(VENV)/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 12))' || \
		{ echo "Error: $(PYTHON) is not Python 3.9 to 3.12; choose one with make PYTHON=python3.11"; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip
	$(VENV)/bin/pip install --quiet -r requirements.txt -e .
	@touch $@

$(VENV)/.operator: $(VENV)/.installed $(wildcard paddleseg_psp/ops/*.py paddleseg_psp/ops/psamask/csrc/*)
	$(RUN) python -m paddleseg_psp.ops.build || echo "Going on without the compiled operator: plain Paddle operators replace it"
	@touch $@

$(VENV)/.tested: $(VENV)/.installed requirements-dev.txt
	$(VENV)/bin/pip install --quiet -r requirements-dev.txt
	@touch $@

demo: setup
	$(RUN) bash tools/demo.sh psanet $(PSANET)
	@echo "The same for PSPNet: make demo-pspnet"

demo-pspnet: setup
	$(RUN) bash tools/demo.sh pspnet $(PSPNET)

test: setup $(VENV)/.tested
	$(RUN) python -m pytest

test-fast: setup $(VENV)/.tested
	$(RUN) python -m pytest -m "not slow"

clean:
	rm -rf $(VENV) data/demo_cityscapes output test_tipc/output test_tipc/data build *.egg-info
