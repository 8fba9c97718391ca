"""Configuration: a YAML profile, overridden by environment variables, validated where it is read.

`load` merges in this order: the defaults below, the profile (``config/NAME.yaml`` or a file), and environment
variables ``FASTVC_SECTION__KEY=value`` (the value is read as YAML, so lists and numbers work). An unknown key, a wrong
type or a value out of range raises `ConfigError` with the key's path and what is allowed. Nothing is replaced silently.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

ROOT = Path(__file__).resolve().parents[1]
ENV_PREFIX = "FASTVC_"
PROFILE_VARIABLE = "FASTVC_ENV"  # names the profile when no option does

Port = Annotated[int, Field(ge=0, le=65_535)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
UnitMs = Annotated[int, Field(ge=20, le=10_000, multiple_of=20)]


class ConfigError(ValueError):
    """A configuration that cannot be used. The text names file or variable, key and allowed values."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class GatewayConfig(_Section):
    """The HTTP and WebSocket side."""

    host: str = "127.0.0.1"
    port: Port = 8042
    max_sessions: Annotated[int, Field(ge=1, le=100_000)] = 400
    simple_protocol: bool = False
    prefill_ms: Annotated[int, Field(ge=0, le=2000)] = 375
    latency_budget_ms: Annotated[int, Field(ge=100, le=60_000)] = 2000
    max_waiting_blocks: Annotated[int, Field(ge=1, le=1000)] = 8
    max_message_bytes: Annotated[int, Field(ge=4096, le=16 << 20)] = 1 << 20
    config_timeout_s: Seconds = 10.0
    idle_timeout_s: Seconds = 30.0
    processing_timeout_s: Seconds = 15.0
    send_timeout_s: Seconds = 10.0
    max_session_s: Seconds = 14_400.0
    shutdown_grace_s: Seconds = 10.0
    codec_threads: Annotated[int, Field(ge=1, le=64)] = 2


class AuthConfig(_Section):
    """Who may open a session."""

    required: bool = True
    api_keys: list[Annotated[str, Field(min_length=8, max_length=200)]] = Field(default_factory=list)

    @model_validator(mode="after")
    def _has_keys(self) -> AuthConfig:
        if self.required and not self.api_keys:
            raise ValueError("api_keys is empty while required is true: name at least one key (FASTVC_AUTH__API_KEYS)")
        return self


class LinkConfig(_Section):
    """ZeroMQ between gateway and workers. The gateway binds host:port."""

    host: str = "127.0.0.1"
    port: Port = 5555
    allow_plain: bool = False
    secret_key_file: Path | None = None
    server_key_file: Path | None = None
    allowed_workers_dir: Path | None = None


