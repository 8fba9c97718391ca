"""``.env``: what is taken from it, and what is left to others."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from shared.config import load
from shared.dotenv import read_dotenv
from shared.errors import ConfigError
from tools.service.cli import main

TEXT = """
# our settings
FASTVC_ENV=shift
export FASTVC_GATEWAY__PORT = 9001   # not the usual one
FASTVC_AUTH__API_KEYS='["a-key-with-#-in-it"]'
FASTVC_LOG__LEVEL="DEBUG"
FASTVC_GATEWAY__MAX_SESSIONS=1
FASTVC_GATEWAY__MAX_SESSIONS=2
HF_ENDPOINT=https://mirror.example/hub
FASTVC_LOG__DIR=
# another program's
POSTGRES_PASSWORD=secret
-----BEGIN SOMETHING-----
"""


def test_ours_are_taken_and_the_environment_stays(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text(TEXT)
    environ = {"FASTVC_LOG__LEVEL": "ERROR"}
    names = read_dotenv(path, environ)
    assert environ == {
        "FASTVC_LOG__LEVEL": "ERROR",
        "FASTVC_ENV": "shift",
        "FASTVC_GATEWAY__PORT": "9001",
        "FASTVC_AUTH__API_KEYS": '["a-key-with-#-in-it"]',
        "FASTVC_GATEWAY__MAX_SESSIONS": "2",
        "HF_ENDPOINT": "https://mirror.example/hub",
        "FASTVC_LOG__DIR": "",
    }
    assert set(names) == set(environ) - {"FASTVC_LOG__LEVEL"}
    del environ["FASTVC_LOG__DIR"]
    config = load(environ=environ)
    assert (config.gateway.port, config.auth.api_keys) == (9001, ["a-key-with-#-in-it"])
    assert config.worker.model == "shift"


def test_json_needs_no_quotes(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text('FASTVC_AUTH__API_KEYS=["one-long-key", "two-long-key"]')
    environ: dict[str, str] = {}
    read_dotenv(tmp_path / ".env", environ)
    assert load(environ=environ).auth.api_keys == ["one-long-key", "two-long-key"]


def test_none_is_nothing_and_an_unreadable_one_is_named(tmp_path: Path) -> None:
    assert read_dotenv(tmp_path / ".env", {}) == []
    (tmp_path / ".env").mkdir()
    with pytest.raises(ConfigError, match=r"\.env: cannot be read"):
        read_dotenv(tmp_path / ".env", {})


def test_the_command_reads_the_working_folder_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("FASTVC_GATEWAY__PROT=1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTVC_GATEWAY__PROT", "1")  # so that it is taken away again afterwards
    monkeypatch.delenv("FASTVC_GATEWAY__PROT")
    result = CliRunner().invoke(main, ["status"])
    assert result.exit_code == 2
    assert "FASTVC_GATEWAY__PROT: gateway.prot: unknown key" in result.stderr
