# Every target brings a fresh machine from nothing to done: .venv is made on first use.
# TIER=smoke|cpu|gpu|paper  JOBS=runs at a time  SEEDS=number of seeds  ARMS=names, or all  CELLS=names
# PROCESSES=per node, HOSTFILE=nodes, for runs on DeepSpeed
# BUDGET=1|4 and SCHEDULE=module:Class, for contest; MISSING=1: only the runs that the golden table lacks
# DATA=folder of corpora (wikitext-2/, gpt2-bpe/ ...)  TEXT=a corpus of your own, for exp-wikitext-bins

PYTHON ?= python3
UV ?= uv
TIER ?= cpu
SEEDS ?= 0
PROCESSES ?= 0
BUDGET ?= 1
# Values reach the program as they were typed: make does not expand them, and the shell sees them as variables only.
VALUES = TIER JOBS SEEDS ARMS CELLS TEXT PROCESSES HOSTFILE DATA BUDGET SCHEDULE MISSING
$(foreach name,$(VALUES),$(eval override $(name) := $$(value $(name))))
export $(VALUES)
ifdef DATA
export MDLM_DATA := $(value DATA)
endif
RUN = .venv/bin/mdlm run
OPTIONS = --tier="$$TIER" --seeds="$$SEEDS" --arms="$$ARMS" --cells="$$CELLS" --processes="$$PROCESSES" --hostfile="$$HOSTFILE" $${JOBS:+--jobs="$$JOBS"} $${TEXT:+--text="$$TEXT"} $${MISSING:+--missing}

.DEFAULT_GOAL := help
.PHONY: help setup lock locked exp-theory exp-parity exp-parity-map exp-parity-search exp-uniform-attention exp-wikitext-bins exp-wikitext-lasting exp-8b-pt exp-8b-sft exp-published-tables exp-information-density contest verify report gpu-queue test bench lint

help: ## this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-22s %s\n", $$1, $$2}'
	@echo "  TIER=smoke|cpu|gpu|paper (default cpu), JOBS=, SEEDS=, ARMS= (names, or all) and CELLS= apply to every exp-*"

# torch comes first and pinned: without it the other packages would pull the newest build, several GB of CUDA included.
# DeepSpeed's own set-up imports torch, so it is built in this environment; what it needs of C++ it compiles when it is first used.
.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"PYTHON: {sys.version.split()[0]} is too old; 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q -c constraints.txt torch numpy setuptools wheel
	DS_BUILD_OPS=0 .venv/bin/python -m pip install -q -c constraints.txt --no-build-isolation deepspeed
	.venv/bin/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

setup: .venv/installed ## make .venv with the pinned packages

# With uv, which builds DeepSpeed's description in .venv. UV_FIND_LINKS names a folder or page with the CPU build of torch: the
# registry's own brings several GB of CUDA.
lock: .venv/installed ## requirements.lock: every package of the dev extra with its hashes (needs uv)
	DS_BUILD_OPS=0 $(UV) pip compile pyproject.toml --extra dev -c constraints.txt --generate-hashes --python .venv/bin/python --no-build-isolation-package deepspeed --no-emit-package mdlm-min --no-annotate -q -o requirements.lock

# setuptools and wheel come first: what is built, is built with them. PIP_FIND_LINKS, or PIP_EXTRA_INDEX_URL, as for `lock`.
locked: ## make .venv from requirements.lock, each file checked by its hash (Linux x86-64, Python 3.11)
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info[:2] == (3, 11) else f"PYTHON: {sys.version.split()[0]} is not what requirements.lock is for; 3.11 is needed: make locked PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	awk '/^[^ #]/ {build = /^(setuptools|wheel)==/} build' requirements.lock > .venv/build.lock
	.venv/bin/python -m pip install -q --no-deps --require-hashes -r .venv/build.lock
	DS_BUILD_OPS=0 .venv/bin/python -m pip install -q --no-deps --no-build-isolation --require-hashes -r requirements.lock
	.venv/bin/python -m pip install -q --no-deps --no-build-isolation -e .
	@touch .venv/installed

