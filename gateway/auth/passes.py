"""Passes: tokens of minutes that stand for the demo key, so that the page asks nobody for one.

The gateway signs them itself (JSON Web Tokens, HS256) with the secret of its service (`gateway.auth.secret`): whichever
of them gave a pass out, any of them believes it, also after a restart.
"""

from __future__ import annotations

import secrets
import time

import jwt

from gateway.auth.principal import CredentialError

LIFETIME_S = 600
_PREFIX = "fvp_"
_AUDIENCE = "fast-vc-page"


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
