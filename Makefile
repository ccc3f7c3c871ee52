# Everything happens in .venv; `make demo` and `make test` install what they need first.
PYTHON ?= python3
# Which versions: constraints.txt, constraints-lowest.txt, or none (CONSTRAINTS=): the newest. `make clean` before another choice.
CONSTRAINTS ?= constraints.txt
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: install demo test test-fast check format wheel clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml $(CONSTRAINTS) $(wildcard reinforce/*/_*.c reinforce/*/_*.h)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(addprefix -c ,$(CONSTRAINTS)) -e '.[dev]'
	touch $@

demo: install
	$(BIN)/reinforce demo

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST)

# What needs no other process and no server, of the rooms that are pure or small: while one is at work on them.
FAST := labels replay sources store teachers views
test-fast: install
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "unit and not slow" $(FAST:%=tests/%) tests/test_*.py $(PYTEST)

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy
	git diff --check $$(git hash-object -t tree /dev/null)
	! git ls-files -z | xargs -0 -I% find % -size +500k | grep .

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

wheel: install
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m pytest tests/test_wheel.py

clean:
	rm -rf .venv build dist runs *.egg-info reinforce/*/*.so
