# make run    the demonstration: four services under load, reloaded, broken, killed, hung and upgraded
# make test   every test
# make check  style, types, floors, house rules
# make bench  the comparison with other servers (installs them, and wrk where it may)
.PHONY: run test unit e2e check format bench bench-admission bench-policies soak fuzz versions clean
VENV := .venv
PYTHON := $(VENV)/bin/python
# Tests run in as many processes as there are cores, those of one file in one of them; ARGS="-n 0" for none.
PARALLEL := -n logical --dist loadfile
# Where bytecode is not kept, each process that a test starts compiles everything anew.
unexport PYTHONDONTWRITEBYTECODE

run:
	@scripts/setup demo
	@$(VENV)/bin/holdfast demo $(ARGS)

test: unit e2e

unit:
	@scripts/setup dev
	$(PYTHON) -m pytest -q $(PARALLEL) -m "not e2e" $(ARGS)

e2e:
	@scripts/setup dev
	$(PYTHON) -m pytest -q $(PARALLEL) -m e2e $(ARGS)

check:
	@scripts/setup dev
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/pyright --pythonpath $(PYTHON)
	$(VENV)/bin/lint-imports
	$(PYTHON) scripts/check-house

format:
	@scripts/setup dev
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

bench:
	@scripts/setup dev
	$(PYTHON) -m benchmarks.zero_loss $(ARGS)
	$(PYTHON) -m benchmarks.throughput

bench-admission:
	@scripts/setup dev
	$(PYTHON) -m benchmarks.http $(ARGS)
	$(PYTHON) -m benchmarks.refusal
	$(PYTHON) -m benchmarks.overload
	$(PYTHON) -m benchmarks.config_changes

bench-policies:
	@scripts/setup dev
	$(PYTHON) -m benchmarks.policies $(ARGS)

soak:
	@scripts/setup dev
	$(PYTHON) -m benchmarks.soak $(ARGS)

fuzz:
	@scripts/fuzz $(ARGS)

versions:
	@scripts/setup dev
	scripts/test-versions

clean:
	rm -rf $(VENV) .venv-3.* build dist .mypy_cache .ruff_cache .pytest_cache
