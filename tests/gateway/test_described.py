"""What is described is what there is: every route, every field, every code; and what is said in calls fits."""

from __future__ import annotations

import base64
import typing
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gateway.auth.principal import Limits
from gateway.errors import ErrorCode
from gateway.protocols.simple import _Start
from gateway.protocols.standard import _Config, _Options
from gateway.recording.desk import ANALYSIS
from gateway.recording.retrieval import FORMATS, PARTS
from gateway.routes.description import read, resolved
from gateway.voices.clip import Reason

from .conftest import KEY, Service, hear
from .test_sessions import noise, say

OPENAPI, ASYNCAPI = read("openapi"), read("asyncapi")
RECORDING = (Path(__file__).parents[2] / "worker" / "assets" / "voices" / "june.flac").read_bytes()


@pytest.fixture
def sections(tmp_path: Path) -> dict[str, Any]:
    return {"recording": {"enabled": True, "dir": tmp_path / "outputs"}}


async def test_every_route_is_described_and_no_other(service: Service) -> None:
    served = set()
    for resource in service.gateway._runner.app.router.resources():
        for route in resource:
            if route.method != "*":  # of what is not installed, which only says so
                served.add((route.method.lower(), resource.canonical))
    described = {
        (method, path)
        for path, item in OPENAPI["paths"].items()
        for method in item
        if method in ("get", "post", "delete")
    }
    of_the_page = {("get", "/web/token"), ("get", "/web/{name}")}
    optional = {one for one in described if one[1].startswith("/webrtc")}
    served = {(method, path) for method, path in served if method not in ("options", "head")}
    assert served | optional == described | of_the_page


def test_lists_are_those_of_the_code() -> None:
    schemas = OPENAPI["components"]["schemas"]
    codes = set(typing.get_args(ErrorCode))
    assert set(schemas["ErrorCode"]["enum"]) == codes
    assert set(message("error")["properties"]["error_code"]["enum"]) == codes
    reasons = set(schemas["Error"]["properties"]["details"]["properties"]["reason"]["enum"])
    assert reasons == set(typing.get_args(Reason)) | {"too_large", "full"}
    parameters = OPENAPI["components"]["parameters"]
    question = message("question")["properties"]
    for part in (parameters["Part"]["schema"]["enum"], question["part"]["enum"]):
        assert set(part) == {*PARTS, ANALYSIS}
    for form in (parameters["Format"]["schema"]["enum"], question["format"]["enum"]):
        assert tuple(form) == FORMATS
    limits = message("error")["properties"]["details"]["properties"]["limit"]["enum"]
    assert limits == list(Limits.__dataclass_fields__)


def message(name: str) -> dict[str, Any]:
    payload: dict[str, Any] = ASYNCAPI["components"]["messages"][name]["payload"]
    return payload


def test_first_messages_have_the_fields_that_are_read() -> None:
    assert set(message("config")["properties"]) == set(_Config.model_fields)
    assert set(message("config")["properties"]["options"]["properties"]) == set(_Options.model_fields)
    assert set(message("start")["properties"]) == set(_Start.model_fields)


def fits(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    """Raises where `value` is not of `schema`, whose references are those of `document`."""
    jsonschema.Draft202012Validator({**document, **schema}).validate(value)


def check_said(value: dict[str, Any]) -> str:
    kind = str(value.get("type") or value.get("signal") or value["status"])
    fits(ASYNCAPI, message(kind), value)
    return kind


async def test_whatever_is_said_in_calls_fits(service: Service) -> None:
    await service.worker()
    told: list[str] = []

    async def call(*first: dict[str, Any]) -> None:
        socket = await service.http.ws_connect(service.url + "/ws")
        for config in first:
            if config.get("type") == "config":
                fits(ASYNCAPI, message("config"), config)
            await socket.send_json(config)
        if first[0].get("sample_rate") == 16_000:
            await say(socket, noise(300))
            await socket.send_json({"type": "end"} if "type" in first[0] else {"signal": "end"})
        _, control, _ = await hear(socket)
        told.extend(check_said(one) for one in control)

    audio = base64.b64encode(RECORDING).decode()
    options = {"steps": 1, "f0_shift": -2.5}
    await call({"type": "config", "api_key": KEY, "sample_rate": 16_000, "stats": True}, {"type": "ping"})
    await call({"type": "config", "token": KEY, "sample_rate": 16_000, "voice_audio": audio, "options": options})
    await call({"type": "config", "api_key": KEY, "voice": "nobody", "encoding": "opus", "channels": 2})
    await call({"type": "config", "api_key": "a-wrong-key", "bit_depth": "float32"})
    await call({"signal": "start", "stream_id": 7, "sample_rate": 16_000})
    await call({"signal": "start", "stream_id": 7, "sample_rate": 1})
    assert set(told) == {"ready", "pong", "stats", "complete", "error", "completed", "failed"}


async def test_whatever_is_answered_over_http_fits(service: Service) -> None:
    await service.worker()
    socket = await service.call(session_id="a")
    await say(socket, noise(300))
    await socket.send_json({"type": "end"})
    await hear(socket)
    index = service.gateway.recorder.index
    await service.until(lambda: (entry := index.find("a", None, None)) is not None and bool(entry.outcome))
    key = {"api_key": KEY}
    asked: list[tuple[str, str, str, dict[str, Any], Any]] = [
        *(
            ("get", path, path, {}, None)
            for path, item in OPENAPI["paths"].items()
            if "get" in item and "{" not in path
        ),
        ("get", "/ws", "/ws", {"api_key": "wrong"}, None),
        ("post", "/voices", "/voices", {"name": "june", **key}, RECORDING),
        ("post", "/voices", "/voices", {"name": "june", **key}, RECORDING),
        ("post", "/voices", "/voices", {"name": "x", **key}, b"no sound"),
        ("get", "/voices", "/voices", key, None),
        ("get", "/voices/{name}/sample", "/voices/june/sample", key, None),
        ("delete", "/voices/{name}", "/voices/june", key, None),
        ("delete", "/voices/{name}", "/voices/june", key, None),
        *(
            ("get", "/tools/session/{id}", "/tools/session/a", {"part": part, **key}, None)
            for part in (*PARTS, ANALYSIS)
        ),
        ("get", "/tools/session/{id}", "/tools/session/a", {"format": "base64", **key}, None),
        ("get", "/tools/session/{id}", "/tools/session/a", {"date": "soon", **key}, None),
        ("get", "/tools/session/{id}", "/tools/session/b", key, None),
        ("delete", "/tools/session/{id}", "/tools/session/a", key, None),
    ]
    for method, described, path, query, body in asked:
        if (method, path) in (("get", "/tools/session"), ("get", "/ws")) and not query:
            continue
        async with service.http.request(method, service.url + path, params=query, data=body) as response:
            responses = OPENAPI["paths"][described][method]["responses"]
            assert str(response.status) in responses, (method, path, response.status)
            content = resolved(OPENAPI, responses[str(response.status)]).get("content", {})
            if response.status == 204:
                continue
            assert response.content_type in content, (path, response.content_type)
            if response.content_type == "application/json":
                fits(OPENAPI, content["application/json"]["schema"], await response.json())


async def test_both_are_served_and_can_be_read_by_people(service: Service) -> None:
    for name, document in (("openapi", OPENAPI), ("asyncapi", ASYNCAPI)):
        async with service.http.get(f"{service.url}/{name}.json") as response:
            assert await response.json() == document
    async with service.http.get(service.url + "/docs") as response:
        page = await response.text()
    for text in ("/tools/session/{id}", "voice_audio", "X-Encrypt-To", "seconds_left"):
        assert text in page
