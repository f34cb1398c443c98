"""The compose file is one by the specification, and says what the images and the services understand."""

from __future__ import annotations

import json
import re
import tomllib
from importlib.resources import files

import jsonschema
import pytest

from services.drift_monitor.settings import DriftMonitorSettings
from services.observer.settings import ObserverSettings
from services.router.settings import RouterSettings
from services.trainer.settings import TrainerSettings
from services.validator.settings import ValidatorSettings
from stillhouse.events import SERVICES
from tests.contracts.compose import COMPOSE, ROOT, environment, image_environment, last, stages

SETTINGS = {
    "router": RouterSettings,
    "observer": ObserverSettings,
    "trainer": TrainerSettings,
    "validator": ValidatorSettings,
    "drift-monitor": DriftMonitorSettings,
}
ALL = COMPOSE["services"]
STAGES = stages()
OURS = (*SERVICES, "topics")


def test_it_is_valid_by_the_compose_specification() -> None:
    # The schema comes with check-jsonschema, which takes it from the compose-spec project (Apache 2.0).
    schema = json.loads((files("check_jsonschema.builtin_schemas.vendor") / "compose-spec.json").read_text())
    jsonschema.validators.validator_for(schema)(schema).validate(COMPOSE)


def test_the_schema_refuses_what_is_none() -> None:
    schema = json.loads((files("check_jsonschema.builtin_schemas.vendor") / "compose-spec.json").read_text())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"services": {"router": {"imagee": "x"}}}, schema)


def test_the_parts_are_there() -> None:
    assert set(ALL) == {"kafka", "redis", "topics", *SERVICES, "otel-collector", "prometheus", "grafana"}
    observability = {name for name, service in ALL.items() if service.get("profiles") == ["observability"]}
    assert observability == {"otel-collector", "prometheus", "grafana"}
    assert set(SETTINGS) == set(SERVICES)


@pytest.mark.parametrize("name", ALL)
def test_every_image_has_a_version(name) -> None:
    assert re.search(r":v?\d+\.\d+\.\d+", ALL[name]["image"])


@pytest.mark.parametrize("name", OURS)
def test_our_images_are_built_without_rights_from_pinned_parts(name) -> None:
    build = ALL[name]["build"]
    assert (ROOT / build["dockerfile"]).is_file()
    built = STAGES[build["target"]]
    assert last(built, "USER") == "10001:10001"
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", last(built, "FROM"))
    assert ALL[name]["cap_drop"] == ["ALL"]
    assert "user" not in ALL[name]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_runs_its_own_module_and_is_asked_whether_it_is_ready(name) -> None:
    assert "command" not in ALL[name]
    module = f"services.{name.replace('-', '_')}"
    assert json.loads(last(STAGES[ALL[name]["build"]["target"]], "CMD")) == ["python", "-m", module]
    probe = ALL[name]["healthcheck"]["test"]
    assert "http://127.0.0.1:9100/health/ready" in probe[-1]
    compile(probe[-1], "healthcheck", "exec")
    assert environment(name)["STILLHOUSE_TELEMETRY__HTTP_PORT"] == last(STAGES[name], "EXPOSE") == "9100"
    assert ALL[name]["depends_on"]["topics"]["condition"] == "service_completed_successfully"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_understands_every_variable_that_it_is_given(name) -> None:
    for variable in ALL[name]["environment"]:
        prefix, *path = re.split(r"__|(?<=^STILLHOUSE)_", variable)
        assert prefix == "STILLHOUSE", variable
        model = SETTINGS[name]
        for key in path:
            assert key.lower() in model.model_fields, variable
            model = model.model_fields[key.lower()].annotation


def test_topics_are_declared_before_any_service_starts() -> None:
    assert ALL["topics"]["command"] == ["stillhouse", "topics", "declare"]
    assert ALL["topics"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    assert ALL["kafka"]["environment"]["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


def test_what_is_mounted_is_there_and_volumes_are_declared() -> None:
    for name, service in ALL.items():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], (name, volume)


def test_nothing_listens_outside_of_the_machine() -> None:
    for name, service in ALL.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name


def test_where_a_service_writes_is_the_volume() -> None:
    for name in SERVICES:
        home = environment(name)["STILLHOUSE_HOME"]
        assert f"home:{home}" in ALL[name]["volumes"]
        assert image_environment(STAGES[name])["PYTHONPATH"] == last(STAGES[name], "WORKDIR")
    copied = [rest.split()[-2] for built in STAGES.values() for word, rest in built if word == "COPY"]
    for source in {part for part in copied if not part.startswith("/")}:
        assert (ROOT / source).exists(), source


def test_every_dependency_has_its_version_in_the_constraints() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "deploy" / "constraints" / "core.txt").read_text().splitlines()
    pinned = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines if "==" in line}
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["train"]]:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)[0]
        assert re.sub(r"[-_.]+", "-", name).lower() in pinned, requirement
