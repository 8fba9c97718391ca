"""What the gateways of one service sign with, so that each believes what another gave out: passes of the page, and
tokens that lead back to a call.

Gateways that share workers have one link key, which nobody else has: then the secret follows from it, on every host and
after every start. Without keys everything is on one machine, and a file is kept there.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from shared.config import Config
from shared.curve import derive_secret

_PURPOSE = "fast-vc: what gateways sign for one another"
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class ServiceSecret:
    """32 bytes, and whether gateways of other hosts have them too."""

    key: bytes
    of_many_hosts: bool


def service_secret(config: Config) -> ServiceSecret:
    """The secret of the service that `config` describes; touches the disk.

    Raises `LinkError` for a link key that cannot be read.
    """
    derived = derive_secret(config.link, _PURPOSE)
    if derived is not None:
        return ServiceSecret(derived, of_many_hosts=True)
    return ServiceSecret(_of_the_host(config.serve.state_dir), of_many_hosts=False)


def _of_the_host(folder: Path) -> bytes:
    """The secret of all processes that keep their state in `folder`; the first of them makes it. Where nothing can be
    written it is this process's own."""
    path = folder / "page-secret"
    made = secrets.token_bytes(_SECRET_BYTES)
    draft = folder / f".page-secret-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            draft.touch(0o600)
            draft.write_bytes(made)
            with suppress(FileExistsError):
                os.link(draft, path)  # whole, or not at all
            draft.unlink()
        kept = path.read_bytes()
    except OSError as error:
        logger.warning(
            "{}: {}; what this process signs it alone believes, until its end", path, error.strerror or error
        )
        return made
    return kept if len(kept) == _SECRET_BYTES else made
