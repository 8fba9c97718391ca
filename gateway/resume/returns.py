"""Tokens with which a caller comes back, and which process of this host has the call.

A token names its process, its call and when that began, and is signed with a secret that the gateways of a service
share, for one session id and one principal. Each process keeps a small file in its host's state folder while it lives.
What such a file still says of a process that is gone tells its successors whose callers may go on with them. Of a
process of another host, or of a container that was replaced, there is no file: its signature is what is left of it, and
holds for as long as its call could have lasted.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from loguru import logger

from gateway.errors import SessionError, bad_field
from shared.state import process_lives, process_start

_CLOCKS_S = 60.0  # that hosts may be apart


class Where(Enum):
    """Where the call of a token is."""

    HERE = auto()  # if it is not over
    BESIDE = auto()  # at another process, if it is not over
    GONE = auto()  # with its process, a moment ago
    ELSEWHERE = auto()  # at another host, if it is not over or gone


@dataclass(frozen=True, slots=True)
class Found:
    """What a token says."""

    call: str
    where: Where
    port: int | None = None  # on loopback, of the process that has it


class Returns:
    """Of one gateway process. `start` before the first call, `beat` about once a second: both touch the disk."""

    def __init__(
        self, folder: Path, secret: bytes, window_s: float, *, longest_call_s: float, from_elsewhere: bool
    ) -> None:
        """folder: shared by the processes of one host; secret: by them, or where `from_elsewhere` by those of all
        hosts; window_s: how long a caller may stay away."""
        self._folder = folder
        self._holds_s = longest_call_s + window_s + _CLOCKS_S  # a token, from when its call began
        self._from_elsewhere = from_elsewhere
        self._window_s = window_s
        self._instance = secrets.token_hex(6)
        self._secret = secret
        self._state = {"pid": os.getpid(), "started": process_start(), "port": None, "leaving": False}
        self._shared = False

    @property
    def _path(self) -> Path:
        return self._folder / f"{self._instance}.json"

    def start(self, port: int | None) -> None:
        """`port`: on loopback, where other processes may bring a caller."""
        self._state["port"] = port
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._shared = True
            self._clean()
            self.beat()
        except OSError as error:
            logger.warning(
                "serve.state_dir: {}: other processes do not know of this one's calls: {}", self._folder, error
            )

    def beat(self, *, leaving: bool = False) -> None:
        """This process lives. `leaving`: its callers go on elsewhere."""
        self._state["leaving"] = self._state["leaving"] or leaving
        if self._shared:
            with suppress(OSError):
                part = self._path.with_suffix(".part")
                part.write_text(json.dumps(self._state), encoding="utf-8")
                part.replace(self._path)

    def issue(self, session_id: str, principal: str) -> tuple[str, str]:
        """A new call's name, and the token that leads back to it."""
        call = f"{self._instance}-{int(time.time()):x}-{secrets.token_hex(8)}"
        return call, f"{call}-{self._sign(call, session_id, principal)}"

    def find(self, token: str, session_id: str, principal: str) -> Found:
        """Where the call of `token` is; reads a file. Raises `SessionError` INVALID_CONFIG where it leads nowhere."""
        call, _, signature = token.rpartition("-")
        if not hmac.compare_digest(signature.encode(), self._sign(call, session_id, principal).encode()):
            raise bad_field("resume", "this token is not of this session, or not of this service")
        instance, began, *_ = call.split("-")
        if instance == self._instance:
            return Found(call, Where.HERE)
        path = self._folder / f"{instance}.json"
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            away_s = self._path.stat().st_mtime - path.stat().st_mtime  # one clock, and not this process's
            lives = process_lives(int(state["pid"]), float(state["started"])) and not state["leaving"]
            port = state["port"]
        except FileNotFoundError:
            if self._from_elsewhere and abs(time.time() - int(began, 16)) <= self._holds_s:
                return Found(call, Where.ELSEWHERE)
            raise late(self._window_s) from None
        except (OSError, ValueError, KeyError, TypeError):
            raise late(self._window_s) from None
        if lives and isinstance(port, int):
            return Found(call, Where.BESIDE, port)
        if lives or away_s > self._window_s:
            raise late(self._window_s)
        return Found(call, Where.GONE)

    def _sign(self, call: str, session_id: str, principal: str) -> str:
        text = json.dumps(["resume", call, session_id, principal]).encode()
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()[:32]

    def _clean(self) -> None:
        oldest = time.time() - self._holds_s
        for path in self._folder.glob("*.json"):
            with suppress(OSError):
                if path.stat().st_mtime < oldest:
                    path.unlink()


def late(window_s: float) -> SessionError:
    """What is said to a token whose call is over."""
    return bad_field("resume", f"this call is over, or broke off more than {window_s:g} s ago: begin anew without it")
