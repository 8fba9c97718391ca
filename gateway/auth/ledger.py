"""How much every principal has taken of this gateway: calls at once, calls a minute, minutes a day (UTC).

Several processes on one port tell each other, once a second, what they know: see `Ledger.elsewhere`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from gateway.auth.principal import Limits, Principal

_MINUTE_S = 60.0
_DAY_S = 86_400.0


class LimitReached(Exception):
    """A principal has taken as much as its limits allow; `limit` is the one."""

    def __init__(self, limit: str, message: str) -> None:
        super().__init__(message)
        self.limit = limit
        self.message = message


@dataclass(frozen=True, slots=True)
class Usage:
    """What a principal with limits has taken of one process, or of several."""

    sessions: int = 0  # that are on
    recent: tuple[float, ...] = ()  # when the calls of the last minute began, seconds since 1970
    day: int = 0  # since 1970
    spent_s: float = 0.0  # of that day

    def plus(self, other: Usage) -> Usage:
        day = max(self.day, other.day)
        spent_s = sum(one.spent_s for one in (self, other) if one.day == day)
        return Usage(self.sessions + other.sessions, self.recent + other.recent, day, spent_s)


NOTHING = Usage()


@dataclass(slots=True)
class _Account:
    is_limited: bool = False
    begun: dict[Ticket, float] = field(default_factory=dict)  # calls that are on, since when (or since midnight)
    recent: deque[float] = field(default_factory=deque)  # when the calls of the last minute began
    day: int = 0
    used_s: float = 0.0  # of `day`, by calls that are over

    def turn_day(self, now: float) -> None:
        if int(now // _DAY_S) != self.day:
            self.day, self.used_s = int(now // _DAY_S), 0.0
            self.begun = {ticket: max(at, self.day * _DAY_S) for ticket, at in self.begun.items()}

    def spent_s(self, now: float) -> float:
        return self.used_s + sum(now - at for at in self.begun.values())


class Ticket:
    """One call's place in its principal's account, until it leaves."""

    def __init__(self, ledger: Ledger, principal: Principal) -> None:
        self.principal = principal
        self._ledger = ledger

    def left_s(self) -> float | None:
        """How long the call may go on by its principal's minutes; None without a limit. Others spend them too."""
        return self._ledger.left_s(self.principal)

    def leave(self) -> None:
        """The call is over. Once is enough, twice does no harm."""
        self._ledger.leave(self)


class Ledger:
    """Lives on one event loop. `now` is wall clock time: a day is a day of the calendar."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self.elsewhere: dict[str, Usage] = {}  # what other processes said last, by principal
        self._now = now
        self._accounts: dict[str, _Account] = {}

    def spent(self) -> tuple[int, dict[str, float]]:
        """The day, and the seconds of it that principals with limits have spent here. May be called in a thread."""
        now = self._now()
        day = int(now // _DAY_S)
        told = {}
        for name, account in list(self._accounts.items()):
            if account.is_limited and account.day == day:
                told[name] = round(account.used_s + sum(now - at for at in list(account.begun.values())), 1)
        return day, told

    def restore(self, day: int, spent_s: dict[str, float]) -> None:
        """What was spent before this process began; of another day it does not count."""
        if day == int(self._now() // _DAY_S):
            for name, seconds in spent_s.items():
                self._accounts[name] = _Account(is_limited=True, day=day, used_s=seconds)

    def usage(self) -> dict[str, Usage]:
        """What principals with limits have taken here, for other processes."""
        now, told = self._now(), {}
        for name, account in self._accounts.items():
            account.turn_day(now)
            if account.is_limited:
                recent = tuple(at for at in account.recent if at > now - _MINUTE_S)
                told[name] = Usage(len(account.begun), recent, account.day, account.spent_s(now))
        return told

    def enter(self, principal: Principal) -> Ticket:
        """A call of `principal` begins. Raises `LimitReached`."""
        now, limits = self._now(), principal.limits
        account = self._accounts.setdefault(principal.name, _Account())
        account.turn_day(now)
        account.is_limited = limits != Limits()
        others = self.elsewhere.get(principal.name, NOTHING)
        recent = len([at for at in others.recent if at > now - _MINUTE_S])
        spent_s = others.spent_s if others.day == account.day else 0.0
        while account.recent and account.recent[0] <= now - _MINUTE_S:
            account.recent.popleft()
        if limits.sessions is not None and len(account.begun) + others.sessions >= limits.sessions:
            raise LimitReached("sessions", f"{principal.name} may have {limits.sessions} sessions at once")
        if limits.sessions_per_minute is not None and len(account.recent) + recent >= limits.sessions_per_minute:
            raise LimitReached(
                "sessions_per_minute", f"{principal.name} may begin {limits.sessions_per_minute} sessions a minute"
            )
        if limits.minutes_per_day is not None and account.spent_s(now) + spent_s >= limits.minutes_per_day * 60:
            raise LimitReached("minutes_per_day", _minutes(principal))
        ticket = Ticket(self, principal)
        account.begun[ticket] = now
        if limits.sessions_per_minute is not None:
            account.recent.append(now)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        account = self._accounts.get(ticket.principal.name)
        if account is None or ticket not in account.begun:
            return
        account.turn_day(self._now())
        account.used_s += max(0.0, self._now() - account.begun.pop(ticket))
        self._forget_idle()

    def left_s(self, principal: Principal) -> float | None:
        """Seconds of the day that `principal` has left, for all its calls together; None without a limit."""
        limit = principal.limits.minutes_per_day
        if limit is None:
            return None
        account, now = self._accounts.get(principal.name), self._now()
        others = self.elsewhere.get(principal.name, NOTHING)
        left_s = limit * 60 - (others.spent_s if others.day == int(now // _DAY_S) else 0.0)
        if account is None:
            return left_s
        account.turn_day(now)
        return left_s - account.spent_s(now)

    def _forget_idle(self) -> None:
        """Names that were not seen today: tokens may bring ever new ones."""
        today = int(self._now() // _DAY_S)
        idle = [name for name, account in self._accounts.items() if not account.begun and account.day != today]
        for name in idle:
            del self._accounts[name]


def _minutes(principal: Principal) -> str:
    return f"{principal.name} may talk {principal.limits.minutes_per_day:g} minutes a day, and has"
