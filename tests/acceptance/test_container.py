"""Dockerfile, compose.yaml and docs/deploying.md say what is so, as far as reading them tells."""

from __future__ import annotations

import configparser
import re
import shlex
import tomllib
from typing import Any

import pytest
import typer

from agentdb_mcp.cli import app
from container_files import (
    ROOT,
    compose,
    env_example,
    environment,
    only,
    references,
    setting_names,
    stages,
    strings,
)

BUILD, FINAL = stages()
COMPOSE = compose()
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("agentdb-mcp")}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
PAGE = (ROOT / "docs" / "deploying.md").read_text("utf-8")
SECRET = re.compile(r"KEY|PASSWORD|SECRET|TOKEN|_URL$")
EXACT_IMAGE = re.compile(r"[a-z]+:[0-9]+(\.[0-9]+)+-[a-z-]+")


def parse(arguments: list[str]) -> None:
    """Read a command line as ours does, without running it. Raises typer's usage error."""
    group = typer.main.get_command(app)
    words, command = arguments, group
    context = None
    while True:
        context = command.make_context(words[0] if words else "agentdb-mcp", list(words), parent=context)
        if not hasattr(command, "resolve_command"):
            return
        _, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None


def command_of(service: dict[str, Any]) -> list[str]:
    return list(service.get("command") or only(FINAL, "CMD").command)


def test_a_command_line_that_is_not_ours_is_told_from_one_that_is() -> None:
    parse(["serve", "--http", "--port", "1"])
    parse(["keys", "rotate"])
    for wrong in (["serv"], ["serve", "--htp"], ["serve", "--port", "x"], ["keys", "rotated"]):
        with pytest.raises(Exception, match=r"No such|should be a valid integer"):
            parse(wrong)


class TestDockerfile:
    def test_images_are_named_by_exact_version(self) -> None:
        bases = [stage[0].words[0] for stage in (BUILD, FINAL)]
        assert all(EXACT_IMAGE.fullmatch(base) for base in bases)
        assert len(set(bases)) == 1, "the environment is moved from one to the other"
        assert bases[0].startswith("python:3.")

    def test_uv_is_the_version_that_make_takes(self) -> None:
        wanted = re.search(r"^UV_VERSION := (\S+)$", MAKEFILE, re.MULTILINE)
        assert wanted is not None
        assert re.findall(r"\buv==(\S+)", " ".join(step.rest for step in BUILD)) == [wanted[1]]

    def test_what_is_installed_is_locked_and_without_tests_compilers_and_postgres(self) -> None:
        dependencies, project = [step.words for step in BUILD if step.rest.startswith("uv sync")]
        for words in (dependencies, project):
            assert {"--locked", "--no-dev"} <= set(words)
            assert re.findall(r"--(?:extra \S+|all-extras)", " ".join(words)) == ["--extra explorer"]
        assert {"--no-install-project", "--no-build"} <= set(dependencies)
        assert "--no-editable" in project
        assert environment(BUILD)["UV_COMPILE_BYTECODE"] == "1"

    def test_the_build_backend_is_pinned_too(self) -> None:
        constraints = PROJECT["tool"]["uv"]["build-constraint-dependencies"]
        assert all(re.fullmatch(r"[a-z-]+==[0-9.]+", constraint) for constraint in constraints)
        assert {constraint.partition("==")[0] for constraint in constraints} >= {"hatchling"}

    def test_the_final_image_has_the_environment_alone_and_nothing_is_installed_there(self) -> None:
        copy = only(FINAL, "COPY").words
        assert copy == ["--from=build", environment(BUILD)["UV_PROJECT_ENVIRONMENT"], copy[-1]]
        assert copy[1] == copy[2], "scripts of an environment name its folder"
        assert not re.search(r"\b(pip|uv|apt|apt-get)\b", only(FINAL, "RUN").rest)

    def test_it_runs_as_a_user_that_is_not_root(self) -> None:
        user = only(FINAL, "USER").rest
        assert re.fullmatch(r"[1-9][0-9]*:[1-9][0-9]*", user)
        assert f"--uid {user.partition(':')[0]} " in only(FINAL, "RUN").rest
        names = [step.name for step in FINAL]
        assert names.index("RUN") < names.index("USER") < names.index("ENTRYPOINT")

    def test_it_serves_over_http_and_is_asked_for_its_health_on_the_port_that_it_serves_at(self) -> None:
        assert only(FINAL, "ENTRYPOINT").command == list(PROJECT["project"]["scripts"])
        command = only(FINAL, "CMD").command
        parse(command)
        assert command[:2] == ["serve", "--http"]
        port = command[command.index("--port") + 1]
        assert only(FINAL, "EXPOSE").rest == port
        check = only(FINAL, "HEALTHCHECK")
        assert "/healthz" in check.rest
        assert f"'127.0.0.1', {port}" in check.rest
        assert check.command[0] == "python"

    def test_it_holds_no_secret_and_no_setting(self) -> None:
        for stage in (BUILD, FINAL):
            assert not setting_names() & set(environment(stage))
            assert not any(SECRET.search(name) for name in environment(stage))

    def test_the_build_sees_what_it_copies_and_nothing_else(self) -> None:
        copied = {word for step in BUILD if step.name == "COPY" for word in step.words[:-1]}
        lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        rules = [line for line in lines if line and not line.startswith("#")]
        assert rules[0] == "*"
        assert {rule[1:] for rule in rules if rule.startswith("!")} == copied
        assert all((ROOT / name).exists() for name in copied)


