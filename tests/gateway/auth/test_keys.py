"""Who may open a session."""

from __future__ import annotations

from gateway.auth.keys import is_allowed
from shared.config import AuthConfig


def test_only_known_keys_open_a_session() -> None:
    auth = AuthConfig(required=True, api_keys=["the-right-key", "another-key"])
    assert is_allowed("another-key", auth)
    assert not is_allowed("the-right-kez", auth)
    assert not is_allowed("", auth)
    assert is_allowed("", AuthConfig(required=False))
