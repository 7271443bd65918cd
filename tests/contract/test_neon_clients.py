"""Neon's own clients, as they are published, against the local Neon API; and its answers against Neon's OpenAPI."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import httpx
import jsonschema
import pytest
import referencing
import referencing.jsonschema

from agentdb_mcp.embedded import EmbeddedPostgres
from agentdb_mcp.neon_emulator import Emulator, neon_emulator

# They are fetched from npm and PyPI at test time: `make neon-clients`.
pytestmark = pytest.mark.long

Json = dict[str, Any]
CLIENTS = Path(__file__).parent / "clients"
PACKAGES = ("neonctl@5", "@neondatabase/api-client@2", "@neon/sdk@6", "yaml@2")
INSTALL_S = 240


@pytest.fixture(scope="module")
async def emulator(postgres: EmbeddedPostgres) -> AsyncIterator[Emulator]:
    async with neon_emulator(postgres.uri().reveal(), control=True) as running:
        yield running


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Neon's npm packages."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.fail("node and npm are not on this machine, so Neon's npm clients cannot run")
    folder = tmp_path_factory.mktemp("npm")
    (folder / "package.json").write_text("{}")
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", *PACKAGES]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        pytest.fail("npm did not install Neon's clients in time")
    if done.returncode:
        pytest.fail("npm cannot install Neon's clients here")
    return folder


@pytest.fixture(scope="module")
def python_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with PyPI's neon-api; ."""
    folder = tmp_path_factory.mktemp("pypi")
    command = [_python_with_pip(), "-m", "pip", "install", "--quiet", "--target", str(folder), "neon-api"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        pytest.fail("pip did not install neon-api in time")
    if done.returncode:
        pytest.fail("pip cannot install neon-api here")
    return folder


def _python_with_pip() -> str:
    for python in (sys.executable, shutil.which("python3")):
        if (
            python
            and not subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode
        ):
            return python
    outside = Path(sys.base_prefix) / "bin" / "python3"
    if outside.exists():
        return str(outside)
    pytest.fail("no Python with pip is on this machine, so neon-api cannot be installed")


async def run(emulator: Emulator, *command: str, home: Path, **environment: str) -> Json:
    """A client as a process of its own; what it prints is JSON."""
    variables = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "NEON_API_HOST": emulator.base_url,
        "NEON_API_KEY": emulator.api_key,
        "NEON_ORG_ID": emulator.org_id,
        **environment,
    }
    with anyio.fail_after(60):
        done = await anyio.run_process(command, cwd=home, env=variables, check=False)
    assert done.returncode == 0, done.stderr.decode()
    text = done.stdout.decode()
    body: Json = json.loads(text) if text.lstrip()[:1] in ("{", "[") else {"text": text.strip()}
    return body


async def select_one(uri: str) -> int:
    connection = await asyncpg.connect(uri)
    try:
        answer: int = await connection.fetchval("SELECT 1")
        return answer
    finally:
        await connection.close()


async def endpoints(emulator: Emulator, project_id: str) -> list[str]:
    headers = {"Authorization": f"Bearer {emulator.api_key}"}
    async with httpx.AsyncClient(base_url=emulator.base_url, headers=headers) as api:
        branches = (await api.get(f"/projects/{project_id}/branches")).json()["branches"]
        default = next(branch["id"] for branch in branches if branch["default"])
        answer = await api.get(f"/projects/{project_id}/branches/{default}/endpoints")
        return [endpoint["id"] for endpoint in answer.json()["endpoints"]]


async def test_neonctl_manages_projects_branches_and_roles(emulator: Emulator, node_modules: Path) -> None:
    script = str(node_modules / "node_modules/neonctl/bin/cli.js")

    async def neonctl(*arguments: str) -> Any:
        fixed = ("--no-analytics", "--output", "json")
        return await run(emulator, "node", script, *arguments, *fixed, home=node_modules)

    made = await neonctl("projects", "create", "--name", "from-cli", "--org-id", emulator.org_id)
    project = ("--project-id", made["project"]["id"])
    assert await select_one(made["connection_uris"][0]["connection_uri"]) == 1
    listed = await neonctl("projects", "list", "--org-id", emulator.org_id)
    assert made["project"]["id"] in json.dumps(listed)
    assert (await neonctl("projects", "get", project[1]))["name"] == "from-cli"
    assert (await neonctl("projects", "update", project[1], "--name", "renamed"))["name"] == "renamed"
    branch = await neonctl("branches", "create", "--name", "copy", *project)
    assert {found["name"] for found in await neonctl("branches", "list", *project)} == {"main", "copy"}
    endpoint_id = (await endpoints(emulator, project[1]))[0]
    role = await neonctl("roles", "create", "--name", "from_cli", *project)
    assert role["name"] == "from_cli"
    assert len(await neonctl("roles", "list", *project)) == 2
    assert {found["status"] for found in await neonctl("operations", "list", *project)} == {"finished"}
    for pooled in ((), ("--pooled",)):
        text = (await neonctl("connection-string", "--role-name", "from_cli", *project, *pooled))["text"]
        host = text.rpartition("@")[2]
        assert host.startswith(endpoint_id + ("-pooler." if pooled else "."))
        # The name may not resolve on this machine; the port and the login do.
        assert await select_one(re.sub(r"@[^:/]+", "@127.0.0.1", text).partition("?")[0]) == 1
    await neonctl("branches", "delete", branch["branch"]["id"], *project)
    await neonctl("projects", "delete", project[1])
    assert made["project"]["id"] not in json.dumps(await neonctl("projects", "list", "--org-id", emulator.org_id))