class TestCompose:
    def test_images_of_others_are_named_by_exact_version(self) -> None:
        others = {service["image"] for name, service in SERVICES.items() if name not in OURS}
        assert others
        assert all(EXACT_IMAGE.fullmatch(image) for image in others)

    @pytest.mark.parametrize("name", OURS)
    def test_our_containers_run_a_command_of_ours_and_may_little(self, name: str) -> None:
        service = OURS[name]
        parse(command_of(service))
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not {"privileged", "user", "cap_add", "pid", "devices"} & set(service)

    def test_the_server_the_worker_the_migration_and_the_local_neon_api_are_there(self) -> None:
        assert {command_of(service)[0] for service in OURS.values()} == {
            *("neon-emulator", "migrate", "serve", "worker")
        }

    @pytest.mark.parametrize("name", OURS)
    def test_every_variable_given_to_ours_is_a_setting(self, name: str) -> None:
        assert set(OURS[name].get("environment", {})) <= setting_names()

    def test_secrets_come_from_outside_alone_and_all_of_them_are_in_the_example(self) -> None:
        found = set(references(COMPOSE))
        assert all(kind in ("?", "-") for _, kind in found)
        assert {name for name, kind in found if kind == "?"} == set(env_example())
        assert not any(SECRET.search(name) for name, kind in found if kind == "-")
        assert set(env_example().values()) == {""}
        for service in SERVICES.values():
            for name, value in service.get("environment", {}).items():
                assert not SECRET.search(name) or "${" in value, name
        assert not [text for text in strings(COMPOSE) if re.search(r"://[^$@/ ]+:[^$@ ]+@", text)]

    def test_the_file_of_secrets_is_kept_out_of_git_and_of_the_image(self) -> None:
        assert "/.env" in (ROOT / ".gitignore").read_text("utf-8").splitlines()
        assert "!.env" not in (ROOT / ".dockerignore").read_text("utf-8")

    def test_only_the_server_s_port_is_open_and_to_this_machine_alone(self) -> None:
        open_ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
        port = only(FINAL, "EXPOSE").rest
        assert open_ports == {"neon": [f"127.0.0.1:${{HTTP_PORT:-8000}}:{port}"]}
        assert SERVICES["serve"]["network_mode"] == "service:neon"

    def test_services_and_volumes_that_are_named_exist(self) -> None:
        for service in SERVICES.values():
            assert set(service.get("depends_on", {})) <= set(SERVICES)
            assert service.get("network_mode", "service:neon") == "service:neon"
            assert {volume.partition(":")[0] for volume in service.get("volumes", [])} <= set(COMPOSE["volumes"])
            for other, how in service.get("depends_on", {}).items():
                once = SERVICES[other].get("restart") == "no"
                assert how["condition"] == ("service_completed_successfully" if once else "service_healthy")

    def test_what_others_wait_for_has_a_health_check(self) -> None:
        for service in SERVICES.values():
            for other, how in service.get("depends_on", {}).items():
                assert how["condition"] != "service_healthy" or "test" in SERVICES[other]["healthcheck"]


class TestPage:
    def test_every_command_of_ours_on_the_page_is_one(self) -> None:
        blocks = re.findall(r"```(?:sh|ini)\n(.*?)```", PAGE, re.DOTALL)
        lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
        ours = re.compile(r"(?:^|/|\s)agentdb-mcp(?::\S+)? (?![-.])([^|;#]*)$")
        found = [match[1] for line in lines if (match := ours.search(line))]
        assert len(found) >= 7
        for line in found:
            parse(shlex.split(line.replace("%i", "8000")))

    def test_every_setting_on_the_page_is_one(self) -> None:
        assert set(re.findall(r"\b((?:AGENTDB|NEON)_[A-Z_]+)\b", PAGE)) <= setting_names()

    def test_every_make_target_and_file_on_the_page_exists(self) -> None:
        targets = set(re.findall(r"^([a-z.-]+):", MAKEFILE, re.MULTILINE))
        assert set(re.findall(r"`make ([a-z.-]+)`", PAGE)) <= targets
        for link in re.findall(r"\]\(([^)#:]+)", PAGE):
            assert (ROOT / "docs" / link).exists(), link
        assert "docs/deploying.md" in (ROOT / "README.md").read_text("utf-8")

    def test_the_units_of_the_page_restart_end_in_time_and_are_no_root(self) -> None:
        units = re.findall(r"```ini\n(.*?)```", PAGE, re.DOTALL)
        assert len(units) >= 2
        for text in units:
            unit = configparser.ConfigParser(interpolation=None, strict=False)
            unit.optionxform = str
            unit.read_string(text)
            service = unit["Service"]
            assert service["Restart"] == "always"
            assert service["User"] != "root"
            assert service["NoNewPrivileges"] == "true"
            assert int(service["TimeoutStopSec"]) >= 60
            assert service["EnvironmentFile"].startswith("/")
            parse(shlex.split(service["ExecStart"].replace("%i", "8000"))[1:])
