"""Tokens: believed with the configured key and algorithm, and with the claims that must be there."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.auth.principal import CredentialError, Limits
from gateway.auth.tokens import TokenSettings, TokenVerifier
from shared.errors import ConfigError

SECRET = "a-secret-of-at-least-thirty-two-bytes"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
KEYS: dict[str, Any] = {
    "RS256": RSA,
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def jwk(algorithm: str, kid: str | None) -> dict[str, Any]:
    kind = {"RS256": jwt.algorithms.RSAAlgorithm, "ES256": jwt.algorithms.ECAlgorithm}.get(
        algorithm, jwt.algorithms.OKPAlgorithm
    )
    return {**kind.to_jwk(KEYS[algorithm].public_key(), as_dict=True), "alg": algorithm, "use": "sig", "kid": kid}


@pytest.fixture
def settings(tmp_path: Path) -> TokenSettings:
    (tmp_path / "secret").write_text(SECRET + "\n")
    keys = [jwk(algorithm, algorithm.lower()) for algorithm in KEYS]
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": keys}))
    return TokenSettings(tmp_path / "secret", tmp_path / "jwks.json", "fast-vc", "https://issuer.example")


def claims(**changed: Any) -> dict[str, Any]:
    now = time.time()
    known = {"sub": "alice", "exp": now + 60, "nbf": now - 1, "aud": "fast-vc", "iss": "https://issuer.example"}
    return {name: value for name, value in {**known, **changed}.items() if value is not None}


def token(algorithm: str = "HS256", key: Any = None, kid: str | None = None, **changed: Any) -> str:
    key = key or (SECRET if algorithm == "HS256" else KEYS[algorithm])
    kid = kid or (algorithm.lower() if algorithm != "HS256" else None)
    return jwt.encode(claims(**changed), key, algorithm, headers={"kid": kid} if kid else None)


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "ES256", "EdDSA"])
def test_a_token_of_every_algorithm_names_its_principal(settings: TokenSettings, algorithm: str) -> None:
    given = token(algorithm, scope="call voices profile", limits={"sessions": 3, "minutes_per_day": 1.5}, record=True)
    principal = TokenVerifier(settings).verify(given)
    assert (principal.name, principal.scopes) == ("alice", {"call", "voices"})
    assert principal.limits == Limits(sessions=3, minutes_per_day=1.5)
    assert principal.record is True
    assert principal.expires_at == pytest.approx(time.time() + 60, abs=30)


def test_without_a_scope_a_token_may_call(settings: TokenSettings) -> None:
    assert TokenVerifier(settings).verify(token()).scopes == {"call"}
    assert TokenVerifier(settings).verify(token(scopes=["admin"])).may("voices")
    assert not TokenVerifier(settings).verify(token(scope="")).may("call")


REFUSED: dict[str, tuple[Callable[[], str], str]] = {  # made when asked for: time passes
    "expired": (lambda: token(exp=time.time() - 60), "expired"),
    "not yet": (lambda: token(nbf=time.time() + 60), "not valid yet"),
    "of another audience": (lambda: token(aud="another"), "somebody else"),
    "of another issuer": (lambda: token(iss="https://evil.example"), "somebody else"),
    "without aud": (lambda: token(aud=None), "aud is missing"),
    "without iss": (lambda: token(iss=None), "iss is missing"),
    "without exp": (lambda: token(exp=None), "exp is missing"),
    "without sub": (lambda: token(sub=None), "sub is missing"),
    "sub too long": (lambda: token(sub="x" * 65), "not a token"),
    "sub with a line end": (lambda: token(sub="a\nb"), "not a token"),
    "sub a number": (lambda: token(sub=7), "not a token"),
    "limits": (lambda: token(limits={"session": 1}), "not a token"),
    "limits below zero": (lambda: token(limits={"sessions": -1}), "not a token"),
    "scope": (lambda: token(scope=5), "not a token"),
    "signed by another": (lambda: token(key="another-secret-of-thirty-two-bytes!!"), "not a token"),
    "signed by nobody": (lambda: jwt.encode(claims(), None, "none"), "not a token"),
    "HS512": (lambda: jwt.encode(claims(), SECRET * 2, "HS512"), "not a token"),
    "of an unknown key": (lambda: token("RS256", kid="another"), "not a token"),
    "text": (lambda: "a.b.c", "not a token"),
    "nothing": (lambda: "", "not a token"),
    "too long": (lambda: "x" * 9000, "longer than"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_token_is_refused(settings: TokenSettings, case: str) -> None:
    given, reason = REFUSED[case]
    with pytest.raises(CredentialError, match=reason):
        TokenVerifier(settings).verify(given())


def test_a_public_key_is_no_secret(settings: TokenSettings) -> None:
    """The classic confusion of algorithms: HS256 with the bytes of the RSA public key."""
    pem = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    forged = _sign_hs256(claims(), pem)
    for one in (settings, TokenSettings(None, settings.jwks_file)):
        with pytest.raises(CredentialError, match="not a token"):
            TokenVerifier(one).verify(forged)


def _sign_hs256(content: dict[str, Any], key: bytes) -> str:
    import base64
    import hashlib
    import hmac

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    head = f"{part(json.dumps({'alg': 'HS256', 'typ': 'JWT'}).encode())}.{part(json.dumps(content).encode())}"
    return f"{head}.{part(hmac.digest(key, head.encode(), hashlib.sha256))}"


def test_a_new_key_is_seen_and_a_broken_file_changes_nothing(settings: TokenSettings) -> None:
    verifier = TokenVerifier(settings)
    assert settings.jwks_file is not None
    settings.jwks_file.write_text(json.dumps({"keys": [jwk("ES256", "es256")]}))
    assert verifier.refresh()
    assert verifier.verify(token("ES256")).name == "alice"
    with pytest.raises(CredentialError):
        verifier.verify(token("RS256"))
    settings.jwks_file.write_text("{")
    assert not verifier.refresh()
    assert verifier.verify(token("ES256")).name == "alice"


@pytest.mark.parametrize(
    "other",
    [
        {**jwt.algorithms.ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key(), as_dict=True)},
        {**jwk("RS256", "pss"), "alg": "PS256"},
        {"kty": "RSA", "kid": "broken", "alg": "RS256"},
        {"kty": "AKP", "kid": "of tomorrow", "alg": "ML-DSA-65", "pub": "AAAA"},
        {**jwk("RS256", "encrypts"), "use": "enc", "alg": "RSA-OAEP"},
    ],
)
def test_keys_of_other_kinds_do_not_keep_ours_out(settings: TokenSettings, other: dict[str, Any]) -> None:
    """Who signs changes its keys, and publishes one that we have no use for."""
    verifier = TokenVerifier(settings)
    assert settings.jwks_file is not None
    settings.jwks_file.write_text(json.dumps({"keys": [other, jwk("ES256", "new")]}))
    assert verifier.refresh()
    assert verifier.verify(token("ES256", kid="new")).name == "alice"
    settings.jwks_file.write_text(json.dumps({"keys": [other]}))
    assert not verifier.refresh()


@pytest.mark.parametrize("use", ["sig", "enc"])
def test_a_private_key_is_refused_wherever_it_stands(settings: TokenSettings, use: str) -> None:
    assert settings.jwks_file is not None
    private = {**jwt.algorithms.ECAlgorithm.to_jwk(KEYS["ES256"], as_dict=True), "use": "sig"}
    keys = [{**jwk("RS256", "first"), "use": use}, private]
    settings.jwks_file.write_text(json.dumps({"keys": keys}))
    with pytest.raises(ConfigError, match="not public"):
        TokenVerifier(settings)


def test_key_files_that_cannot_be_used_stop_a_start(tmp_path: Path) -> None:
    (tmp_path / "short").write_text("short")
    (tmp_path / "private.json").write_text(
        json.dumps({"keys": [jwt.algorithms.ECAlgorithm.to_jwk(KEYS["ES256"], as_dict=True)]})
    )
    (tmp_path / "no.json").write_text("[]")
    for wrong in (
        TokenSettings(tmp_path / "short"),
        TokenSettings(tmp_path / "missing"),
        TokenSettings(None, tmp_path / "private.json"),
        TokenSettings(None, tmp_path / "no.json"),
        TokenSettings(),
    ):
        with pytest.raises(ConfigError):
            TokenVerifier(wrong)
