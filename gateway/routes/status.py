"""Whether the gateway is up and can take a session, which version it is, and what it counted."""

from __future__ import annotations

import os
from dataclasses import asdict

from aiohttp import web

from gateway.calls import Calls
from gateway.metrics import Metrics
from gateway.pool import Pool
from gateway.siblings import Readiness, Siblings
from shared.messages import PROTOCOL_VERSION
from shared.version import PACKAGE, version

_EXPOSITION = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}


def readiness(pool: Pool, calls: Calls) -> Readiness:
    """This process's own."""
    workers = [worker.name for worker in pool.workers.values()]
    free = 0 if calls.draining else max(0, pool.free)
    return Readiness(free > 0, workers, len(pool.session_ids()), free)


def status_routes(pool: Pool, calls: Calls, metrics: Metrics, siblings: Siblings | None) -> list[web.RouteDef]:
    """siblings: the processes that this one speaks for, too."""

    async def health(request: web.Request) -> web.Response:
        return web.json_response({"status": "healthy", "pid": os.getpid()})

    async def ready(request: web.Request) -> web.Response:
        said = readiness(pool, calls) if siblings is None else await siblings.all_ready()
        return web.json_response(said.body(), status=200 if said.ready else 503)

    async def version_of_all(request: web.Request) -> web.Response:
        return web.json_response({"name": PACKAGE, **asdict(version()), "link_protocol": PROTOCOL_VERSION})

    async def exposition(request: web.Request) -> web.Response:
        text = metrics.text() if siblings is None else await siblings.all_metrics()
        return web.Response(body=text, headers=_EXPOSITION)

    return [
        web.get("/health", health),
        web.get("/ready", ready),
        web.get("/version", version_of_all),
        web.get("/metrics", exposition),
    ]
