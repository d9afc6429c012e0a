# Names for what scripts/ can do; nothing is done here. `make` alone lists them.
#
# Works with the system's python3: every script goes on in venv/, which ./start.sh makes when it is
# not there. An environment of your own that has the packages: make bench PYTHON=/path/to/python

ifeq ($(origin PYTHON), undefined)
PYTHON := python3
needs := venv/bin/python
endif

# More options for the script, as in: make bench-compare ARGS=--quick
ARGS ?=
# How long the profiles of `flamegraph` and `profile-all` take.
SECONDS_TO_PROFILE ?= 15

.DEFAULT_GOAL := help
.PHONY: help bench bench-baseline bench-compare flamegraph profile-all audit

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) \
		| awk -F '|' '{printf "%-22s %s\n", $$1, $$2}'

venv/bin/python:
	./start.sh setup

bench: $(needs) ## stage benchmarks and the whole daemon, five rounds
	$(PYTHON) scripts/bench.py run $(ARGS)

bench-baseline: $(needs) ## the same, kept in .benchmarks/baseline.json
	$(PYTHON) scripts/bench.py baseline $(ARGS)

bench-compare: $(needs) ## the same against the baseline; fails when something is worse than noise
	$(PYTHON) scripts/bench.py compare $(ARGS)

flamegraph: $(needs) ## CPU profile of a daemon under load
	$(PYTHON) scripts/profile_arc_ingestion.py $(SECONDS_TO_PROFILE) --load $(ARGS)

profile-all: flamegraph ## CPU, memory and lines of a daemon under load
	$(PYTHON) scripts/profile_memory.py --load $(SECONDS_TO_PROFILE)
	$(PYTHON) scripts/profile_lines.py 'ingest.table_build:*' --daemon --load $(SECONDS_TO_PROFILE)

audit: $(needs) ## every benchmark and profile, with a report
	$(PYTHON) scripts/perf_audit.py $(ARGS)
