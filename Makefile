# `make demo` and `make test` set themselves up on a bare machine: Python 3.11 with venv, make, PyPI.
PYTHON ?= python3
UV_VERSION := 0.13.9
UV := .uv/bin/uv
RUN := .venv/bin/

# Of a checkout, of requirements.txt and of the image.
EXTRAS := --extra pipeline --extra kubeflow --extra signing

# uv neither fetches a Python nor compiles: it uses the interpreter that is here.
export UV_PYTHON_DOWNLOADS := never
export PYTHONHASHSEED := 0

IMAGES ?= $(error name a folder of images and masks: make $(MAKECMDGOALS) IMAGES=DIR)

.PHONY: demo test test-all lint docs bench recipes ablation plans queue setup requirements sbom audit protos clean
.DEFAULT_GOAL := demo

# Two processes, each of which runs whole files, the longest first: see tests/conftest.py.
PARALLEL := --numprocesses=2 --dist=loadfile --no-loadscope-reorder

demo: setup ## The whole pipeline on generated steel surfaces
	$(RUN)flexunet demo

test: setup ## The tests that need PyPI only and minutes; prints the ten slowest
	$(RUN)python -m pytest $(PARALLEL) -m "not downloads and not slow" --durations=10

test-all: setup ## Also the slow ones, and those that need Debian packages or downloads
	$(RUN)python -m pytest $(PARALLEL) --durations=10

lint: setup ## Style, types, layers, the documentation, and that lock and requirements agree
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)basedpyright
	$(RUN)lint-imports
	$(UV) lock --check
	$(UV) export $(EXPORT) | diff - requirements.txt
	$(SITE)
	$(RUN)python -m docs.commands

docs: setup ## The site in site/; writes anew the pages that repeat the code
	$(RUN)python -m docs.generate
	$(SITE)
	$(RUN)python -m docs.commands

bench: setup ## Speed, memory and scaling as ratios, each against a baseline in the same run
	$(RUN)python -m benchmarks.cli
	$(RUN)python -m benchmarks.ingest
	$(RUN)python -m benchmarks.gate
	$(RUN)python -m benchmarks.training
	$(RUN)python -m benchmarks.demo
	$(RUN)python -m benchmarks.serving
	$(RUN)python -m benchmarks.start

recipes ablation: setup ## Needs IMAGES=DIR, such as NEU-Seg; goes on where it was stopped
	$(RUN)python -m benchmarks.recipes $@ --images $(IMAGES)

plans: setup ## What `flexunet plan` writes against the presets; with IMAGES=DIR on those too; goes on where it was stopped
	$(RUN)python -m benchmarks.plans $(if $(filter command environment,$(origin IMAGES)),--images $(IMAGES))

queue: setup ## What `flexunet live queue` picks against random images; with IMAGES=DIR on those too; goes on where it was stopped
	$(RUN)python -m benchmarks.queue $(if $(filter command environment,$(origin IMAGES)),--images $(IMAGES))

setup: .venv/.done

.venv/.done: uv.lock pyproject.toml setup.py | $(UV)
	$(UV) sync --frozen --python $(PYTHON) $(EXTRAS)
	touch $@

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
	  || { echo "error: $(PYTHON) is not Python 3.11; name one: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv .uv \
	  || { rm -rf .uv; echo "error: $(PYTHON) has no venv module; on Debian: apt-get install python3-venv"; exit 1; }
	.uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# Without the banner of mkdocs-material about its successor, which is no warning about our pages.
SITE := NO_MKDOCS_2_WARNING=1 $(RUN)mkdocs build --quiet --strict

LOCKED := --quiet --frozen --no-emit-project --no-default-groups $(EXTRAS)
EXPORT := $(LOCKED) --no-header
requirements: $(UV) ## For those without uv: pip install --no-deps -r requirements.txt
	$(UV) lock
	$(UV) export $(EXPORT) > requirements.txt

sbom: $(UV) ## What the image installs, with hashes, as CycloneDX 1.5: sbom.json
	$(UV) export $(LOCKED) --format cyclonedx1.5 --output-file sbom.json > /dev/null

# Without --strict, what PyPI cannot answer for counts as sound.
audit: $(UV) ## Known weaknesses of what the image installs, but for those that audit.txt judges; asks PyPI
	$(UV) run --no-project --isolated --python $(PYTHON) --with pip-audit==2.10.0 pip-audit --requirement requirements.txt \
	  --disable-pip --require-hashes --strict $(addprefix --ignore-vuln ,$(shell sed 's/[ #].*//' audit.txt))

protos: $(UV) ## Generates the *_pb2.py of flexunet, for protobuf 6.31 and newer
	$(UV) run --no-project --isolated --python $(PYTHON) --with grpcio-tools==1.76.0 \
	  python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. flexunet/*/protos/*.proto

clean: ## Removes the environment, not the runs
	rm -rf .venv .uv