async def test_the_api_client_package_works_unchanged(emulator: Emulator, node_modules: Path) -> None:
    script = shutil.copy(CLIENTS / "api_client.mjs", node_modules)
    seen = await run(emulator, "node", str(script), home=node_modules)
    assert seen["state"] == "idle"
    assert "-pooler" in seen["uri"]
    assert seen["projects"] == [True]


async def test_the_sdk_package_works_unchanged(emulator: Emulator, node_modules: Path) -> None:
    script = shutil.copy(CLIENTS / "sdk.mjs", node_modules)
    seen = await run(emulator, "node", str(script), home=node_modules)
    assert seen["uri"].startswith("postgresql://")
    assert (seen["name"], seen["gone"]) == ("from-sdk", "not_found")


async def test_the_python_package_works_unchanged(emulator: Emulator, python_packages: Path) -> None:
    python = _python_with_pip()
    script = str(CLIENTS / "neon_api_client.py")
    seen = await run(emulator, python, script, home=python_packages, PYTHONPATH=str(python_packages))
    assert "from_neon_api" in seen["roles"]
    assert seen["name"] == "renamed-by-neon-api"


# --- Neon's published OpenAPI ---------------------------------------------------------------------------------------


class OpenApi:
    """Says whether an answer is one that Neon's document allows."""

    def __init__(self, document: Json) -> None:
        self.paths: Json = document["paths"]
        self.document = _with_null(document)
        resource = referencing.Resource(self.document, referencing.jsonschema.DRAFT4)
        self.registry: Any = referencing.Registry().with_resource("urn:neon", resource)
        self.seen: set[str] = set()

    async def check(self, response: httpx.Response) -> None:
        await response.aread()
        path = response.request.url.path.removeprefix("/api/v2")
        template = next(known for known in sorted(self.paths, key=_parameters) if re.fullmatch(_pattern(known), path))
        method = response.request.method.lower()
        pointer = f"#/paths/{template.replace('~', '~0').replace('/', '~1')}/{method}/responses"
        answers = self.paths[template][method]["responses"]
        answers = {str(status): answer for status, answer in answers.items()}
        answer = answers.get(str(response.status_code), answers["default"] if response.is_error else None)
        assert answer is not None, f"{method} {template} does not answer {response.status_code}"
        if "$ref" in answer:
            pointer, answer = answer["$ref"], _at(self.document, answer["$ref"])
        else:
            key = str(response.status_code) if str(response.status_code) in answers else "default"
            pointer = f"{pointer}/{key}"
            answer = _at(self.document, pointer)
        if "$ref" in answer:
            pointer = answer["$ref"]
        schema = {"$ref": f"urn:neon{pointer}/content/application~1json/schema"}
        jsonschema.Draft4Validator(schema, registry=self.registry).validate(response.json())
        self.seen.add(f"{method} {template}")


def _parameters(template: str) -> int:
    return template.count("{")


def _pattern(template: str) -> str:
    return re.sub(r"\\\{[a-z_]+\\\}", "[^/]+", re.escape(template))


def _at(document: Any, pointer: str) -> Any:
    for step in pointer.removeprefix("#/").split("/"):
        document = document[step.replace("~1", "/").replace("~0", "~")]
    return document


def _with_null(value: Any) -> Any:
    """OpenAPI 3.0's `nullable` in JSON Schema's words, and statuses as strings."""
    if isinstance(value, list):
        return [_with_null(item) for item in value]
    if not isinstance(value, dict):
        return value
    plain = {str(key): _with_null(item) for key, item in value.items() if key != "nullable"}
    return {"anyOf": [plain, {"type": "null"}]} if value.get("nullable") is True else plain


@pytest.fixture(scope="module")
def openapi(node_modules: Path) -> OpenApi:
    """The document that Neon ships with its client."""
    source = node_modules / "node_modules/@neondatabase/api-client/public-v2-for-users.gen.yaml"
    if not source.exists():
        pytest.fail("this version of Neon's client does not ship the OpenAPI document")
    convert = "console.log(JSON.stringify(require('yaml').parse(require('fs').readFileSync(process.argv[1], 'utf8'))))"
    done = subprocess.run(["node", "-e", convert, str(source)], cwd=node_modules, capture_output=True, check=True)
    return OpenApi(json.loads(done.stdout))


