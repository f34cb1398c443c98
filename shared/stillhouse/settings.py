"""Settings that every service shares. Read from the environment (`STILLHOUSE_...`), never at import."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Kafka(BaseModel):
    """Where the log is."""

    bootstrap_servers: str = Field(default="127.0.0.1:9092", description="host:port, comma-separated.")
    replication_factor: int = Field(default=1, ge=1, description="Of the topics that Stillhouse declares.")
    embedded: bool = Field(
        default=False, description="The broker is the embedded one: short polls, no idempotent producer."
    )
    poison_pause_s: float = Field(
        default=30.0, gt=0, description="Where most records of a topic fail: nothing is read for so long; then again."
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT", description="As in Kafka."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        default="PLAIN", description="With SASL_*: how to log in."
    )
    sasl_username: str | None = Field(default=None, description="With SASL_*: who.")
    sasl_password: SecretStr | None = Field(default=None, description="With SASL_*: the password.")


class Redis(BaseModel):
    """Where done-marks, jobs and sequential tests' state are; all of it can be rebuilt."""

    url: SecretStr = Field(default=SecretStr("redis://127.0.0.1:6379/0"), description="redis:// or rediss:// URL.")


class Telemetry(BaseModel):
    """What services say about themselves, and where."""

    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Lowest level shown.")
    log_format: Literal["json", "pretty"] = Field(default="json", description="`pretty` for a person's terminal.")
    http_host: str = Field(default="127.0.0.1", description="Address of /metrics, /health/live and /health/ready.")
    http_port: int = Field(default=0, ge=0, le=65535, description="0: any free port.")
    otlp_endpoint: str | None = Field(default=None, description="OTLP/HTTP traces go here; None: they do not.")
    trace_file: Path | None = Field(default=None, description="Spans are appended to this file as JSON lines.")


class Settings(BaseSettings):
    """The base of every service's settings."""

    model_config = SettingsConfigDict(env_prefix="STILLHOUSE_", env_nested_delimiter="__", extra="ignore")

    home: Path = Field(default=Path(".stillhouse"), description="Folder of store, artefacts, MLflow and jobs.")
    tasks: Path = Field(default=Path("deploy/tasks"), description="Folder of task files.")
    serving_url: str | None = Field(
        default=None,
        description="Where vLLM serves students that write, `{student}` in it stands for the student's id: "
        "http://vllm-{student}:8000/v1. None: replicas on this machine.",
    )
    kafka: Kafka = Field(default_factory=Kafka, description="The log.")
    redis: Redis = Field(default_factory=Redis, description="The cache.")
    telemetry: Telemetry = Field(default_factory=Telemetry, description="Logs, metrics, traces.")
