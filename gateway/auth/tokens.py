"""Tokens: JSON Web Tokens that somebody else signs, and we check (RFC 7519, 8725).

A token's algorithm is believed only together with the key that was configured for it: HS256 with the shared secret,
RS256, ES256 and EdDSA with a public key of the JWKS file. `exp` and `sub` must be there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from loguru import logger

from gateway.auth.principal import CredentialError, Limits, Principal, read_scopes
from gateway.stamps import Stamp, stamp
from shared.errors import ConfigError, of_key

ASYMMETRIC = ("RS256", "ES256", "EdDSA")
MAX_TOKEN_CHARS = 8192
_MIN_SECRET_BYTES = 32  # of HS256: RFC 7518, 3.2
_LEEWAY_S = 5.0  # clocks of two hosts
_MAX_NAME_CHARS = 64


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """What a token must fit."""

    secret_file: Path | None = None
    jwks_file: Path | None = None
    audience: str | None = None
    issuer: str | None = None


@dataclass(frozen=True, slots=True)
class _Keys:
    secret: bytes | None
    public: tuple[jwt.PyJWK, ...]


class TokenVerifier:
    """Checks tokens; its key files are read again when they change."""

    def __init__(self, settings: TokenSettings) -> None:
        """Raises `ConfigError` where a key file cannot be used."""
        self._settings = settings
        self._stamps = self._look()
        self._keys = self._read()

    def refresh(self) -> bool:
        """Look whether a key file has changed; one that cannot be read changes nothing. True if it was read."""
        stamps = self._look()
        if stamps == self._stamps:
            return False
        self._stamps = stamps
        try:
            self._keys = self._read()
        except ConfigError as error:
            logger.error("{}; the keys of tokens stay as they were", error)
            return False
        logger.info("the keys of tokens were read again")
        return True

    def verify(self, token: str) -> Principal:
        """Who `token` names. Raises `CredentialError`."""
        if len(token) > MAX_TOKEN_CHARS:
            raise CredentialError(f"token: longer than {MAX_TOKEN_CHARS} characters")
        try:
            return _principal(self._decode(token))
        except jwt.ExpiredSignatureError:
            raise CredentialError("token: it has expired") from None
        except jwt.ImmatureSignatureError:
            raise CredentialError("token: it is not valid yet") from None
        except (jwt.InvalidAudienceError, jwt.InvalidIssuerError):
            raise CredentialError("token: it is meant for, or made by, somebody else") from None
        except jwt.MissingRequiredClaimError as error:
            raise CredentialError(f"token: the claim {error.claim} is missing") from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise CredentialError("token: not a token that was made for this service") from None

    def _decode(self, token: str) -> dict[str, Any]:
        header = jwt.get_unverified_header(token)
        algorithm, identity = header.get("alg"), header.get("kid")
        key: Any
        if algorithm == "HS256" and self._keys.secret is not None:
            key = self._keys.secret
        else:
            fitting = [k for k in self._keys.public if k.algorithm_name == algorithm]
            named = [k for k in fitting if identity is not None and k.key_id == identity]
            if (len(fitting) > 1 and not named) or (identity is not None and not named):
                raise jwt.InvalidKeyError("no such key")
            key = (named or fitting)[0] if fitting else None
        if key is None or algorithm not in ("HS256", *ASYMMETRIC):
            raise jwt.InvalidAlgorithmError("no key for this algorithm")
        required = ["exp", "sub"]
        required += ["aud"] if self._settings.audience is not None else []
        required += ["iss"] if self._settings.issuer is not None else []
        return dict(
            jwt.decode(
                token,
                key,
                algorithms=[str(algorithm)],
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                leeway=_LEEWAY_S,
                options={"require": required},
            )
        )

    def _look(self) -> list[Stamp | None]:
        return [stamp(path) for path in (self._settings.secret_file, self._settings.jwks_file)]

    def _read(self) -> _Keys:
        secret: bytes | None = None
        public: tuple[jwt.PyJWK, ...] = ()
        if (path := self._settings.secret_file) is not None:
            with of_key("auth.jwt_secret_file"):
                secret = _bytes(path).strip()
                if len(secret) < _MIN_SECRET_BYTES:
                    raise ConfigError(f"{path}: a secret of HS256 has at least {_MIN_SECRET_BYTES} bytes")
        if (path := self._settings.jwks_file) is not None:
            with of_key("auth.jwks_file"):
                public = _read_jwks(path)
        if secret is None and not public:
            raise ConfigError("auth.jwt_secret_file, auth.jwks_file: tokens need one of them")
        return _Keys(secret, public)


def _principal(claims: dict[str, Any]) -> Principal:
    name = claims["sub"]
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME_CHARS or not name.isprintable():
        raise ValueError("sub")
    scopes = read_scopes(claims.get("scope", claims.get("scopes")))
    record = claims.get("record")
    if record is not None and not isinstance(record, bool):
        raise ValueError("record")
    return Principal(name, scopes, Limits.read(claims.get("limits")), float(claims["exp"]), record)


def _read_jwks(path: Path) -> tuple[jwt.PyJWK, ...]:
    """Those of its keys that we know how to use: others are left out (RFC 7517, 5), for whoever signs may have more."""
    try:
        entries = json.loads(_bytes(path))["keys"]
        secret = [entry for entry in entries if "d" in entry or entry.get("kty") == "oct"]
        ours = [entry for entry in entries if entry.get("use", "sig") == "sig"]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path}: not a JWKS file: {type(error).__name__}") from None
    if secret:
        raise ConfigError(f"{path}: holds a key that is not public")
    keys = tuple(key for entry in ours if (key := _public_key(entry)) is not None)
    if not keys:
        raise ConfigError(f"{path}: holds no public key of {', '.join(ASYMMETRIC)}")
    if len(keys) < len(ours):
        logger.warning("{}: {} keys are not of {}: left out", path, len(ours) - len(keys), ", ".join(ASYMMETRIC))
    return keys


def _public_key(entry: dict[str, Any]) -> jwt.PyJWK | None:
    """None for one that is broken, or of another kind."""
    try:
        key = jwt.PyJWK(entry)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return key if key.algorithm_name in ASYMMETRIC else None


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
