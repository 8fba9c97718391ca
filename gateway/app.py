"""The gateway: its parts put together, start and graceful end."""

from __future__ import annotations

import asyncio
import gc
import socket as net
import sys
import time
from dataclasses import asdict
from typing import Any

import uvloop
from aiohttp import web
from loguru import logger

from gateway.audio.threads import CodecThreads
from gateway.auth.door import Door
from gateway.auth.passes import Passes
from gateway.auth.requests import address_middleware
from gateway.auth.secret import service_secret
from gateway.auth.spent import SpentMinutes
from gateway.calls import Calls
from gateway.lag import watch_lag
from gateway.link import GatewayLink
from gateway.metrics import Metrics
from gateway.origins import Origins
from gateway.overview import overview
from gateway.pool import Pool
from gateway.recording.exposition import RecorderFigures
from gateway.recording.recorder import Recorder
from gateway.recording.traces import Traces
from gateway.recording.vault import Vault
from gateway.refused import refusals, request_log
from gateway.resume.returns import Returns
from gateway.routes.catalogue import catalogue_routes
from gateway.routes.description import description_routes
from gateway.routes.overview import overview_routes
from gateway.routes.page import page_routes
from gateway.routes.recordings import recording_routes
from gateway.routes.reports import report_routes
from gateway.routes.sessions import session_routes
from gateway.routes.status import readiness, status_routes
from gateway.routes.voices import VoiceRoutes
from gateway.routes.webrtc import webrtc_routes
from gateway.siblings import Siblings
from gateway.tls import Certificates
from gateway.transports.offers import WebRtcOffers, open_offers
from gateway.transports.upgrade import WebSocketUpgrades
from gateway.voices.reader import ClipReader
from gateway.voices.references import References
from gateway.voices.store import VoiceStore
from shared.config import Config, ConfigError, check_auth, default_model
from shared.link import SWITCH_INTERVAL_S
from shared.log import configure
from shared.state import GatewayState, StateReporter
from shared.stopping import stopping_signals
from shared.version import version

_STATE_INTERVAL_S = 1.0
_WATCH_INTERVAL_S = 1.0


