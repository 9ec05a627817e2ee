# make demo: from nothing to a picture.   make test: the tests.   Both set up .venv first, once.
PYTHON ?= python3
VENV := .venv
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
# What the demo's picture depends on.
SOURCES := $(shell find configs deploy dev/demo.sh paddleseg_psp test_tipc/configs test_tipc/*.* tools *.py -type f -not -name '*.pyc' -not -path '*/_lib/*')
PICTURES := test_tipc/output/psanet/demo.png test_tipc/output/pspnet/demo.png

# Most tests wait for other processes, so that two run at once even on two cores.
PARALLEL := -n auto --maxprocesses 4 --dist worksteal

.PHONY: setup demo demo-pspnet tipc docs style test test-slow test-sanitizers coverage clean

setup: $(VENV)/.operator

# A changed list of requirements gives a new environment, so that nothing left over from the old one is relied on.
$(VENV)/.installed: requirements.txt pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 12))' || \
		{ echo "Error: $(PYTHON) is not Python 3.9 to 3.12; choose one with make PYTHON=python3.11"; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --upgrade pip
	$(VENV)/bin/pip install --quiet -r requirements.txt -e .
	@touch $@

$(VENV)/.operator: $(VENV)/.installed $(wildcard paddleseg_psp/ops/library/*.py paddleseg_psp/ops/psamask/csrc/*)
	$(RUN) python -m paddleseg_psp.ops.build || echo "Going on without the compiled operator: plain Paddle operators replace it"
	@touch $@

$(VENV)/.tested: $(VENV)/.installed requirements-dev.txt deploy/serving/requirements.txt
	$(VENV)/bin/pip install --quiet -r requirements-dev.txt
	@touch $@

$(PICTURES): test_tipc/output/%/demo.png: $(VENV)/.operator $(SOURCES)
	$(RUN) bash dev/demo.sh $* $@

demo: test_tipc/output/psanet/demo.png
	@echo "The picture is $(CURDIR)/$<"
	@echo "The same for PSPNet: make demo-pspnet"

demo-pspnet: test_tipc/output/pspnet/demo.png
	@echo "The picture is $(CURDIR)/$<"

# The documentation as a site, in build/site.
docs: setup $(VENV)/.tested
	$(RUN) python dev/make_reference.py
	$(RUN) NO_MKDOCS_2_WARNING=1 mkdocs build --strict

# The light chains of all models, whatever becomes of the others; those that failed or were cut off go on.
MODELS := psanet pspnet psanet_2cpu pspnet_2cpu psanet_resnet50 pspnet_resnet50 psanet_resnet101 pspnet_resnet101
tipc: setup
	@failed=; for model in $(MODELS); do \
		file=test_tipc/configs/$$model/train_infer_python.txt; \
		{ $(RUN) bash test_tipc/prepare.sh $$file lite_train_lite_infer && \
		$(RUN) bash test_tipc/test_train_inference_python.sh $$file lite_train_lite_infer; } || failed="$$failed $$model"; \
	done; \
	[ -z "$$failed" ] || { echo "Error: the chains failed of$$failed"; exit 1; }; \
	echo "The chains succeeded of $(MODELS)"

# In an environment of its own, so that it needs no Paddle: the versions are pinned, and no release of theirs breaks the tests.
STYLE := build/style
$(STYLE)/.installed: requirements-style.txt
	$(PYTHON) -m venv $(STYLE)
	$(STYLE)/bin/pip install --quiet -r requirements-style.txt
	@touch $@

style: $(STYLE)/.installed
	$(STYLE)/bin/ruff check .
	$(STYLE)/bin/ruff format --check .
	$(STYLE)/bin/mypy
	git ls-files '*.h' '*.cc' '*.cu' | xargs $(STYLE)/bin/clang-format --dry-run -Werror

test: setup $(VENV)/.tested
	$(RUN) python -m pytest $(PARALLEL) -m "not slow"

# Whole chains, killed trainings, the wheel, the tutorial.
test-slow: setup $(VENV)/.tested
	$(RUN) python -m pytest $(PARALLEL) -m slow

# The share of lines that the fast tests run, child processes included.
coverage: setup $(VENV)/.tested
	$(RUN) python -m pytest $(PARALLEL) -m "not slow" --cov=paddleseg_psp --cov-report=term

# The kernels under the thread, address and undefined-behaviour sanitizers; part of the tests too.
test-sanitizers: setup $(VENV)/.tested
	$(RUN) python -m pytest tests/ops/test_sanitizers.py

clean:
	rm -rf $(VENV) data/demo_cityscapes output test_tipc/output test_tipc/data build *.egg-info
