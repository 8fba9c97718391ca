"""Passes: tokens of minutes that stand for the demo key, so that the page asks nobody for one.

The gateway signs them itself (JSON Web Tokens, HS256) with a secret that the processes of one service share: whichever
of them gave a pass out, any of them believes it, also after a restart.
"""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

import jwt
from loguru import logger

from gateway.auth.principal import CredentialError

LIFETIME_S = 600
_PREFIX = "fvp_"
_AUDIENCE = "fast-vc-page"
_SECRET_BYTES = 32


class Passes:
    """Gives out and believes passes."""

    def __init__(self, secret: bytes, lifetime_s: float = LIFETIME_S) -> None:
        self._secret, self._lifetime_s = secret, lifetime_s

    def issue(self) -> str:
        """A new pass."""
        claims = {"aud": _AUDIENCE, "exp": int(time.time() + self._lifetime_s), "jti": secrets.token_hex(8)}
        return _PREFIX + jwt.encode(claims, self._secret, "HS256")

    def check(self, credential: str) -> None:
        """Raises `CredentialError` for what is no pass of this service, or no longer."""
        try:
            token = credential.removeprefix(_PREFIX)
            jwt.decode(token, self._secret, algorithms=["HS256"], audience=_AUDIENCE, options={"require": ["exp"]})
        except jwt.ExpiredSignatureError:
            raise CredentialError("token: it has expired; the page gets a new one") from None
        except (jwt.PyJWTError, ValueError):
            raise CredentialError("token: not a token that was made for this service") from None


def looks_like_pass(credential: str) -> bool:
    """Whether it has the form of one."""
    return credential.startswith(_PREFIX)


def shared_secret(folder: Path) -> bytes:
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
        logger.warning("{}: {}; the page's tokens hold for one process until it ends", path, error.strerror or error)
        return made
    return kept if len(kept) == _SECRET_BYTES else made
