"""The door: from a credential and an address to a principal, and from a principal to a place among its limits."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from gateway.auth.guessing import Guessing, SlowDown
from gateway.auth.keys import KeyFile, StaticKeys, looks_like_key
from gateway.auth.ledger import Ledger, LimitReached, Ticket
from gateway.auth.passes import Passes, looks_like_pass
from gateway.auth.principal import ANYBODY, CALL, CredentialError, Principal
from gateway.auth.tokens import TokenSettings, TokenVerifier
from shared.errors import of_key
from shared.settings import DEMO_KEY, AuthConfig

WARN_BEFORE_S = 60.0  # of the end of what a credential allows

End = Literal["expired", "revoked", "minutes_per_day"]


@dataclass(frozen=True, slots=True)
class Standing:
    """How long a call may still go on by what its principal is allowed, and what ends it then."""

    left_s: float
    end: End


class Door:
    """Lives on one event loop."""

    def __init__(
        self,
        config: AuthConfig,
        *,
        is_private: bool,
        on_denied: Callable[[str], None] = lambda reason: None,
        passes: Passes | None = None,
    ) -> None:
        """`is_private`: only this machine reaches the gateway. `on_denied` is told of every credential that is refused:
        "missing", "slowed" or "wrong", or lets nobody in here ("scope"). `passes` stand for the demo key, where that
        is taken. Raises `ConfigError` where a key file cannot be used."""
        self._on_denied = on_denied
        self.is_open = config.is_open  # nobody is asked for a credential
        listed = [key for key in config.api_keys if key != DEMO_KEY or is_private]
        self.ledger = Ledger()
        self._static = StaticKeys(listed, config.api_keys_scopes) if config.takes_keys else None
        self._passes = passes if config.takes_keys and DEMO_KEY in listed else None
        with of_key("auth.keys_file"):
            self._keys = KeyFile(config.keys_file) if config.takes_keys else None
        settings = TokenSettings(config.jwt_secret_file, config.jwks_file, config.jwt_audience, config.jwt_issuer)
        self._tokens = TokenVerifier(settings) if config.takes_tokens else None
        self._guessing = Guessing()

    async def identify(self, credential: str, address: str) -> Principal:
        """Who has `credential`. Raises `CredentialError`; who guesses waits for it."""
        if self.is_open:
            return ANYBODY
        if not credential:
            self._on_denied("missing")
            raise CredentialError("api_key: missing: this service asks for a key or a token")
        try:
            await self._guessing.wait(address, credential)
        except SlowDown:
            self._on_denied("slowed")
            raise
        try:
            principal = self._verify(credential)
        except CredentialError:
            self._on_denied("wrong")
            self._guessing.failed(address)
            raise
        self._guessing.succeeded(address, credential)
        return principal

    def issue_pass(self) -> str | None:
        """A token of minutes that lets in as the demo key does; None where that is not taken."""
        return None if self._passes is None else self._passes.issue()

    def enter(self, principal: Principal) -> Ticket:
        """A call of `principal` begins. Raises `CredentialError` (it may not call), `LimitReached`."""
        if not principal.may(CALL):
            self._on_denied("scope")
            raise CredentialError(f"{principal.name} may not open sessions: the scope {CALL!r} is missing")
        return self.ledger.enter(principal)

    def standing(self, ticket: Ticket) -> Standing | None:
        """How the call of `ticket` stands; None: nothing ends it."""
        principal, ends = ticket.principal, []
        if principal.expires_at is not None:
            ends.append(Standing(principal.expires_at - time.time(), "expired"))
        if self._keys is not None and principal.key_id is not None and self._keys.is_withdrawn(principal.key_id):
            ends.append(Standing(0.0, "revoked"))
        if (left_s := ticket.left_s()) is not None:
            ends.append(Standing(left_s, "minutes_per_day"))
        return min(ends, key=lambda standing: standing.left_s, default=None)

    def refresh(self) -> None:
        """Read the key files again where they changed; blocks, and may be called in a thread."""
        for source in (self._keys, self._tokens):
            if source is not None:
                source.refresh()

    def _verify(self, credential: str) -> Principal:
        if self._passes is not None and self._static is not None and looks_like_pass(credential):
            self._passes.check(credential)
            return self._static.verify(DEMO_KEY)
        if self._tokens is not None and (self._static is None or credential.count(".") == 2):
            return self._tokens.verify(credential)
        if self._keys is not None and looks_like_key(credential):
            return self._keys.verify(credential)
        assert self._static is not None
        return self._static.verify(credential)


__all__ = ["WARN_BEFORE_S", "Door", "LimitReached", "Standing"]