class WorkerConfig(_Section):
    """One worker: its engine, its geometry and its bounds."""

    model: Literal["nano", "tiny", "small", "base", "shift", "passthrough"] = "shift"
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")] = "cpu"
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    graphs: bool = True
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    checkpoints_dir: Path = Path("checkpoints")
    dit_checkpoint_path: Path | None = None
    dit_config_path: Path | None = None
    max_sessions: Annotated[int, Field(ge=1, le=10_000)] = 16
    max_batch: Annotated[int, Field(ge=1, le=1024)] = 16
    gather_ms: Annotated[float, Field(ge=0, le=10)] = 0.0
    load_share: Annotated[float, Field(gt=0, le=1)] = 0.9
    warm_up_s: Seconds = 60.0
    block_ms: Annotated[int, Field(ge=40, le=2000, multiple_of=20)] = 200
    left_ms: UnitMs = 400
    dit_left_ms: UnitMs | None = None
    crossfade_ms: UnitMs = 40
    search_ms: UnitMs = 20
    right_ms: UnitMs = 20
    steps: Annotated[int, Field(ge=1, le=100)] = 10
    min_steps: Annotated[int, Field(ge=1, le=100)] | None = None
    guidance: Annotated[float, Field(ge=0, le=10)] = 0.7
    max_guidance: Annotated[float, Field(ge=0, le=10)] = 2.0
    max_f0_shift: Annotated[float, Field(ge=0, le=24)] = 12.0
    schedule: Literal["linear", "cosine"] = "cosine"
    rms_mix_rate: Annotated[float, Field(ge=0, le=1)] = 0.9
    vad: Literal["energy", "silero"] = "energy"
    silence_dbfs: Annotated[float, Field(ge=-120, le=0)] = -60.0
    vad_on: Annotated[float, Field(gt=0, lt=1)] = 0.5
    vad_off: Annotated[float, Field(gt=0, lt=1)] = 0.35
    vad_hangover_blocks: Annotated[int, Field(ge=0, le=100)] = 2
    voices_dir: Path = Path("worker/assets/voices")
    max_prompt_s: Annotated[float, Field(ge=1, le=25)] = 10.0
    max_prompts: Annotated[int, Field(ge=1, le=10_000)] = 64
    stuck_after_s: Seconds = 5.0

    @property
    def fewest_steps(self) -> int:
        """`min_steps`; half of `steps` where it is not given."""
        return -(-self.steps // 2) if self.min_steps is None else self.min_steps

    @model_validator(mode="after")
    def _limits_fit(self) -> WorkerConfig:
        if self.min_steps is not None and self.min_steps > self.steps:
            raise ValueError(f"min_steps = {self.min_steps} must not exceed steps = {self.steps}")
        if self.vad_off > self.vad_on:
            raise ValueError(f"vad_off = {self.vad_off} must not exceed vad_on = {self.vad_on}")
        if self.dit_left_ms is not None and self.dit_left_ms > self.left_ms:
            raise ValueError(f"dit_left_ms = {self.dit_left_ms} must not exceed left_ms = {self.left_ms}")
        return self

    @model_validator(mode="after")
    def _delay_fits(self) -> WorkerConfig:
        delay_ms = self.crossfade_ms + self.search_ms + self.right_ms
        if delay_ms > self.block_ms:
            raise ValueError(
                f"crossfade_ms + search_ms + right_ms = {delay_ms} must not exceed block_ms = {self.block_ms}"
            )
        return self


class LogConfig(_Section):
    """Log files under `dir`, one a role, rotated by size."""

    level: Literal["TRACE", "DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    dir: Path = Path("logs")
    max_file_mb: Annotated[int, Field(ge=1, le=10_000)] = 20
    keep_files: Annotated[int, Field(ge=1, le=1000)] = 5


class ServeConfig(_Section):
    """`fast-vc serve`: how many local workers, and where the service keeps its state."""

    workers: Annotated[int, Field(ge=0, le=64)] = 1
    state_dir: Path = Path("temp")
    ready_timeout_s: Seconds = 120.0


class Config(_Section):
    """All of it."""

    gateway: GatewayConfig = Field(default_factory=GatewayConfig)
    auth: AuthConfig = Field(default_factory=lambda: AuthConfig(required=False))
    link: LinkConfig = Field(default_factory=LinkConfig)
    worker: WorkerConfig = Field(default_factory=WorkerConfig)
    serve: ServeConfig = Field(default_factory=ServeConfig)
    log: LogConfig = Field(default_factory=LogConfig)


def load(file: Path | None = None, profile: str | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """The configuration of `file`, else of ``config/PROFILE.yaml`` (profile: argument, FASTVC_ENV, "default")."""
    environ = os.environ if environ is None else environ
    path = file if file is not None else _profile_path(profile or environ.get(PROFILE_VARIABLE) or "default")
    content = _read_yaml(path)
    origin = _merge_environment(content, environ)
    try:
        return Config.model_validate(content, strict=False)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(item, path, origin) for item in error.errors())) from None


def resolve(path: Path) -> Path:
    """A relative path of the configuration: below the working folder if it is there, else below the project."""
    return path if path.is_absolute() or path.exists() else ROOT / path


def _profile_path(profile: str) -> Path:
    folders = [Path("config"), ROOT / "config"]
    for folder in folders:
        if (folder / f"{profile}.yaml").is_file():
            return folder / f"{profile}.yaml"
    known = sorted({p.stem for folder in folders for p in folder.glob("*.yaml")})
    raise ConfigError(f"no profile {profile!r}; known: {', '.join(known) or 'none'}")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold a mapping of sections, not {type(content).__name__}")
    for section, values in list(content.items()):
        if values is None:  # a section with every line commented out
            content[section] = {}
    return content


def _merge_environment(content: dict[str, Any], environ: Mapping[str, str]) -> dict[tuple[str, ...], str]:
    """Overrides in place; returns which variable set which path, so that an error can name it."""
    origin: dict[tuple[str, ...], str] = {}
    for name, text in sorted(environ.items()):
        if not name.startswith(ENV_PREFIX) or name == PROFILE_VARIABLE:
            continue
        section, separator, key = name.removeprefix(ENV_PREFIX).lower().partition("__")
        if not separator or section not in Config.model_fields:
            raise ConfigError(
                f"{name}: no such setting; write {ENV_PREFIX}SECTION__KEY with a section of {_names(Config)}"
            )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"{name}: {text!r} is not YAML") from None
        if not isinstance(content.setdefault(section, {}), dict):
            continue  # the file's own error, reported by validation
        content[section][key] = value
        origin[(section, key)] = name
    return origin


def _names(model: type[BaseModel]) -> str:
    return ", ".join(sorted(model.model_fields))


def _explain(item: Any, path: Path, origin: Mapping[tuple[str, ...], str]) -> str:
    location = tuple(str(part) for part in item["loc"])
    where = f"{origin.get(location[:2], str(path))}: {'.'.join(location) or 'configuration'}"
    if item["type"] == "extra_forbidden":
        model = Config if len(location) == 1 else _section_model(location[0])
        allowed = sorted(model.model_fields)
        close = difflib.get_close_matches(location[-1], allowed, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        return f"{where}: unknown key{hint}; allowed: {', '.join(allowed)}"
    if item["type"] == "value_error":
        return f"{where}: {item['ctx']['error']}"
    given = "a value not shown here" if location[0] == "auth" else repr(item["input"])  # keys stay out of logs
    return f"{where}: {item['msg']}, got {given}"


def _section_model(section: str) -> type[BaseModel]:
    annotation = Config.model_fields[section].annotation
    candidates = [annotation, *get_args(annotation)]
    return next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
