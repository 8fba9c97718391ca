"""A configuration as it is read: profiles merged over the default, overridden, checked, and wrong ones explained.

`load` merges in this order: ``config/default.yaml``, the profile (``config/NAME.yaml`` or a file), environment
variables ``FASTVC_SECTION__KEY=value`` (the value is read as YAML, so lists and numbers work), and options. A key
replaces the whole value of an earlier one. An unknown key, a wrong type or a value out of range raises `ConfigError`
with the key's path, where it came from and what is allowed. Nothing is replaced silently.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from shared.errors import ConfigError
from shared.settings import (
    DEMO_KEY,
    AuthConfig,
    Config,
    GatewayConfig,
    LinkConfig,
    LogConfig,
    Section,
    ServeConfig,
    WorkerConfig,
)

__all__ = [
    "ROOT",
    "AuthConfig",
    "Config",
    "ConfigError",
    "GatewayConfig",
    "LinkConfig",
    "LogConfig",
    "ServeConfig",
    "WorkerConfig",
    "check_auth",
    "load",
    "profiles",
    "read_yaml",
    "validate",
]

ROOT = Path(__file__).resolve().parents[1]  # of the packages: what is bundled lies below it, installed or not
BUNDLED = ROOT / "config"
ENV_PREFIX = "FASTVC_"
PROFILE_VARIABLE = "FASTVC_ENV"  # names the profile when no option does
DEFAULT = "default"

Location = tuple[str, ...]


@dataclass(slots=True)
class _Merged:
    """Sections and keys so far, and which file, variable or option each came from."""

    content: dict[str, Any] = field(default_factory=dict)
    origin: dict[Location, str] = field(default_factory=dict)

    def add(self, content: Mapping[str, Any], origin: str) -> None:
        """`content` over what is there, key by key."""
        for section, values in content.items():
            self.origin[(section,)] = origin
            if isinstance(values, dict) and isinstance(self.content.get(section, {}), dict):
                self.content.setdefault(section, {}).update(values)
                self.origin |= {(section, str(key)): origin for key in values}
            else:
                self.content[section] = values  # not a section: validation says so

    def source(self, location: Location) -> str:
        return self.origin.get(location[:2]) or self.origin.get(location[:1]) or "configuration"


def load(
    file: Path | None = None,
    profile: str | None = None,
    environ: Mapping[str, str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    worker_profile: str | None = None,
) -> Config:
    """The configuration of `file`, else of ``config/PROFILE.yaml`` (profile: argument, FASTVC_ENV, "default").

    worker_profile: whose ``worker`` section is meant in place of that configuration's. `options` are sections and keys
    that the command line gave. Raises `ConfigError`.
    """
    environ = os.environ if environ is None else environ
    path = file if file is not None else _profile_path(profile or environ.get(PROFILE_VARIABLE) or DEFAULT)
    merged = _Merged()
    for source in dict.fromkeys((BUNDLED / f"{DEFAULT}.yaml", path)):
        merged.add(read_yaml(source), str(source))
    if worker_profile is not None:
        merged.content.pop("worker", None)
        for source in dict.fromkeys((BUNDLED / f"{DEFAULT}.yaml", _profile_path(worker_profile))):
            merged.add({"worker": read_yaml(source).get("worker", {})}, str(source))
    for name, section, key, value in _variables(environ):
        merged.add({section: {key: value}}, name)
    for section, values in (options or {}).items():
        for key, value in values.items():
            merged.add({section: {key: value}}, f"--{key}")
    return _validate(merged, str(path))


def default_model(config: Config) -> str:
    """What a caller gets who names no model. Raises `ConfigError` for a worker's profile that is not there."""
    if config.gateway.default_model is not None:
        return config.gateway.default_model
    first = next(iter(config.serve.groups), None)
    if first is None or first.profile is None:
        return config.worker.model
    return load(profile=DEFAULT, worker_profile=first.profile).worker.model


def validate(content: Mapping[str, Any], origin: str) -> Config:
    """The configuration that `content` of a file `origin` is on its own. Raises `ConfigError`."""
    merged = _Merged()
    merged.add(content, origin)
    return _validate(merged, origin)


def _validate(merged: _Merged, name: str) -> Config:
    try:
        return Config.model_validate(merged.content, strict=False)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(item, name, merged) for item in error.errors())) from None