class Gateway:
    """A running gateway: `start`, then `stop`."""

    def __init__(self, config: Config, number: int | None = None) -> None:
        """number: of several processes that share the HTTP port; its link port is that much higher."""
        self.config = config
        self._number = number
        self.metrics = Metrics()
        self._codec_threads = CodecThreads(config.gateway.codec_threads)
        self._started = time.time()

    async def start(self) -> None:
        """Bind the link, then HTTP. Raises `ConfigError` when a port is taken or everybody could come in."""
        gateway = self.config.gateway
        check_auth(self.config)
        version()  # asks git once, before anybody waits
        recording = self.config.recording
        secret = service_secret(self.config)
        self.door = Door(
            self.config.auth,
            is_private=gateway.is_private,
            on_denied=lambda reason: self.metrics.denied.labels(reason).inc(),
            passes=Passes(secret.key),
        )
        self.recorder = Recorder(
            recording.dir,
            None if recording.keys_dir is None else Vault(recording.keys_dir),
            max_backlog_bytes=int(recording.max_backlog_mb * 1e6),
            keep_days=recording.keep_days,
            max_bytes=recording.max_gb * 1e9,
        )
        self.metrics.registry.register(RecorderFigures(self.recorder.backlog))
        self.traces = Traces(self.recorder, record=recording.enabled)
        self._certificates = None
        if gateway.tls_certificate is not None and gateway.tls_key is not None:
            self._certificates = Certificates(gateway.tls_certificate, gateway.tls_key)
        origins = Origins(gateway.allowed_origins, is_private=gateway.is_private)
        addresses = address_middleware(gateway.trusted_proxies)
        link = self.config.link
        if self._number:
            link = link.model_copy(update={"port": link.port + self._number})
        self.link = GatewayLink(
            link, self.metrics.bad_frames.inc, lambda reason: self.metrics.strangers.labels(reason).inc()
        )
        self.pool = Pool(
            self.link,
            self.metrics,
            default_model=default_model(self.config),
            max_sessions=gateway.max_sessions,
            processing_timeout_s=gateway.processing_timeout_s,
            clock=asyncio.get_running_loop().time,
        )
        self.link.start(self.pool)
        kept = self.config.voices
        self._reader = ClipReader()
        voices = VoiceStore(kept.dir, per_principal=kept.per_principal, total=kept.total)
        self.returns = Returns(
            self.config.serve.state_dir / "resume",
            secret.key,
            gateway.resume_window_s,
            longest_call_s=gateway.max_session_s,
            from_elsewhere=secret.of_many_hosts,
        )
        self.calls = Calls(
            self.config,
            self.pool,
            self.metrics,
            self._codec_threads,
            self.door,
            self.traces,
            References(voices, self._reader),
            self.returns,
        )
        upgrades = WebSocketUpgrades(gateway, self.calls, self.door, origins)
        app = web.Application(middlewares=[refusals(self.metrics.refused_request, origins), addresses])
        self._siblings: Siblings | None = None
        if self._number is not None:
            self._siblings = Siblings(
                self._number,
                gateway.port,
                self.config.serve.state_dir,
                lambda: readiness(self.pool, self.calls),
                self.metrics.text,
                lambda call: self._offers.end_own(call),
                upgrades.handle,
                self._overview,
                lambda start, end: [asdict(call) for call in self.traces.calls(start, end)],
                self.door.ledger.usage,
            )
        end_elsewhere = None if self._siblings is None else self._siblings.end_call
        self._offers = open_offers(
            self.config.webrtc,
            lambda webrtc: WebRtcOffers(webrtc, self.calls, self.door, origins, self._number or 0, end_elsewhere),
        )
        if self._siblings is not None:
            await self._siblings.start()
        await asyncio.to_thread(self.returns.start, None if self._siblings is None else self._siblings.port)
        app.add_routes(status_routes(self.pool, self.calls, self.metrics, self._siblings))
        app.add_routes(catalogue_routes(self.pool, origins))
        max_upload_bytes = int(kept.max_upload_mb * 1e6)
        on_upload = lambda outcome: self.metrics.uploads.labels(outcome).inc()  # noqa: E731
        app.add_routes(
            VoiceRoutes(self.pool, self.door, voices, self._reader, origins, max_upload_bytes, on_upload).routes()
        )
        app.add_routes(session_routes(upgrades))
        app.add_routes(
            recording_routes(
                self.door, self.recorder, origins, self.metrics.refused_request, is_private=gateway.is_private
            )
        )
        app.add_routes(webrtc_routes(self._offers))
        app.add_routes(report_routes(self.door, self.traces, self._siblings, is_private=gateway.is_private))
        app.add_routes(description_routes())
        app.add_routes(overview_routes(self.door, self._overview, self._siblings, is_private=gateway.is_private))
        app.add_routes(page_routes(self.door, origins, is_private=gateway.is_private))
        log = request_log(self.metrics.refused_request)
        self._runner = web.AppRunner(app, access_log=None, logger=log, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            tls = None if self._certificates is None else self._certificates.context
            shared = self._number is not None
            self._site = web.TCPSite(
                self._runner, gateway.host, gateway.port, ssl_context=tls, reuse_port=shared or None
            )
            await self._site.start()
        except OSError as error:
            await self._close()
            raise ConfigError(f"gateway: cannot listen on {gateway.host}:{gateway.port}: {error.strerror}") from None
        self.port: int = self._runner.addresses[0][1]
        self._state = StateReporter(self.config.serve.state_dir)
        self.recorder.start()
        usage = self.config.serve.state_dir / "usage" / f"{gateway.port}-{self._number or 0}.json"
        self._spent = SpentMinutes(usage, self.door.ledger)
        self._spent.load()
        works = (self._report(), self._watch_files(), self._watch_usage(), watch_lag(self.metrics.lag.observe))
        self._tasks = [asyncio.create_task(work) for work in works]
        logger.info("listening on {}:{}, link on {}:{}", gateway.host, self.port, link.host, self.link.port)
        if gateway.published:
            logger.info("open {}://{}/", "http" if self._certificates is None else "https", gateway.published[0])

    async def stop(self) -> None:
        """Who calls from now on finds another process, or a closed port; sessions get their audio and close 1001; then
        everything else ends."""
        await self._site.stop()
        await asyncio.to_thread(self.returns.beat, leaving=True)
        logger.info("shutting down: {} sessions get their audio", len(self.pool.session_ids()))
        await self.calls.drain(self.config.gateway.shutdown_grace_s)
        await self._offers.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self.recorder.stop)
        await asyncio.to_thread(self._spent.save)
        await self._close()
        self._state.remove()
        logger.info("gone")

    async def _close(self) -> None:
        await self._runner.cleanup()
        await self._reader.stop()
        if self._siblings is not None:
            await self._siblings.stop()
        await self.link.stop()
        await self.pool.stop()
        self._codec_threads.stop()

    async def _watch_usage(self) -> None:
        """What principals take here, for the file, and of the other processes on this port."""
        while True:
            if self._siblings is not None:
                self.door.ledger.elsewhere = await self._siblings.all_usage()
            await asyncio.to_thread(self._spent.save)
            await asyncio.sleep(_WATCH_INTERVAL_S)

    async def _watch_files(self) -> None:
        """Keys and certificates that change while the gateway runs."""
        while True:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            await asyncio.to_thread(self.door.refresh)
            await asyncio.to_thread(self.link.refresh)
            if self._certificates is not None:
                await asyncio.to_thread(self._certificates.refresh)

    async def _report(self) -> None:
        while True:
            await asyncio.to_thread(self._state.write, self._describe())
            await asyncio.to_thread(self.returns.beat)
            await asyncio.sleep(_STATE_INTERVAL_S)

    def _overview(self) -> dict[str, Any]:
        return overview(self._describe(), self.pool, self.calls, self.metrics)

    def _describe(self) -> GatewayState:
        return GatewayState(
            started=self._started,
            host=self.config.gateway.host,
            hostname=net.gethostname(),
            port=self.port,
            link_port=self.link.port,
            sessions=len(self.pool.session_ids()),
            ready=self.pool.free > 0,
            workers=self.pool.describe(),
            session_ids=self.pool.session_ids()[:1000],
            number=self._number or 0,
            own_port=None if self._siblings is None else self._siblings.port,
        )


async def _serve(config: Config, number: int | None) -> None:
    gateway = Gateway(config, number)
    await gateway.start()
    gc.collect()
    gc.freeze()  # what is there now stays; later collections are short
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in stopping_signals():
        loop.add_signal_handler(number, ended.set)
    await ended.wait()
    await gateway.stop()


def run(config: Config, number: int | None = None) -> int:
    """Serve until a signal of `stopping_signals`. Returns the process's exit code; raises `ConfigError`."""
    configure("gateway" if number is None else f"gateway-{number}", config.log)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    uvloop.run(_serve(config, number))
    return 0
