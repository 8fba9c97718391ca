"""Several gateway processes on one HTTP port: whichever is asked speaks for all.

The kernel hands each connection to one of them, so each keeps a door of its own on loopback, named in its state file,
where the others ask it. One that does not answer is left out: it is being started again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
from aiohttp import web

from gateway.auth.ledger import NOTHING, Usage
from shared.state import GatewayState, read_states

_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether a session can be taken, and how many are there."""

    ready: bool
    workers: list[str]
    sessions: int
    free: int

    def body(self) -> dict[str, object]:
        return {"ready": self.ready, "workers": len(self.workers), "sessions": self.sessions, "free": self.free}


class Siblings:
    """The other processes of this service. `start`, then ask for `all_ready` and `all_metrics`."""

    def __init__(
        self,
        number: int,
        http_port: int,
        state_dir: Path,
        own_ready: Callable[[], Readiness],
        own_metrics: Callable[[], bytes],
        own_end: Callable[[str], Awaitable[bool]],
        upgrade: Callable[[web.Request], Awaitable[web.StreamResponse]],
        own_overview: Callable[[], dict[str, Any]],
        own_calls: Callable[[float, float], list[dict[str, Any]]],
        own_usage: Callable[[], dict[str, Usage]],
    ) -> None:
        """own_end: ends a call of this process by its id; False where there is none. upgrade: of callers who come back
        to a call that is here, through another process."""
        self._upgrade = upgrade
        self._number, self._http_port, self._state_dir = number, http_port, state_dir
        self._own_ready, self._own_metrics, self._own_end = own_ready, own_metrics, own_end
        self._own_overview, self._own_calls, self._own_usage = own_overview, own_calls, own_usage

    async def start(self) -> int:
        """Open the own door. Returns its port."""
        app = web.Application()
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/overview", self._overview)
        app.router.add_get("/calls", self._calls)
        app.router.add_get("/usage", self._usage)
        app.router.add_delete("/calls/{call}", self._end)
        app.router.add_get("/ws", self._upgrade)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port: int = self._runner.addresses[0][1]
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S))
        return self.port

    async def stop(self) -> None:
        await self._http.close()
        await self._runner.cleanup()

    async def _ready(self, request: web.Request) -> web.Response:
        return web.json_response(asdict(self._own_ready()))

    async def _metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self._own_metrics())

    async def _overview(self, request: web.Request) -> web.Response:
        return web.json_response(self._own_overview())

    async def _calls(self, request: web.Request) -> web.Response:
        start, end = (float(request.query[name]) for name in ("from", "to"))
        return web.json_response(self._own_calls(start, end))

    async def _usage(self, request: web.Request) -> web.Response:
        return web.json_response({name: asdict(usage) for name, usage in self._own_usage().items()})

    async def _end(self, request: web.Request) -> web.Response:
        return web.Response(status=204 if await self._own_end(request.match_info["call"]) else 404)

    async def end_call(self, number: int, call: str) -> bool:
        """End a call of the process `number`. False: there is none by this id."""
        for state in await self._others():
            if state.number == number:
                with suppress(aiohttp.ClientError, TimeoutError):
                    url = f"http://127.0.0.1:{state.own_port}/calls/{quote(call, safe='')}"
                    async with self._http.delete(url) as response:
                        return response.status == 204
        return False

    async def all_ready(self) -> Readiness:
        """Ready if any is; workers once, sessions and free places of all."""
        every = [self._own_ready()]
        for _, body in await self._ask("/ready"):
            with suppress(ValueError, TypeError):
                every.append(Readiness(**json.loads(body)))
        return Readiness(
            any(one.ready for one in every),
            sorted({worker for one in every for worker in one.workers}),
            sum(one.sessions for one in every),
            sum(one.free for one in every),
        )

    async def all_metrics(self) -> bytes:
        """Every process's figures, each with its number as the label `process`."""
        texts = {self._number: self._own_metrics()}
        texts |= dict(await self._ask("/metrics"))
        return labelled(texts)

    async def all_overviews(self) -> list[bytes]:
        """What the others say of themselves, as JSON."""
        return [body for _, body in await self._ask("/overview")]

    async def all_calls(self, start: float, end: float) -> list[dict[str, Any]]:
        """Calls of the others that are over and began in that time, for the report."""
        bodies = await self._ask(f"/calls?from={start!r}&to={end!r}")
        return [call for _, body in bodies for call in json.loads(body)]

    async def all_usage(self) -> dict[str, Usage]:
        """What principals with limits have taken of the others."""
        told: dict[str, Usage] = {}
        for _, body in await self._ask("/usage"):
            with suppress(ValueError, TypeError, KeyError):  # one of another version, for a moment
                for name, usage in json.loads(body).items():
                    taken = Usage(usage["sessions"], tuple(usage["recent"]), usage["day"], usage["spent_s"])
                    told[name] = told.get(name, NOTHING).plus(taken)
        return told

    async def _others(self) -> list[GatewayState]:
        states = await asyncio.to_thread(read_states, self._state_dir)
        return [
            state
            for state in states
            if isinstance(state, GatewayState)
            and state.port == self._http_port
            and state.own_port not in (None, self.port)
        ]

    async def _ask(self, path: str) -> list[tuple[int, bytes]]:
        others = await self._others()
        bodies = await asyncio.gather(*(self._get(f"http://127.0.0.1:{state.own_port}{path}") for state in others))
        return [(state.number, body) for state, body in zip(others, bodies, strict=True) if body is not None]

    async def _get(self, url: str) -> bytes | None:
        with suppress(aiohttp.ClientError, TimeoutError):
            async with self._http.get(url) as response:
                if response.status == 200:
                    return await response.read()
        return None


def labelled(texts: dict[int, bytes]) -> bytes:
    """Expositions of several processes as one: a family's samples stand together, its help and type once."""
    families: dict[str, tuple[list[str], list[str]]] = {}
    for number, text in sorted(texts.items()):
        head: list[str] = []
        samples: list[str] = []
        for line in text.decode().splitlines():
            if line.startswith("# HELP "):
                head, samples = families.setdefault(line.split(" ", 3)[2], ([], []))
            if line.startswith("#"):
                if line not in head:
                    head.append(line)
            elif line:
                samples.append(_with_label(line, f'process="{number}"'))
    return "".join(f"{line}\n" for head, samples in families.values() for line in (*head, *samples)).encode()


def _with_label(sample: str, label: str) -> str:
    name, brace, rest = sample.partition("{")
    if brace and " " not in name:
        return f"{name}{{{label},{rest}"
    name, _, value = sample.partition(" ")
    return f"{name}{{{label}}} {value}"
