"""What the gateway serves, described: OpenAPI for HTTP, AsyncAPI for WebSockets, and both as a page."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

FOLDER = Path(__file__).parents[1] / "described"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML was built with it
_METHODS = ("get", "post", "delete")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
}
_OPEN = {"Access-Control-Allow-Origin": "*"}  # no secret is in them, and tools of other sites show them


def description_routes() -> list[web.RouteDef]:
    async def openapi(request: web.Request) -> web.Response:
        return web.json_response(await asyncio.to_thread(read, "openapi"), headers=_OPEN)

    async def asyncapi(request: web.Request) -> web.Response:
        return web.json_response(await asyncio.to_thread(read, "asyncapi"), headers=_OPEN)

    async def docs(request: web.Request) -> web.Response:
        return web.Response(text=await asyncio.to_thread(_page), content_type="text/html", headers=_HEADERS)

    return [web.get("/openapi.json", openapi), web.get("/asyncapi.json", asyncapi), web.get("/docs", docs)]


@cache
def read(name: str) -> dict[str, Any]:
    """`openapi` or `asyncapi`, from its file: once, when somebody asks, for that takes a while."""
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.load(text, Loader=_LOADER)
    return content


def resolved(document: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """What a ``$ref`` stands for."""
    while "$ref" in node:
        place: Any = document
        for part in node["$ref"].removeprefix("#/").split("/"):
            place = place[part]
        node = place
    return node


def _page() -> str:
    http, sockets = read("openapi"), read("asyncapi")
    body = [f"<h1>{_text(http['info']['title'])}</h1><p>{_text(http['info']['summary'])}</p>"]
    body += [part for path, item in http["paths"].items() for part in _path(http, path, item)]
    body.append(f"<h1>{_text(sockets['info']['title'])}</h1><p>{_text(sockets['info']['description'])}</p>")
    body += [part for channel in sockets["channels"].values() for part in _channel(sockets, channel)]
    return _DOCUMENT.format(body="".join(body))


def _path(document: dict[str, Any], path: str, item: dict[str, Any]) -> Iterator[str]:
    for method in _METHODS:
        if method not in item:
            continue
        operation = item[method]
        yield f"<h2><code>{method.upper()} {_text(path)}</code></h2><p>{_text(operation['summary'])}. "
        yield f"{_text(operation.get('description', ''))}</p>"
        given = [resolved(document, one) for one in item.get("parameters", []) + operation.get("parameters", [])]
        rows = [(one["name"], one["in"], _kind(document, one["schema"]), one.get("description", "")) for one in given]
        yield _table(("parameter", "in", "", ""), rows)
        answers = {status: resolved(document, one) for status, one in operation["responses"].items()}
        yield _table(
            ("status", "", ""),
            [(status, one["description"], ", ".join(one.get("content", {}))) for status, one in answers.items()],
        )


def _channel(document: dict[str, Any], channel: dict[str, Any]) -> Iterator[str]:
    yield f"<h2><code>{_text(channel['address'])}</code></h2><p>{_text(channel['description'])}</p>"
    for name, reference in channel["messages"].items():
        message = resolved(document, reference)
        yield f"<h3><code>{_text(name)}</code></h3><p>{_text(message['summary'])}. "
        yield f"{_text(message.get('description', ''))}</p>"
        payload = message["payload"]
        required = payload.get("required", [])
        rows = []
        for field, schema in payload.get("properties", {}).items():
            schema = resolved(document, schema)
            must = "" if field in required else "optional"
            rows.append((field, must, _kind(document, schema), schema.get("description", "")))
        yield _table(("field", "", "", ""), rows)


def _kind(document: dict[str, Any], schema: dict[str, Any]) -> str:
    schema = resolved(document, schema)
    if "const" in schema:
        return repr(schema["const"])
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"] if value is not None)
    kind = schema.get("type", "")
    return " | ".join(one for one in kind if one != "null") if isinstance(kind, list) else str(kind)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    lines = ["".join(f"<td>{_text(cell)}" for cell in row) for row in rows]
    return f"<table><tr>{''.join(f'<th>{cell}' for cell in head)}<tr>{'<tr>'.join(lines)}</table>"


def _text(text: str) -> str:
    return html.escape(text)


_DOCUMENT = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Fast-VC Pool: what is said to it</title>
<meta name="viewport" content="width=device-width">
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}}
table{{border-collapse:collapse;margin:0 0 1rem}}th,td{{text-align:left;vertical-align:top;padding:.15rem 1.5rem .15rem
0;border-bottom:1px solid #8884}}td:first-child,code{{font-family:ui-monospace,monospace}}h2{{margin-top:2rem}}
@media(prefers-color-scheme:dark){{body{{background:#16181d;color:#e6e6e6}}}}</style>
{body}</html>
"""
