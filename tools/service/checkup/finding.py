"""One thing that was looked at, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "warning", "fault"]


@dataclass(frozen=True, slots=True)
class Finding:
    """`advice` says what to do; empty where there is nothing to do. A fault keeps a service from working."""

    subject: str
    level: Level
    text: str
    advice: str = ""


def ok(subject: str, text: str) -> Finding:
    return Finding(subject, "ok", text)


def note(subject: str, text: str, advice: str = "") -> Finding:
    return Finding(subject, "note", text, advice)


def warning(subject: str, text: str, advice: str) -> Finding:
    return Finding(subject, "warning", text, advice)


def fault(subject: str, text: str, advice: str) -> Finding:
    return Finding(subject, "fault", text, advice)
