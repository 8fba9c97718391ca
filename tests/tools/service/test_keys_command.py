"""`fast-vc keys`: made once, listed without secrets, revoked; keys of recordings and certificates."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.auth.keys import KeyFile
from gateway.auth.principal import CredentialError, Limits
from gateway.recording.vault import Vault
from tools.service.cli import main


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["keys", *arguments])


def test_a_key_is_printed_once_and_works() -> None:
    made = run("api", "alice", "--scope", "call", "--scope", "voices", "--sessions", "2", "--days", "30", "--record")
    assert made.exit_code == 0
    key = made.stdout.strip()
    principal = KeyFile(Path("keys/api-keys.json")).verify(key)
    assert (principal.name, principal.scopes, principal.limits) == ("alice", {"call", "voices"}, Limits(sessions=2))
    assert principal.record is True
    listed = run("list")
    assert all(
        text in listed.stdout for text in ("alice", "call,voices", "valid until", "sessions 2", key.split("_")[1])
    )
    assert key.split("_", 2)[2] not in listed.output


def test_a_revoked_key_is_listed_as_such_and_lets_nobody_in() -> None:
    key = run("api", "alice").stdout.strip()
    assert "revoked" in run("revoke", "alice").stdout
    assert "revoked" in run("list").stdout
    with pytest.raises(CredentialError):
        KeyFile(Path("keys/api-keys.json")).verify(key)
    again = run("revoke", "alice")
    assert (again.exit_code, "no key 'alice'" in again.output) == (2, True)


@pytest.mark.parametrize("arguments", [("api", "a b"), ("api", "alice", "--scope", "root"), ("revoke", "nobody")])
def test_what_cannot_be_is_one_message(arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.output.startswith("fast-vc: ")
    assert not Path("keys/api-keys.json").exists()


def test_without_keys_the_list_says_so() -> None:
    assert "no keys in keys/api-keys.json" in run("list").stdout


def test_a_key_of_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = run("recording")
    assert (refused.exit_code, "recording.keys_dir" in refused.output) == (2, True)
    monkeypatch.setenv("FASTVC_RECORDING__KEYS_DIR", "recording-keys")
    assert "keep a copy" in run("recording").stdout
    assert len(Vault(Path("recording-keys")).newest().secret) == 32


def test_a_certificate_for_development() -> None:
    made = run("tls", "--host", "vc.example", "--host", "127.0.0.1")
    assert "tls_certificate: keys/tls.crt" in made.stdout
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("keys/tls.crt", "keys/tls.key")
    assert Path("keys/tls.key").stat().st_mode & 0o077 == 0
    assert run("tls").exit_code == 2  # one is there already


def test_the_key_of_tls_is_not_taken_for_one_of_the_link() -> None:
    assert run("tls").exit_code == 0
    assert run("link", "gateway", "--gateway").exit_code == 0
    listed = run("list").stdout
    assert "gateway" in listed
    assert "tls" not in listed