async def test_every_answer_is_one_that_neons_openapi_allows(emulator: Emulator, openapi: OpenApi) -> None:
    headers = {"Authorization": f"Bearer {emulator.api_key}"}
    hooks = {"response": [openapi.check]}
    async with httpx.AsyncClient(base_url=emulator.base_url, headers=headers, timeout=60, event_hooks=hooks) as api:
        made = (await api.post("/projects", json={"project": {"name": "checked"}})).json()
        await _walk(api, emulator, made)
    assert len(openapi.seen) >= 35, sorted(openapi.seen)


async def _settled(api: httpx.AsyncClient, project: str) -> None:
    while True:
        operations = (await api.get(f"{project}/operations")).json()["operations"]
        if all(operation["status"] == "finished" for operation in operations):
            return
        await anyio.sleep(0.01)


async def _walk(api: httpx.AsyncClient, emulator: Emulator, made: Json) -> None:
    """Each call once, and some that are refused."""
    project, organization = f"/projects/{made['project']['id']}", f"/organizations/{emulator.org_id}"
    branch, endpoint = f"{project}/branches/{made['branch']['id']}", f"{project}/endpoints/{made['endpoints'][0]['id']}"
    role, database = f"{branch}/roles/{made['roles'][0]['name']}", f"{branch}/databases/{made['databases'][0]['name']}"
    names = {"database_name": made["databases"][0]["name"], "role_name": made["roles"][0]["name"]}
    period = {"from": made["project"]["created_at"], "to": "2099-01-01T00:00:00Z", "granularity": "daily"}
    consumption = {**period, "org_id": emulator.org_id, "metrics": "compute_unit_seconds"}
    steps: list[tuple[str, str, Json]] = [
        ("PATCH", project, {"json": {"project": {"settings": {"quota": {"active_time_seconds": 10_000}}}}}),
        ("GET", "/users/me", {}),
        ("GET", "/users/me/organizations", {}),
        ("GET", organization, {}),
        ("GET", "/projects", {}),
        ("GET", "/projects", {"params": {"limit": 0}}),
        ("GET", "/projects/shared", {}),
        ("GET", project, {}),
        ("GET", "/projects/never-was-12345678", {}),
        ("GET", f"{project}/connection_uri", {"params": names}),
        ("GET", f"{project}/operations/{made['operations'][0]['id']}", {}),
        ("GET", f"{project}/branches", {}),
        ("GET", f"{project}/branches/count", {}),
        ("GET", branch, {}),
        ("GET", f"{branch}/roles", {}),
        ("GET", role, {}),
        ("GET", f"{role}/reveal_password", {}),
        ("POST", f"{role}/reset_password", {}),
        ("POST", f"{branch}/roles", {"json": {"role": {"name": "checked_role"}}}),
        ("GET", f"{branch}/databases", {}),
        ("GET", database, {}),
        ("POST", f"{branch}/databases", {"json": {"database": {"name": "checked_db", "owner_name": "checked_role"}}}),
        ("DELETE", f"{branch}/databases/checked_db", {}),
        ("DELETE", f"{branch}/roles/checked_role", {}),
        ("GET", f"{branch}/endpoints", {}),
        ("GET", f"{project}/endpoints", {}),
        ("GET", endpoint, {}),
        ("PATCH", endpoint, {"json": {"endpoint": {"autoscaling_limit_max_cu": 1}}}),
        ("POST", f"{endpoint}/suspend", {}),
        ("GET", endpoint, {}),
        ("POST", f"{endpoint}/start", {}),
        ("POST", f"{endpoint}/restart", {}),
        ("GET", "/consumption_history/v2/projects", {"params": consumption}),
        ("GET", "/consumption_history/v2/projects", {"params": {**consumption, "org_id": "org-none-12345678"}}),
        ("POST", f"{organization}/projects/transfer", {"json": {"destination_org_id": emulator.org_id}}),
        ("POST", f"{project}/branches", {"json": {"endpoints": [{"type": "read_write"}]}}),
        ("DELETE", branch, {}),
    ]
    last = None
    for method, path, options in steps:
        await _settled(api, project)
        last = await api.request(method, path, **options)
        expected_refusal = "never-was" in path or "none" in str(options) or options in ({"params": {"limit": 0}},)
        assert last.is_success or expected_refusal or last.status_code in (400, 422), (method, path, last.text)
    copies = [found for found in (await api.get(f"{project}/branches")).json()["branches"] if not found["default"]]
    restore = f"{project}/branches/{copies[0]['id']}/restore"
    await _settled(api, project)
    assert (await api.post(restore, json={"source_branch_id": made["branch"]["id"]})).status_code == 200
    await _settled(api, project)
    assert (await api.post(restore, json={"source_branch_id": copies[0]["id"]})).status_code == 400
    assert (await api.delete(f"{project}/branches/{copies[0]['id']}")).status_code == 200
    await _settled(api, project)
    move = {"destination_org_id": emulator.org_id, "project_ids": [made["project"]["id"]]}
    assert (await api.post(f"{organization}/projects/transfer", json=move)).status_code == 200
    assert (await api.delete(project)).status_code == 200
    assert (await api.post(f"{project}/recover")).status_code == 200
    assert (await api.delete(project)).status_code == 200
