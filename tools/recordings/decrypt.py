"""Read encrypted recordings: a folder of the recorder's with the operator's keys, or a file that was made for a caller.

python -m tools.decrypt_session outputs/2026/11/25/143012-… --keys recording-keys --output call
python -m tools.decrypt_session call.bin --private-key private.key --output call.zip
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path

import click

from gateway.recording.files import SEALED
from gateway.recording.flac import complete
from gateway.recording.vault import Vault, VaultError, decrypt, decrypt_with_private, key_id_of
from shared.config import ConfigError


@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--keys", type=click.Path(file_okay=False, path_type=Path), help="recording.keys_dir")
@click.option("--private-key", type=click.Path(dir_okay=False, path_type=Path), help="X25519, 32 bytes in base64.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="A new folder, or a new file.")
def main(source: Path, keys: Path | None, private_key: Path | None, output: Path) -> None:
    """Decrypt SOURCE: a recording's folder (or one file of it) with --keys, a file for a caller with --private-key."""
    if (keys is None) == (private_key is None):
        raise click.UsageError("name --keys or --private-key")
    if output.exists():
        raise click.UsageError(f"{output} is there already")
    try:
        if private_key is not None:
            secret = base64.b64decode(private_key.read_text().strip(), validate=True)
            output.write_bytes(decrypt_with_private(secret, source.read_bytes()))
        elif keys is not None:
            _decrypt_recording(source, Vault(keys), output)
    except (VaultError, ConfigError, ValueError, OSError) as error:
        click.echo(f"decrypt_session: {error}", err=True)
        sys.exit(1)


def _decrypt_recording(source: Path, vault: Vault, output: Path) -> None:
    sealed = sorted(source.glob(f"*{SEALED}")) if source.is_dir() else [source]
    if not sealed:
        raise VaultError(f"{source}: no encrypted file in it")
    if source.is_dir():
        output.mkdir(parents=True)
    damaged = [path.name for path in sealed if not _decrypt_file(path, vault, output, source.is_dir())]
    if damaged:
        raise VaultError(f"{', '.join(damaged)}: not read")


def _decrypt_file(path: Path, vault: Vault, output: Path, into_folder: bool) -> bool:
    """Whether it could be read: what is wrong with one file costs the others nothing."""
    data, name = path.read_bytes(), path.name.removesuffix(SEALED)
    try:
        content, ended = decrypt(vault.key(key_id_of(data)), data)
    except (VaultError, ConfigError) as error:
        click.echo(f"{path}: {error}", err=True)
        return False
    target = output / name if into_folder else output
    target.write_bytes(complete(content) if name.endswith(".flac") else content)
    click.echo(f"{target}: {len(content)} bytes{'' if ended else ', cut off by a crash'}")
    return True
