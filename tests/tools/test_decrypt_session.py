"""`tools.decrypt_session`: the operator's keys, a caller's private key, and what it refuses."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from gateway.recording.files import create
from gateway.recording.flac import FlacWriter
from gateway.recording.vault import Vault, encrypt_to
from tools.recordings.decrypt import main


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A call under an older key, cut off by a crash but for its timeline."""
    vault, folder = Vault(tmp_path / "keys"), tmp_path / "call"
    folder.mkdir()
    key = vault.make_key()
    sound = create(folder / "input.flac", key)
    writer = FlacWriter(sound, 16_000)
    writer.write(np.arange(9000, dtype=np.int16))
    timeline = create(folder / "timeline.jsonl", key)
    timeline.append(b"{}\n")
    timeline.close()
    shutil.copytree(folder, tmp_path / "crashed")
    writer.close()
    sound.close()
    (vault.folder / "20991231-000000-ffffff.key").write_text(base64.b64encode(bytes(32)).decode())
    return tmp_path / "crashed"


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_a_folder_is_read_with_the_operator_s_keys(recording: Path, tmp_path: Path) -> None:
    code, output = run(recording, "--keys", tmp_path / "keys", "--output", tmp_path / "out")
    assert code == 0
    assert "input.flac" in output
    assert "cut off by a crash" in output
    samples, _ = soundfile.read(tmp_path / "out" / "input.flac", dtype="int16")
    np.testing.assert_array_equal(samples, np.arange(8192))
    assert (tmp_path / "out" / "timeline.jsonl").read_bytes() == b"{}\n"


def test_without_the_right_key_nothing_is_read(recording: Path, tmp_path: Path) -> None:
    Vault(tmp_path / "others").make_key()
    code, output = run(recording, "--keys", tmp_path / "others", "--output", tmp_path / "out")
    assert (code, "no key" in output) == (1, True)
    assert run(recording, "--output", tmp_path / "out")[0] == 2
    assert run(recording, "--keys", tmp_path / "keys", "--output", recording)[0] == 2


def test_what_is_wrong_with_one_file_costs_the_others_nothing(recording: Path, tmp_path: Path) -> None:
    damaged = recording / "input.flac.enc"
    damaged.write_bytes(damaged.read_bytes()[:200] + b"changed" + damaged.read_bytes()[207:])
    code, output = run(recording, "--keys", tmp_path / "keys", "--output", tmp_path / "out")
    assert code == 1
    assert f"{damaged}: wrong key, or the file was changed" in output
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["timeline.jsonl"]


@pytest.mark.parametrize("missing", [1, 30, 100])
def test_a_file_for_a_caller_that_came_in_part_is_no_empty_one(tmp_path: Path, missing: int) -> None:
    private = X25519PrivateKey.generate()
    (tmp_path / "key").write_text(base64.b64encode(private.private_bytes_raw()).decode())
    whole = encrypt_to(private.public_key().public_bytes_raw(), b"a zip" * 20)
    (tmp_path / "call.bin").write_bytes(whole[:-missing])
    code, output = run(tmp_path / "call.bin", "--private-key", tmp_path / "key", "--output", tmp_path / "call.zip")
    assert (code, "its end is missing" in output) == (1, True)
    assert not (tmp_path / "call.zip").exists()


def test_a_file_for_a_caller_is_read_with_the_caller_s_key(tmp_path: Path) -> None:
    private = X25519PrivateKey.generate()
    (tmp_path / "key").write_text(base64.b64encode(private.private_bytes_raw()).decode())
    (tmp_path / "call.bin").write_bytes(encrypt_to(private.public_key().public_bytes_raw(), b"a zip"))
    assert run(tmp_path / "call.bin", "--private-key", tmp_path / "key", "--output", tmp_path / "call.zip")[0] == 0
    assert (tmp_path / "call.zip").read_bytes() == b"a zip"
