"""Gateways that share a port: expositions become one that Prometheus reads; who leaves takes no new callers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.app import Gateway
from gateway.auth.keys import add_key
from gateway.auth.principal import Limits
from gateway.metrics import Metrics
from gateway.recording.report import Call
from gateway.siblings import labelled
from shared.addresses import free_port
from shared.config import Config

from .conftest import BLOCK_MS, KEY, Service, hear


def test_families_stand_together_and_every_sample_says_whose_it_is() -> None:
    first, second = Metrics(), Metrics()
    first.sessions.set(3)
    second.sessions.set(4)
    second.refused.labels('TOO "MANY" {OF} THEM').inc()
    text = labelled({1: second.text(), 0: first.text()}).decode()
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    samples = [sample for family in families for sample in family.samples]
    assert {sample.labels["process"] for sample in samples} == {"0", "1"}
    sessions = {s.labels["process"]: s.value for s in samples if s.name == "fastvc_sessions"}
    assert sessions == {"0": 3, "1": 4}
    (refused,) = [s for s in samples if s.name == "fastvc_sessions_refused_total"]
    assert refused.labels == {"process": "1", "reason": 'TOO "MANY" {OF} THEM'}


async def test_one_that_leaves_hands_its_new_callers_to_the_other(tmp_path: Path) -> None:
    config = Config.model_validate(
        {
            "gateway": {"port": free_port(), "default_model": "echo", "shutdown_grace_s": 20},
            "auth": {"api_keys": [KEY]},
            "link": {"port": free_port()},
            "serve": {"state_dir": tmp_path / "temp"},
            "recording": {"dir": tmp_path / "outputs"},
        }
    )
    leaving, staying = both(config)
    await leaving.start()
    async with aiohttp.ClientSession() as http:
        service = Service(leaving, http)
        silent = await service.worker(worker_id="silent", answer=lambda worker, chunk: False)
        held = await service.call()  # nobody else listens on the port yet
        await held.send_bytes(bytes(BLOCK_MS * 32 * 4))
        await service.until(lambda: bool(silent.chunks))
        await staying.start()
        lively = await Service(staying, http).worker(worker_id="lively")
        going = asyncio.create_task(leaving.stop())
        await service.until(lambda: leaving.calls.draining)
        calls = [await service.call() for _ in range(8)]
        assert len(staying.pool.session_ids()) == len(calls)
        assert leaving.pool.session_ids()
        for socket in (*calls, held):
            await socket.close()
        await going
        await staying.stop()
    for worker in (silent, lively):
        await worker.die()


async def test_a_call_ends_whichever_process_is_asked(tmp_path: Path) -> None:
    pytest.importorskip("aiortc", reason="the extra webrtc is not installed")
    from ..support.webrtc import TestCaller

    config = Config.model_validate(
        {
            "gateway": {"port": free_port(), "default_model": "echo"},
            "auth": {"api_keys": [KEY]},
            "link": {"port": free_port()},
            "serve": {"state_dir": tmp_path / "temp"},
            "recording": {"dir": tmp_path / "outputs"},
        }
    )
    gateways = both(config)
    caller = TestCaller()
    async with aiohttp.ClientSession() as http:
        for gateway in gateways:
            await gateway.start()
        services = [Service(gateway, http) for gateway in gateways]
        for service in services:
            await service.worker()
        headers = {"Authorization": f"Bearer {KEY}"}
        await caller.dial(http, services[0].url + "/webrtc", headers=headers)
        await caller.configure()
        number, key = caller.location.removeprefix("/webrtc/").split(".")
        owner, other = gateways[int(number)], gateways[1 - int(number)]
        states = tmp_path / "temp"
        await services[0].until(lambda: len(list(states.glob("gateway-*.json"))) == len(gateways))
        assert other._siblings is not None
        assert not await other._siblings.end_call(int(number), "no-such-call")
        assert len(owner.calls) == 1
        assert await other._siblings.end_call(int(number), key)
        assert len(owner.calls) == 0
        await caller.hang_up()
        for gateway in gateways:
            await gateway.stop()
        for service in services:
            await service.workers[0].die()


def both(config: Config) -> list[Gateway]:
    """Two processes of one service, as it were, in this one."""
    lower = config.link.model_copy(update={"port": free_port() - 1})  # the second's is one higher than said
    return [Gateway(config, 0), Gateway(config.model_copy(update={"link": lower}), 1)]


async def test_limits_hold_for_all_processes_together(tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys.json", "alice", limits=Limits(sessions=1))
    config = Config.model_validate(
        {
            "gateway": {"port": free_port(), "default_model": "echo"},
            "auth": {"api_keys": [], "keys_file": tmp_path / "keys.json"},
            "link": {"port": free_port()},
            "serve": {"state_dir": tmp_path / "temp"},
            "recording": {"dir": tmp_path / "outputs"},
        }
    )
    gateways = both(config)
    async with aiohttp.ClientSession() as http:
        for gateway in gateways:
            await gateway.start()
        services = [Service(gateway, http) for gateway in gateways]
        for service in services:
            await service.worker()
            assert service.gateway._siblings is not None
            service.url = f"http://127.0.0.1:{service.gateway._siblings.port}"  # its own door: else the kernel chooses
        socket = await services[0].call(api_key=key)
        ledger = gateways[1].door.ledger
        await services[1].until(lambda: "alice" in ledger.elsewhere and ledger.elsewhere["alice"].sessions == 1)
        refused = await http.ws_connect(services[1].url + "/ws")
        await refused.send_json({"type": "config", "api_key": key})
        _, control, code = await hear(refused)
        assert (control[0]["details"], code) == ({"limit": "sessions"}, 1013)
        await socket.close()
        await services[1].until(lambda: ledger.elsewhere["alice"].sessions == 0)
        await (await services[1].call(api_key=key)).close()
        for gateway in gateways:
            await gateway.stop()
        for service in services:
            await service.workers[0].die()


async def test_the_report_is_over_the_calls_of_all_processes(tmp_path: Path) -> None:
    """Whichever is asked; and each call once, recorded or not."""
    config = Config.model_validate(
        {
            "gateway": {"port": free_port(), "default_model": "echo"},
            "auth": {"api_keys": [KEY]},
            "link": {"port": free_port()},
            "serve": {"state_dir": tmp_path / "temp"},
            "recording": {"enabled": True, "dir": tmp_path / "outputs"},
        }
    )
    gateways = both(config)
    async with aiohttp.ClientSession() as http:
        for gateway in gateways:
            await gateway.start()
        services = [Service(gateway, http) for gateway in gateways]
        for service in services:
            await service.worker()
        await services[0].until(lambda: len(list((tmp_path / "temp").glob("gateway-*.json"))) == len(gateways))
        for gateway in gateways:
            gateway.recorder.index._writer = f"{gateway._number}-1-0.0"  # as two processes would have it
        for _ in range(2):
            for gateway in gateways:
                direct = Service(gateway, http)
                assert gateway._siblings is not None
                direct.url = f"http://127.0.0.1:{gateway._siblings.port}"  # its own door: else the kernel chooses
                socket = await direct.call()
                await socket.send_bytes(bytes(BLOCK_MS * 32 * 3))
                await socket.send_json({"type": "end"})
                await hear(socket)
        index = gateways[0].recorder.index
        await services[0].until(lambda: len(index.of_others(0, 1e12, 100)) == 2)
        for service in services:
            assert len(service.gateway.traces.calls(0, 1e12)) == 2
            assert service.gateway._siblings is not None
            others = [Call(**one) for one in await service.gateway._siblings.all_calls(0, 1e12)]
            assert (await service.gateway.traces.report(0, 1e12, others))["sessions"] == 4
        async with http.get(services[0].url + "/tools/performance-report") as response:
            assert (await response.json())["sessions"] == 4
        for gateway in gateways:
            await gateway.stop()
        for service in services:
            await service.workers[0].die()
