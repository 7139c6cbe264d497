# Every target needs Python 3.11 to 3.13 with pip, and nothing else: the rest is installed into .venv.
.DEFAULT_GOAL := help
.PHONY: help install demo test check docs services faults chaos endurance bench clean

# Relative, so that a folder with spaces in its path works as well.
BIN := .venv/bin
PYTHON ?=
# Twice two cores: tests of real processes wait half of their time.
PROCESSES ?= 4
ARGS ?=
export PYTHON
# Without its compiled modules each of the many processes that tests start would compile the project anew.
unexport PYTHONDONTWRITEBYTECODE

help:  ## list every target
	@echo "make TARGET [ARGS='more arguments'] [PYTHON=/path/to/python3.12]"
	@while IFS= read -r line; do case "$$line" in \
		[a-z]*:*'##'*) printf '  %-10s %s\n' "$${line%%:*}" "$${line##*## }";; esac; done < Makefile

install: .venv/installed  ## make .venv and install the project with all its tools

demo: .venv/installed  ## a real model infers over real handwritten digits, through real workers
	@$(BIN)/python -m examples.digits $(ARGS)

test: .venv/installed  ## the suite, on a Redis and a PostgreSQL of its own
	@$(BIN)/python -m pytest -m "not (chaos or faults or endurance)" -n $(PROCESSES) --dist loadfile $(ARGS)

faults: .venv/installed  ## what the suite has no time for: each thing is broken once, for a short while
	@$(BIN)/python -m pytest -m "faults and not (chaos or endurance)" -n 2 --dist load $(ARGS)

check: .venv/installed  ## lint, format, types, imports and size limits, in under a minute
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python -m scripts.limits
	@$(BIN)/lint-imports --config importlinter.ini
	@$(BIN)/mypy

docs: .venv/installed  ## write the state machines into docs/architecture.md, from the code
	@$(BIN)/python -m scripts.state_tables

services: .venv/installed  ## what a server makes a difference to, on this machine's PostgreSQL, Redis and RabbitMQ
	@ORCHESTRATOR_TEST_SERVICES="$${ORCHESTRATOR_TEST_SERVICES:-1}" \
		$(BIN)/python -m pytest -m "services and not (chaos or endurance)" -n 3 --dist loadfile $(ARGS)

chaos: .venv/installed  ## bulk inference is killed, cut and wiped, over and over; up to half an hour
	@$(BIN)/python -m pytest -m "chaos and not endurance" -n 3 --dist worksteal $(ARGS)

endurance: .venv/installed  ## much longer: what else dies at every point, a thousand stops, gigabytes, every time zone
	@$(BIN)/python -m pytest -m endurance -n 2 --dist worksteal $(ARGS)

bench: .venv/installed  ## every benchmark on both databases, and one table of goals and figures
	@$(BIN)/python -m benchmarks $(ARGS)

clean:  ## remove .venv, caches and what the demo left
	rm -rf .venv .orchestrator .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/installed: pyproject.toml constraints.txt scripts/bootstrap.py
	@for python in "$$PYTHON" python3 python python3.13 python3.12 python3.11; do \
		if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 6))' >/dev/null 2>&1; then \
			exec "$$python" scripts/bootstrap.py; \
		fi; \
	done; \
	echo "No Python found. This project needs Python 3.11 to 3.13 with pip: install it, or name it:" >&2; \
	echo "  make PYTHON=/path/to/python3.12 ..." >&2; \
	exit 1
