"""The gateway's application: routes, start and graceful end."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket as net
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import uvloop
from aiohttp import web
from loguru import logger

from gateway.endpoint import Endpoint
from gateway.metrics import Metrics
from gateway.pool import Pool
from shared.config import Config, ConfigError, check_auth
from shared.link import SWITCH_INTERVAL_S
from shared.log import configure
from shared.messages import PROTOCOL_VERSION
from shared.state import GatewayState, StateReporter
from shared.version import PACKAGE, version

_STATE_INTERVAL_S = 1.0
_PAGE = Path(__file__).parent / "web" / "index.html"

POOL = web.AppKey("pool", Pool)
ENDPOINT = web.AppKey("endpoint", Endpoint)
METRICS = web.AppKey("metrics", Metrics)


def make_app(config: Config, pool: Pool, endpoint: Endpoint, metrics: Metrics) -> web.Application:
    """All routes, over parts that are made and ended by the caller."""
    app = web.Application()
    app[POOL], app[ENDPOINT], app[METRICS] = pool, endpoint, metrics
    app.router.add_get("/", _page_or_session)
    app.router.add_get("/ws", endpoint.handle)
    app.router.add_get("/health", _health)
    app.router.add_get("/ready", _ready)
    app.router.add_get("/version", _version)
    app.router.add_get("/voices", _voices)
    app.router.add_get("/metrics", _metrics)
    return app


async def _page_or_session(request: web.Request) -> web.StreamResponse:
    if request.headers.get("Upgrade", "").lower() == "websocket":
        return await request.app[ENDPOINT].handle(request)
    return web.FileResponse(_PAGE)


async def _health(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok", "pid": os.getpid()})


async def _ready(request: web.Request) -> web.Response:
    pool = request.app[POOL]
    ready = pool.free > 0 and not request.app[ENDPOINT].draining
    body = {
        "ready": ready,
        "workers": len(pool.workers),
        "sessions": len(pool.session_ids()),
        "free": max(0, pool.free),
    }
    return web.json_response(body, status=200 if ready else 503)


async def _version(request: web.Request) -> web.Response:
    content = {"name": PACKAGE, **asdict(version()), "link_protocol": PROTOCOL_VERSION}
    return web.json_response(content)


async def _voices(request: web.Request) -> web.Response:
    voices = request.app[POOL].voices()
    listed = [{"name": voice.name, "description": voice.description} for voice in voices]
    return web.json_response({"voices": listed, "default": voices[0].name if voices else None})


async def _metrics(request: web.Request) -> web.Response:
    text = request.app[METRICS].text()
    return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


class Gateway:
    """A running gateway: `start`, then `stop`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.metrics = Metrics()
        self._codec_threads = ThreadPoolExecutor(config.gateway.codec_threads, "codec")
        self._started = time.time()

    async def start(self) -> None:
        """Bind the link, then HTTP. Raises `ConfigError` when a port is taken or everybody could come in."""
        gateway = self.config.gateway
        check_auth(self.config)
        version()  # asks git once, before anybody waits
        self.pool = Pool(gateway, self.config.link, self.metrics)
        self.endpoint = Endpoint(self.config, self.pool, self.metrics, self._codec_threads)
        app = make_app(self.config, self.pool, self.endpoint, self.metrics)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, gateway.host, gateway.port).start()
        except OSError as error:
            await self._close()
            raise ConfigError(f"gateway: cannot listen on {gateway.host}:{gateway.port}: {error.strerror}") from None
        self.port: int = self._runner.addresses[0][1]
        self._state = StateReporter(self.config.serve.state_dir)
        self._reporter = asyncio.create_task(self._report())
        logger.info("listening on {}:{}, link on {}:{}", gateway.host, self.port, self.config.link.host, self.pool.port)
        if gateway.published:
            logger.info("open http://{}/", gateway.published[0])

    async def stop(self) -> None:
        """Sessions get their audio and close 1001; then everything else ends."""
        logger.info("shutting down: {} sessions get their audio", len(self.pool.session_ids()))
        await self.endpoint.drain(self.config.gateway.shutdown_grace_s)
        self._reporter.cancel()
        await asyncio.gather(self._reporter, return_exceptions=True)
        await self._close()
        self._state.remove()
        logger.info("gone")

    async def _close(self) -> None:
        await self._runner.cleanup()
        await self.pool.stop()
        self._codec_threads.shutdown()

    async def _report(self) -> None:
        while True:
            await asyncio.to_thread(self._state.write, self._describe())
            await asyncio.sleep(_STATE_INTERVAL_S)

    def _describe(self) -> GatewayState:
        return GatewayState(
            started=self._started,
            host=self.config.gateway.host,
            hostname=net.gethostname(),
            port=self.port,
            link_port=self.pool.port,
            sessions=len(self.pool.session_ids()),
            ready=self.pool.free > 0,
            workers=self.pool.describe(),
            session_ids=self.pool.session_ids()[:1000],
        )


async def _serve(config: Config) -> None:
    gateway = Gateway(config)
    await gateway.start()
    gc.collect()
    gc.freeze()  # what is there now stays; later collections are short
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    await ended.wait()
    await gateway.stop()


def run(config: Config) -> int:
    """Serve until SIGTERM or SIGINT. Returns the process's exit code; raises `ConfigError`."""
    configure("gateway", config.log)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    uvloop.run(_serve(config))
    return 0
