"""`docker compose up` as an operator meets it: calls from outside, the link's keys, what a container may do."""

from __future__ import annotations

import json
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from tools.client.client import Call, CallConfig, call, read_source

from .conftest import KEY, SAMPLE, TAG, Stack, docker, until


async def talk(config: CallConfig, seconds: float | None = None) -> Call:
    """The bundled sample through the service, in real time."""
    wave = read_source(SAMPLE, config.sample_rate)
    if seconds is not None:
        wave = wave[: int(seconds * config.sample_rate)]
    connector = aiohttp.TCPConnector(ssl=False)  # the proxy's certificate is its own
    async with aiohttp.ClientSession(connector=connector) as http:
        return await call(http, config, wave)


def check_whole(made: Call) -> None:
    """As long as the input and the announced lead, to a block; and it is somebody who speaks."""
    assert made.complete is not None
    block_ms = made.ready["block_ms"]
    length_ms = 1000 * len(made.output()) / made.config.sample_rate_out
    assert made.input_ms <= length_ms <= made.input_ms + made.lead_ms + block_ms
    assert np.abs(made.output()).max() > 1000


@pytest.mark.parametrize(
    ("encoding", "rate"), [("PCM", 16_000), ("PCM", 48_000), ("OPUS", 48_000)], ids=["pcm", "pcm-48", "opus"]
)
async def test_the_sample_is_converted_from_outside(stack: Stack, encoding: str, rate: int) -> None:
    config = CallConfig(
        stack.url, KEY, encoding=encoding, encoding_out=encoding, sample_rate=rate, sample_rate_out=rate
    )
    made = await talk(config)
    assert made.close_code == 1000
    check_whole(made)


async def test_through_the_tls_proxy(stack: Stack) -> None:
    made = await talk(CallConfig(f"wss://127.0.0.1:{stack.tls_port}/ws", KEY), 2)
    check_whole(made)


async def test_a_key_of_somebody_else_is_refused(stack: Stack) -> None:
    from tools.client.client import CallError

    with pytest.raises(CallError, match="AUTH_FAILED"):
        await talk(CallConfig(stack.url, "fast-vc-demo-key"), 1)


def test_containers_become_healthy(stack: Stack) -> None:
    for service in ("gateway", "worker", "proxy"):
        until(lambda service=service: stack.inspect(service)[0]["State"]["Health"]["Status"] == "healthy")


@pytest.mark.parametrize("service", ["gateway", "worker", "proxy"])
def test_nobody_inside_is_root_or_writes_to_the_image(stack: Stack, service: str) -> None:
    assert stack.inside(service, "id", "-u").strip() == "10001"
    for path in ("/here", "/etc/here", "/usr/bin/here"):
        assert "Read-only file system" in stack.inside(service, "touch", path, check=False)
    effective = stack.inside(service, "sh", "-c", "grep CapEff /proc/self/status")
    assert int(effective.split()[1], 16) == 0


def test_what_is_kept_lies_on_volumes_of_its_own(stack: Stack) -> None:
    mounts = {one["Destination"]: one.get("Name", "") for one in stack.inspect("gateway")[0]["Mounts"]}
    for folder in ("uploads", "outputs"):
        stack.inside("gateway", "sh", "-c", f"echo here > {folder}/here && rm {folder}/here")
        assert mounts[f"/var/lib/fast-vc/{folder}"] == f"{stack.name}_{folder}"


def test_only_this_machine_reaches_the_port(stack: Stack) -> None:
    bindings = stack.inspect("gateway")[0]["NetworkSettings"]["Ports"]
    assert [entry["HostIp"] for entry in bindings["8042/tcp"]] == ["127.0.0.1"]
    assert not bindings["5555/tcp"]  # the link is nobody's but the workers'


