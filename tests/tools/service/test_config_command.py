"""``fast-vc config``: what is shown, and what a check finds before anything serves."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from shared.curve import make_pair
from shared.settings import Config
from tools.service.cli import main


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["config", *arguments])


def test_it_shows_every_key_as_it_would_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTVC_GATEWAY__PORT", "9001")
    shown = yaml.safe_load(run().output)
    assert shown["gateway"]["port"] == 9001
    assert {section: set(keys) for section, keys in shown.items()} == {
        section: set(keys) for section, keys in Config().model_dump().items()
    }
    assert run("--show").output == run().output


def test_what_is_shown_can_be_used(home: Path) -> None:
    (home / "again.yaml").write_text(run().output)
    assert run("-c", "again.yaml").output == run().output


def test_secrets_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTVC_AUTH__API_KEYS", '["s3cret-key-one", "fast-vc-demo-key"]')
    assert yaml.safe_load(run().output)["auth"]["api_keys"] == ["(hidden)", "fast-vc-demo-key"]


def test_a_check_says_that_it_can_be_used(home: Path) -> None:
    assert run("--check").output == "the configuration can be used\n"
    make_pair(home, "gateway")
    (home / "workers").mkdir()
    (home / "mine.yaml").write_text(
        "auth: {api_keys: [a-key-of-my-own]}\ngateway: {host: 0.0.0.0}\n"
        "link: {host: 0.0.0.0, secret_key_file: gateway.key_secret, allowed_workers_dir: workers}\n"
    )
    assert run("--check", "-c", "mine.yaml").exit_code == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gateway: {host: 0.0.0.0}", "auth.api_keys: gateway.host = 0.0.0.0 is reached by other machines"),
        ("serve: {workers: [{profile: nobody}]}", "no profile 'nobody'"),
        ("link: {host: 0.0.0.0}", "link: 0.0.0.0 is not loopback and no CURVE keys are named"),
        ("link: {secret_key_file: none.key_secret}", "link.secret_key_file: none.key_secret: no CURVE certificate"),
        ("link: {secret_key_file: gateway.key_secret}", "link.allowed_workers_dir: with CURVE keys, name the folder"),
        (
            "link: {secret_key_file: gateway.key_secret, allowed_workers_dir: nowhere}",
            "link.allowed_workers_dir: nowhere is not a folder",
        ),
        ("gateway: {prot: 1}", "mine.yaml: gateway.prot: unknown key"),
        ("auth: {keys_file: workers}", "auth.keys_file: workers: Is a directory"),
        ("auth: {mode: jwt, jwt_secret_file: nope}", "auth.jwt_secret_file: nope: No such file"),
        ("auth: {mode: both, jwks_file: mine.yaml}", "auth.jwks_file: mine.yaml: not a JWKS file"),
        ("gateway: {tls_certificate: a.pem, tls_key: b.pem}", "gateway.tls_certificate, tls_key: a.pem, b.pem: "),
        ("gateway: {trusted_proxies: [10.0.0.0/99]}", "gateway.trusted_proxies: "),
        ("worker: {voices_dir: nowhere}", "worker.voices_dir: there is no folder nowhere"),
    ],
)
def test_a_check_finds_what_a_start_would_refuse(home: Path, text: str, said: str) -> None:
    make_pair(home, "gateway")
    (home / "workers").mkdir()
    (home / "mine.yaml").write_text(text)
    result = run("--check", "-c", "mine.yaml")
    assert result.exit_code == 2
    assert said in result.stderr
