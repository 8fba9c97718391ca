"""Whether the gateway is up and can take a session, which version it is, and what it counted."""

from __future__ import annotations

import os
from dataclasses import asdict

from aiohttp import web

from gateway.calls import Calls
from gateway.metrics import Metrics
from gateway.pool import Pool
from shared.messages import PROTOCOL_VERSION
from shared.version import PACKAGE, version

_EXPOSITION = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}


def status_routes(pool: Pool, calls: Calls, metrics: Metrics) -> list[web.RouteDef]:
    async def health(request: web.Request) -> web.Response:
        return web.json_response({"status": "healthy", "pid": os.getpid()})

    async def ready(request: web.Request) -> web.Response:
        is_ready = pool.free > 0 and not calls.draining
        body = {
            "ready": is_ready,
            "workers": len(pool.workers),
            "sessions": len(pool.session_ids()),
            "free": max(0, pool.free),
        }
        return web.json_response(body, status=200 if is_ready else 503)

    async def version_of_all(request: web.Request) -> web.Response:
        return web.json_response({"name": PACKAGE, **asdict(version()), "link_protocol": PROTOCOL_VERSION})

    async def exposition(request: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers=_EXPOSITION)

    return [
        web.get("/health", health),
        web.get("/ready", ready),
        web.get("/version", version_of_all),
        web.get("/metrics", exposition),
    ]