def test_each_side_sees_its_own_secret_alone(stack: Stack) -> None:
    gateway = stack.inside("gateway", "find", "/keys", "-type", "f").split()
    worker = stack.inside("worker", "find", "/keys", "-type", "f").split()
    assert [name for name in gateway if name.endswith("secret")] == ["/keys/gateway/gateway.key_secret"]
    assert [name for name in worker if name.endswith("secret")] == ["/keys/worker/worker.key_secret"]


def test_logs_are_one_json_object_a_line(stack: Stack) -> None:
    for service, word in (("gateway", "open http://127.0.0.1"), ("worker", "places")):
        lines = stack.compose("logs", "--no-log-prefix", "--no-color", service).stdout.splitlines()
        told = [json.loads(line[line.index("{") :]) for line in lines if line.strip()]
        assert all({"time", "level", "role", "session_id", "message"} <= set(line) for line in told)
        if service == "gateway":
            assert any(word in line["message"] for line in told)
            assert not any(KEY in json.dumps(line) for line in told)


STRANGERS = {
    "plain": ["FASTVC_LINK__ALLOW_PLAIN=true"],
    "with a key that was never allowed": [
        "FASTVC_LINK__SECRET_KEY_FILE=/tmp/stranger.key_secret",
        "FASTVC_LINK__SERVER_KEY_FILE=/keys/worker/gateway.key",
    ],
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_a_worker_without_an_allowed_key_does_not_get_in(stack: Stack, kind: str) -> None:
    settings = ["FASTVC_WORKER__MODEL=passthrough", "FASTVC_LOG__TO_FILE=false", *STRANGERS[kind]]
    make_key = "python -c \"import zmq.auth; zmq.auth.create_certificates('/tmp', 'stranger')\""
    command = f"{make_key} && exec fast-vc worker --gateway tcp://gateway:5555 --id stranger"
    options = [text for setting in settings for text in ("--env", setting)]
    name = f"{stack.name}-stranger"
    docker(
        *("run", "--detach", "--name", name, "--network", f"{stack.name}_link", "--tmpfs", "/tmp", *options),
        *("--volume", f"{stack.name}_worker-keys:/keys/worker:ro", "--entrypoint", "sh"),
        *(f"fast-vc-worker:{TAG}", "-c", command),
    )
    try:
        assert ", 1 gateways" in stack.inside("worker", "fast-vc", "worker", "--probe")
        probe = ("exec", name, "fast-vc", "worker", "--probe")
        until(lambda: "places taken" in docker(*probe, check=False).stdout)  # it has measured itself and keeps calling
        for _ in range(5):
            assert ", 0 gateways" in docker(*probe).stdout
            assert stack.ready()["workers"] == 1
    finally:
        docker("rm", "--force", name)


def test_the_demonstration_s_key_serves_nobody_beyond_this_machine(tree: Path, stack: Stack) -> None:
    settings = ["FASTVC_GATEWAY__HOST=0.0.0.0", 'FASTVC_GATEWAY__PUBLISHED=["0.0.0.0:8042"]']
    options = [text for setting in settings for text in ("--env", setting)]
    done = docker("run", "--rm", *options, f"fast-vc-gateway:{TAG}", "gateway", check=False)
    assert done.returncode == 2
    assert "auth.api_keys" in done.stderr


async def test_stop_lets_the_audio_out(stack: Stack) -> None:
    """The last of this file: the service is stopped."""
    import asyncio

    calling = asyncio.create_task(talk(CallConfig(stack.url, KEY)))
    await asyncio.sleep(2.5)
    await asyncio.to_thread(stack.compose, "stop")
    made = await calling
    assert made.close_code == 1001
    assert made.complete is not None
    heard_ms = made.complete["total_processed_ms"]
    assert 1000 < heard_ms < made.input_ms
    assert len(made.output()) / 16 == pytest.approx(heard_ms + made.lead_ms, abs=1)
    for service in ("gateway", "worker"):
        assert [one["State"]["ExitCode"] for one in stack.inspect(service)] == [0]
