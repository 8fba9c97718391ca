"""Dashboard and alert rules name figures that exist; Prometheus itself reads both, where it is installed
(`make test-monitoring` installs it)."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import Service, hear
from .test_sessions import noise, say

MONITORING = Path(__file__).parents[2] / "docker" / "monitoring"
DASHBOARD = MONITORING / "grafana" / "dashboards" / "fast-vc.json"
must_run = "TEST_MONITORING" in os.environ
needs_prometheus = pytest.mark.skipif(
    not must_run and not (shutil.which("promtool") and shutil.which("prometheus")), reason="Prometheus is not installed"
)


def queries() -> Iterator[str]:
    for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        yield from (target["expr"] for target in panel.get("targets", []))


async def exposition(service: Service) -> str:
    async with service.http.get(service.url + "/metrics") as response:
        return await response.text()


async def test_dashboard_and_alerts_name_figures_that_exist(service: Service) -> None:
    await service.worker()
    text = await exposition(service)
    known = {line.split()[2] for line in text.splitlines() if line.startswith("# HELP ")}
    known |= {name + suffix for name in known for suffix in ("_bucket", "_sum", "_count")}
    named = {name for query in queries() for name in re.findall(r"\b(?:fastvc|process)_\w+", query)}
    assert len(named) > 30
    assert named - known == set()


async def test_every_figure_of_ours_is_on_the_dashboard(service: Service) -> None:
    text = await exposition(service)
    shown = DASHBOARD.read_text()
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# HELP fastvc_")}
    hidden = {name for name in names if not name.endswith("_created") and name not in shown}
    assert hidden <= {
        "fastvc_worker_queue_seconds",  # of one batch: the histogram tells more
        "fastvc_worker_chunks_refused",
        "fastvc_worker_answers_dropped",
        "fastvc_recordings_failed_total",  # an alert
    }


def run(*command: str | Path, text: str | None = None) -> str:
    done = subprocess.run([str(part) for part in command], input=text, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_prometheus
async def test_promtool_finds_nothing_wrong(service: Service) -> None:
    assert "12 rules found" in run("promtool", "check", "config", MONITORING / "prometheus.yml")
    run("promtool", "test", "rules", MONITORING / "alerts.test.yml")
    await service.worker()
    # clients write when a counter began beside it, which the linter takes for a counter without its suffix
    ours = [line for line in (await exposition(service)).splitlines() if "_created" not in line]
    run("promtool", "check", "metrics", text="\n".join(ours) + "\n")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@needs_prometheus
async def test_prometheus_scrapes_a_gateway(service: Service, tmp_path: Path) -> None:
    """A real server: its rules are loaded, and a call that was made is among its figures."""
    await service.worker()
    call = await service.call()
    await say(call, noise(300))
    await call.send_json({"type": "end"})
    await hear(call)
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    target = service.url.removeprefix("http://")
    config["scrape_configs"] = [{"job_name": "fast-vc", "static_configs": [{"targets": [target]}]}]
    shutil.copy(MONITORING / "alerts.yml", tmp_path)
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    options = (f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/tsdb")
    server = await asyncio.create_subprocess_exec(
        *("prometheus", *options, f"--web.listen-address=127.0.0.1:{port}"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        api = f"http://127.0.0.1:{port}/api/v1"
        query = {"query": "fastvc_sessions_opened_total == 1 and on() fastvc_received_bytes_total > 0"}
        while not (await ask(service, f"{api}/query", query))["result"]:
            assert server.returncode is None
            await asyncio.sleep(0.2)
        rules = [rule for group in (await ask(service, f"{api}/rules"))["groups"] for rule in group["rules"]]
        assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
        assert len(rules) == 12
    finally:
        server.terminate()
        await server.wait()


async def ask(service: Service, url: str, params: dict[str, str] | None = None) -> dict[str, Any]:
    for _ in range(100):
        try:
            async with service.http.get(url, params=params) as response:
                if response.status == 200:
                    data: dict[str, Any] = (await response.json())["data"]
                    return data
        except OSError:
            pass
        await asyncio.sleep(0.2)
    raise AssertionError(f"{url} does not answer")