exp-theory: .venv/installed ## T1-T9: the paper's formulas against enumeration, search and simulation (3 min)
	$(RUN) theory $(OPTIONS)

exp-parity: .venv/installed ## P1-P9: grokking and masked diffusion on parity (SEEDS=1 CELLS=train_samples=600: a quarter of an hour on two cores; all: hours)
	$(RUN) parity $(OPTIONS)

exp-parity-map: .venv/installed ## where masked diffusion beats output supervision: n, k, N, depth, width, window (1 h)
	$(RUN) parity_map $(OPTIONS)

exp-parity-search: .venv/installed ## an open search: which network shows Fig 2 at the paper's own problem? (7 h)
	$(RUN) parity_search $(OPTIONS)

exp-uniform-attention: .venv/installed ## P5: parity without attention (45 min)
	$(RUN) uniform_attention $(OPTIONS)

exp-wikitext-bins: .venv/installed ## W1-W8, T9b, T10: which window of mask rates trains best on text (3 h; DATA=folder, or TEXT=your corpus)
	$(RUN) wikitext_bins $(OPTIONS)

exp-wikitext-lasting: .venv/installed ## L1-L4, N1-N5: does the window's gain last, window or weight, other schedules (8 to 12 h; DATA=folder)
	$(RUN) wikitext_lasting $(OPTIONS)

exp-8b-pt: .venv/installed ## B1, B2, B5: LLaDA's block pre-trained on a window of mask rates, at three sizes (5 h; DATA=folder); TIER=paper: 8B on 8 GPUs
	$(RUN) 8b_pt $(OPTIONS)

exp-8b-sft: .venv/installed ## B3, B4, G1-G4: fine-tuning on windows of mask rates, by likelihood and by generation (1 h; DATA=folder); TIER=paper: 8B on 8 GPUs
	$(RUN) 8b_sft $(OPTIONS)

exp-published-tables: .venv/installed ## B2t, B3t, B4t: Tables 1 to 3 as published, each gain against the noise of its items (seconds)
	$(RUN) published_tables $(OPTIONS)

exp-information-density: .venv/installed ## D1-D6: dense tokens first, in complementary pairs (arXiv:2603.15803), on text, answers and parity (6.5 h; DATA=folder)
	$(RUN) information_density $(OPTIONS)

contest: .venv/installed ## every mask schedule on equal terms: search and five seeds at the 1x budget (90 min; DATA=folder); BUDGET=4 (some 4 h)
	@if [ "$$TIER$$ARMS$$CELLS" != cpu ] && [ -n "$$SCHEDULE" ]; then \
	echo "SCHEDULE: not together with TIER, ARMS or CELLS; a short try: mdlm contest --schedule ... --tracks parities --seeds 1" >&2; exit 2; fi
	@if [ "$$TIER$$ARMS$$CELLS" != cpu ] && [ "$$BUDGET" != 1 ]; then \
	echo "BUDGET: not together with TIER, ARMS or CELLS; a cell names its budget, such as CELLS=track=bytes_budget=4" >&2; exit 2; fi
	if [ "$$TIER$$ARMS$$CELLS" != cpu ]; then $(RUN) contest $(OPTIONS); exit; fi; \
	.venv/bin/mdlm contest --budget="$$BUDGET" --seeds="$$SEEDS" $${SCHEDULE:+--schedule="$$SCHEDULE"} $${JOBS:+--jobs="$$JOBS"} $${MISSING:+--missing}

verify: .venv/installed ## every claim's verdict from results/; exit 1 if a verdict or a number has moved
	.venv/bin/mdlm verify

report: .venv/installed ## results/report.md and report.html: all figures, tables and verdicts
	.venv/bin/mdlm report

gpu-queue: .venv/installed ## what has not been run, with its cost, most wanted first
	.venv/bin/mdlm gpu-queue

test: .venv/installed ## the tests, fast ones first (half an hour on two cores)
	.venv/bin/python -m pytest

bench: .venv/installed ## speed, as ratios within one run
	.venv/bin/python -m pytest tests/benchmarks --benchmark-only --benchmark-columns=median,iqr,rounds -s

lint: .venv/installed ## ruff and mypy
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy
