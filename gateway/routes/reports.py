"""The performance report, for administrators: JSON, and a page where a browser asks."""

from __future__ import annotations

import datetime

from aiohttp import web

from gateway.auth.door import Door
from gateway.auth.principal import ADMIN
from gateway.auth.requests import failure, principal_of
from gateway.recording.report import Call, page
from gateway.recording.traces import Traces, day_before
from gateway.siblings import Siblings


def report_routes(door: Door, traces: Traces, siblings: Siblings | None, *, is_private: bool) -> list[web.RouteDef]:
    """siblings: the processes that this one speaks for, too. is_private: only this machine reaches the gateway, and
    whoever is at it may see the figures, as in /metrics."""

    async def performance(request: web.Request) -> web.Response:
        if not is_private:
            await principal_of(request, door, ADMIN)
        start, end = day_before()
        start, end = _time(request, "from", start), _time(request, "to", end)
        if start >= end:
            raise failure(400, "INVALID_CONFIG", "from: must be before to", field="from")
        others = [] if siblings is None else [Call(**call) for call in await siblings.all_calls(start, end)]
        content = await traces.report(start, end, others)
        if _wants_page(request):
            headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
            return web.Response(text=page(content), content_type="text/html", headers=headers)
        return web.json_response(content)

    return [web.get("/tools/performance-report", performance)]


def _wants_page(request: web.Request) -> bool:
    accepted = request.headers.get("Accept", "")
    return "text/html" in accepted and "application/json" not in accepted.partition("text/html")[0]


def _time(request: web.Request, name: str, default: float) -> float:
    """Seconds since 1970 of an ISO date or time; without a zone it is UTC."""
    given = request.query.get(name)
    if given is None:
        return default
    try:
        at = datetime.datetime.fromisoformat(given.replace(" ", "+"))  # a plus sign that was not encoded
    except ValueError:
        raise failure(400, "INVALID_CONFIG", f"{name}: write YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS", field=name) from None
    return (at if at.tzinfo is not None else at.replace(tzinfo=datetime.UTC)).timestamp()