def check_auth(config: Config) -> None:
    """Refuse to serve others without keys of one's own. Raises `ConfigError`.

    ``auth.mode: none`` is the way to say that everybody may come in; leaving ``auth`` out is not.
    """
    auth, gateway = config.auth, config.gateway
    own = [key for key in auth.api_keys if key != DEMO_KEY or gateway.is_private]
    if auth.is_open or auth.takes_tokens or own or auth.keys_file.is_file():
        return
    keys = f"`fast-vc keys api NAME`, or {ENV_PREFIX}AUTH__API_KEYS='[\"a-long-random-key\"]'"
    if auth.api_keys:
        where = f"published = {', '.join(gateway.published)}" if gateway.published else f"host = {gateway.host}"
        raise ConfigError(
            f"auth.api_keys: gateway.{where} is reached by other machines, and everybody knows {DEMO_KEY}, which is "
            f"of no use there: make keys of your own with {keys}"
        )
    raise ConfigError(f"auth.api_keys is empty, and there is no {auth.keys_file}: make a key with {keys}")


def profiles() -> dict[str, Path]:
    """Every profile by name. The bundled ones come first: nothing in the working folder takes their place."""
    folders = (Path("config"), BUNDLED)
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


def _profile_path(profile: str) -> Path:
    known = profiles()
    if profile not in known:
        raise ConfigError(f"no profile {profile!r}; known: {', '.join(sorted(known)) or 'none'}")
    return known[profile]


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections that a file holds. Raises `ConfigError`."""
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: must hold a mapping of sections, not {type(content).__name__}")
    # A section with every line commented out says nothing.
    return {str(section): {} if values is None else values for section, values in content.items()}


class _Loader(yaml.SafeLoader):
    """A key that is given twice is an error: one of the two values would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        named = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for number, key in enumerate(named):
            if any(key.value == earlier.value for earlier in named[:number]):
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """What `text` says. Raises `ConfigError` with the place of what is wrong, and nothing of the text: it may hold
    secrets."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506: a SafeLoader
    except yaml.MarkedYAMLError as error:
        at = error.problem_mark
        where = f" (line {at.line + 1}, column {at.column + 1})" if at else ""
        raise ConfigError(f"not YAML: {error.problem}{where}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"not YAML: {type(error).__name__}") from None


def _variables(environ: Mapping[str, str]) -> Iterator[tuple[str, str, str, Any]]:
    """Name, section, key and value of every variable that is ours. Raises `ConfigError` for an unknown section."""
    for name, text in sorted(environ.items()):
        if not name.startswith(ENV_PREFIX) or name == PROFILE_VARIABLE:
            continue
        section, separator, key = name.removeprefix(ENV_PREFIX).lower().partition("__")
        if not separator or section not in Config.model_fields:
            raise ConfigError(
                f"{name}: no such setting; write {ENV_PREFIX}SECTION__KEY with a section of {_names(Config)}"
            )
        try:
            yield name, section, key, parse_yaml(text)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None


def _names(model: type[BaseModel]) -> str:
    return ", ".join(sorted(model.model_fields))


def _explain(item: Any, name: str, merged: _Merged) -> str:
    location = tuple(str(part) for part in item["loc"] if not str(part).startswith("("))  # one of several shapes
    where = f"{merged.source(location) if location else name}: {'.'.join(location) or 'configuration'}"
    if item["type"] == "extra_forbidden":
        allowed = sorted(_allowed(item["loc"]))
        close = difflib.get_close_matches(location[-1], allowed, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        return f"{where}: unknown key{hint}" + (f"; allowed: {', '.join(allowed)}" if allowed else "")
    if item["type"] == "model_type":
        return f"{where}: must be keys with values, got {type(item['input']).__name__}"
    if item["type"] == "value_error":
        return f"{where}: {item['ctx']['error']}"
    secret = location[:1] == ("auth",) or "ice_servers" in location  # keys and credentials stay out of logs
    given = "a value not shown here" if secret else repr(item["input"])
    return f"{where}: {item['msg']}, got {given}"


def _allowed(location: Sequence[str | int]) -> Iterable[str]:
    """Keys that may stand where `location` ends."""
    model: Any = Config
    for part in location[:-1]:
        if isinstance(part, str) and part in model.model_fields:
            annotation = model.model_fields[part].annotation
            model = next((found for found in _sections(annotation)), model)
    return model.model_fields


def _sections(annotation: Any) -> Iterator[type[Section]]:
    """Models that a field may hold, also as items of a list."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)


def section_model(section: str) -> type[Section]:
    """The model of one section of `Config`."""
    model = Config.model_fields[section].annotation
    assert isinstance(model, type)
    assert issubclass(model, Section)
    return model
