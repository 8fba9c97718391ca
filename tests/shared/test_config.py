"""Configuration: profiles, environment, and errors that name path and allowed values."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from shared.config import Config, ConfigError, check_auth, default_model, load

PROFILES = Path(__file__).parents[2] / "config"


def test_the_profiles_load() -> None:
    default = load(environ={})
    assert (default.gateway.port, default.link.port, default.worker.model) == (8042, 5555, "nano")
    assert default.auth.required
    prod = load(profile="prod", environ={"FASTVC_AUTH__API_KEYS": "[a-long-random-key]"})
    assert prod.worker.device == "cuda:0"
    assert not prod.gateway.allows_simple
    assert load(profile="shift", environ={}).worker.model == "shift"
    assert load(profile="v2", environ={}).worker.right_ms == 240


def test_the_defaults_of_the_code_are_those_of_the_file_both_ways() -> None:
    written = yaml.safe_load((PROFILES / "default.yaml").read_text())
    known = Config().model_dump()
    assert {section: set(keys) for section, keys in written.items()} == {
        section: set(keys) for section, keys in known.items()
    }
    assert load(environ={}) == Config()


def test_the_default_profile_explains_every_key() -> None:
    lines = (PROFILES / "default.yaml").read_text().splitlines()
    bare = [line for line in lines if re.match(r"  \w+:", line) and not re.search(r" # \S", line)]
    assert [line.split(":")[0].strip() for line in bare] == []


@pytest.mark.parametrize("profile", ["prod", "shift"])
def test_a_profile_holds_only_what_differs_from_the_default(profile: str) -> None:
    default = yaml.safe_load((PROFILES / "default.yaml").read_text())
    own = yaml.safe_load((PROFILES / f"{profile}.yaml").read_text())
    same = [f"{s}.{k}" for s, keys in own.items() for k, value in keys.items() if default[s][k] == value]
    assert same == []


def test_a_file_is_merged_over_the_default(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("worker: {max_sessions: 3}\nauth: {api_keys: [a-key-of-my-own]}\n")
    config = load(file=path, environ={})
    assert config.worker == Config().worker.model_copy(update={"max_sessions": 3})
    assert config.auth.api_keys == ["a-key-of-my-own"]


def test_a_profile_of_the_working_folder_is_found_and_replaces_no_bundled_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "studio.yaml").write_text("serve: {workers: 3}")
    for name in ("default", "prod"):
        (tmp_path / "config" / f"{name}.yaml").write_text("another: {program: 1}")
    monkeypatch.chdir(tmp_path)
    assert load(profile="studio", environ={}).serve.workers == 3
    assert load(environ={}) == Config()
    assert load(profile="prod", environ={}).worker.model == "tiny"


OPEN = ["gateway: {host: 0.0.0.0}", "gateway: {host: '::'}", "{gateway: {host: 10.0.0.7}, auth: {}}"]


@pytest.mark.parametrize("text", OPEN)
def test_nobody_is_served_beyond_loopback_without_keys_of_one_s_own(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    config = load(file=path, environ={})
    assert not config.gateway.allows_simple
    with pytest.raises(ConfigError, match=r"auth\.api_keys: gateway\.host = .* is reached by other machines"):
        check_auth(config)
    check_auth(load(file=path, environ={"FASTVC_AUTH__API_KEYS": "[a-long-random-key]"}))
    check_auth(load(file=path, environ={"FASTVC_AUTH__REQUIRED": "false"}))  # said, not left out


def test_the_demonstration_s_key_is_enough_on_loopback() -> None:
    check_auth(load(environ={}))
    assert load(environ={}).gateway.allows_simple


def test_what_counts_is_where_a_container_s_port_is_published(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("gateway: {host: 0.0.0.0, published: ['127.0.0.1:8042', '[::1]:8443']}")
    check_auth(load(file=path, environ={}))
    assert load(file=path, environ={}).gateway.allows_simple
    published = load(file=path, environ={"FASTVC_GATEWAY__PUBLISHED": "['127.0.0.1:8042', '0.0.0.0:8443']"})
    assert not published.gateway.allows_simple
    with pytest.raises(ConfigError, match=r"gateway\.published = .*0\.0\.0\.0:8443 is reached by other machines"):
        check_auth(published)


def test_nothing_starts_where_nobody_could_come_in(tmp_path: Path) -> None:
    environ = {"FASTVC_AUTH__API_KEYS": "[]", "FASTVC_AUTH__KEYS_FILE": str(tmp_path / "keys.json")}
    with pytest.raises(ConfigError, match=r"api_keys is empty, and there is no .*keys\.json"):
        check_auth(load(environ=environ))
    (tmp_path / "keys.json").touch()
    check_auth(load(environ=environ))
    with pytest.raises(ConfigError, match="mode = jwt needs jwt_secret_file or jwks_file"):
        load(environ={"FASTVC_AUTH__MODE": "jwt"})
    check_auth(load(environ={"FASTVC_AUTH__MODE": "none", "FASTVC_GATEWAY__HOST": "0.0.0.0"}))


def test_environment_overrides_the_profile_and_names_it() -> None:
    environ = {"FASTVC_GATEWAY__PORT": "9000", "FASTVC_AUTH__API_KEYS": '["one-long-key", "two-long-key"]'}
    config = load(environ=environ)
    assert config.gateway.port == 9000
    assert config.auth.api_keys == ["one-long-key", "two-long-key"]
    assert load(environ={"FASTVC_ENV": "prod", "FASTVC_AUTH__API_KEYS": "[0123456789-key]"}).worker.block_ms == 500


@pytest.mark.parametrize(
    ("name", "value", "texts"),
    [
        (
            "FASTVC_GATEWAY__PROT",
            "1",
            ["FASTVC_GATEWAY__PROT", "gateway.prot", "did you mean 'port'", "idle_timeout_s"],
        ),
        ("FASTVC_GATEWAY__PORT", "eighty", ["gateway.port", "integer", "'eighty'"]),
        ("FASTVC_GATEWAY__PORT", "70000", ["gateway.port", "65535"]),
        (
            "FASTVC_WORKER__MODEL",
            "larynx",
            ["worker.model", "'nano', 'tiny', 'small', 'base', 'v2', 'shift' or 'passthrough'", "'larynx'"],
        ),
        ("FASTVC_WORKER__BLOCK_MS", "210", ["worker.block_ms", "multiple of 20"]),
        ("FASTVC_WORKER__BLOCK_MS", "60", ["worker", "must not exceed block_ms = 60"]),
        ("FASTVC_WORKER__MIN_STEPS", "40", ["worker", "min_steps = 40 must not exceed steps = 1"]),
        ("FASTVC_WORKER__VAD_OFF", "0.9", ["worker", "vad_off = 0.9 must not exceed vad_on = 0.5"]),
        ("FASTVC_WORKER__DIT_LEFT_MS", "9000", ["worker", "dit_left_ms = 9000 must not exceed left_ms"]),
        ("FASTVC_WORKER__GATHER_MS", "11", ["worker.gather_ms", "10"]),
        ("FASTVC_WORKER__DEVICE", "gpu", ["worker.device: must be cpu, cuda or cuda:NUMBER, got 'gpu'"]),
        ("FASTVC_GATEWAY__PUBLISHED", "[abc]", ["gateway.published.0: must be HOST:PORT, got 'abc'"]),
        ("FASTVC_WEBRTC__ICE_SERVERS", "[{urls: [a]}]", ["urls.0: must be stun:HOST[:PORT], turn:"]),
        (
            "FASTVC_WORKERS",
            "2",
            ["section of auth, gateway, link, log, recording, serve, voices, webrtc, worker"],
        ),
        ("FASTVC_WOKER__MODEL", "shift", ["FASTVC_WOKER__MODEL", "section"]),
        ("FASTVC_LOG__LEVEL", "LOUD", ["log.level", "'INFO'"]),
        ("FASTVC_LOG__LEVEL", "[", ["FASTVC_LOG__LEVEL", "not YAML"]),
    ],
)
def test_a_wrong_setting_is_named_with_what_is_allowed(name: str, value: str, texts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ={name: value})
    for text in texts:
        assert text in str(caught.value)


def test_an_error_does_not_show_keys() -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ={"FASTVC_AUTH__API_KEYS": '["s3cret"]'})
    assert "s3cret" not in str(caught.value)
    assert "auth.api_keys.0" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        'auth: {api_keys: ["s3cret"',
        "auth:\n  api_keys: [s3cret]]\n",
        "webrtc: {ice_servers: [{urls: ['turn:a'], credential: [s3cret]}]}",
        "webrtc: {ice_servers: [{urls: [s3cret]}]}",
        "webrtc: {ice_servers: s3cret}",
    ],
)
def test_no_error_shows_secrets(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    section, value = re.match(r"(\w+): *(.*)", text, re.S).groups()  # type: ignore[union-attr]
    name = "FASTVC_AUTH__API_KEYS" if section == "auth" else "FASTVC_WEBRTC__ICE_SERVERS"
    inner = value.strip().removeprefix("{").partition(":")[2].removesuffix("}")
    for given in ({"file": path, "environ": {}}, {"environ": {name: inner}}):
        with pytest.raises(ConfigError, match=name if "file" not in given else "mine.yaml") as caught:
            load(**given)  # type: ignore[arg-type]
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gateway:\n  port: 9000\n  host: 127.0.0.1\n  port: 9001\n", r"'port' is given twice \(line 4, column 3\)"),
        ("gateway: {}\nlink: {}\ngateway: {}\n", r"'gateway' is given twice \(line 3, column 1\)"),
        ("a: b: c", r"not YAML: .* \(line 1, column 5\)"),
    ],
)
def test_what_is_wrong_in_a_file_has_a_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load(file=path, environ={})


@pytest.mark.parametrize("origin", ["*", "null", "https://app.example", "http://[::1]:9000/", "tauri://localhost"])
def test_an_origin_is_a_site(origin: str) -> None:
    assert load(environ={"FASTVC_GATEWAY__ALLOWED_ORIGINS": f"['{origin}']"}).gateway.allowed_origins == [origin]


@pytest.mark.parametrize(
    "origin",
    ["abc", "app.example", "https://", "https://*.example", "https://a.example/page", "https://u@a.example", ""],
)
def test_what_is_no_origin_is_refused_by_its_key(origin: str) -> None:
    with pytest.raises(ConfigError, match=r"gateway\.allowed_origins\.0: must be scheme://host\[:port\]"):
        load(environ={"FASTVC_GATEWAY__ALLOWED_ORIGINS": f"['{origin}']"})


def test_keys_of_lists_are_explained_as_others_are() -> None:
    with pytest.raises(ConfigError, match=r"prfile: unknown key \(did you mean 'profile'\?\); allowed: count, dev"):
        load(environ={"FASTVC_SERVE__WORKERS": "[{prfile: prod}]"})
    with pytest.raises(ConfigError, match=r"credental: unknown key .*; allowed: credential, urls, username"):
        load(environ={"FASTVC_WEBRTC__ICE_SERVERS": "[{urls: ['turn:a'], credental: x}]"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gateway: [1, 2]", "gateway"),
        ("gatway: {}", "did you mean 'gateway'"),
        ("- a", "mapping"),
        ("a: b: c", "not YAML"),
        ("\xff\xfe", "YAML|mapping"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message) as caught:
        load(file=path, environ={})
    assert "mine.yaml" in str(caught.value)


def test_a_missing_file_and_an_unknown_profile_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        load(file=tmp_path / "nowhere.yaml", environ={})
    with pytest.raises(ConfigError, match="known: default, prod"):
        load(profile="staging", environ={})


def test_an_empty_section_means_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("gateway:\nworker:\n", encoding="utf-8")
    assert load(file=path, environ={}).worker == Config().worker


def test_a_profile_of_workers_stands_in_for_the_worker_section_alone() -> None:
    config = load(profile="prod", environ={}, worker_profile="shift")
    assert (config.worker.model, config.worker.block_ms, config.worker.precision) == ("shift", 200, "auto")
    assert config.gateway.host == "0.0.0.0"
    assert (
        load(profile="prod", environ={"FASTVC_WORKER__BLOCK_MS": "400"}, worker_profile="shift").worker.block_ms == 400
    )
    with pytest.raises(ConfigError, match="no profile 'nobody'"):
        load(environ={}, worker_profile="nobody")


@pytest.mark.parametrize(
    ("workers", "count", "model"),
    [
        ("2", 2, "nano"),
        ("0", 0, "nano"),
        ("[{profile: shift, count: 3}, {device: cpu}]", 4, "shift"),
        ("[{}]", 1, "nano"),
    ],
)
def test_workers_are_a_number_or_a_list_of_kinds(workers: str, count: int, model: str) -> None:
    config = load(environ={"FASTVC_SERVE__WORKERS": workers})
    assert (config.serve.worker_count, default_model(config)) == (count, model)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("SERVE__WORKERS", "many", "serve.workers: must be how many, or a list of kinds"),
        ("SERVE__WORKERS", "{profile: prod}", "serve.workers: must be how many, or a list of kinds"),
        ("SERVE__WORKERS", "true", "serve.workers: must be how many, or a list of kinds"),
        ("SERVE__WORKERS", "65", "serve.workers: Input should be less than or equal to 64"),
        ("SERVE__WORKERS", "[{count: 0}]", "serve.workers.0.count: Input should be greater than or equal to 1"),
        ("SERVE__WORKERS", "[{model: tiny}]", "serve.workers.0.model: unknown key; allowed: count, device, profile"),
        ("SERVE__WORKERS", "[{}, {device: gpu}]", "serve.workers.1.device: "),
        ("SERVE__WORKERS", "[prod]", "serve.workers.0: must be keys with values, got str"),
        ("GATEWAY__SIMPLE_PROTOCOL", "maybe", "gateway.simple_protocol: must be true, false or loopback, got 'maybe'"),
    ],
)
def test_a_value_of_several_shapes_that_has_none_of_them_costs_one_line(key: str, value: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ={f"FASTVC_{key}": value})
    assert str(caught.value).startswith(f"FASTVC_{key}: {said}")
    assert "\n" not in str(caught.value)
