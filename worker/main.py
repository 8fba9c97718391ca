"""A worker process: engine, scheduler, link; from start-up to a polite end."""

from __future__ import annotations

import gc
import os
import signal
import socket as net
import sys
import time
from pathlib import Path

import torch
from loguru import logger

from shared.config import Config, ConfigError
from shared.curve import load_keys
from shared.link import SWITCH_INTERVAL_S
from shared.log import configure
from shared.messages import PROTOCOL_VERSION, Hello, VoiceInfo
from shared.state import StateReporter, WorkerState
from shared.stopping import stopping_signals
from worker.engine import Engine
from worker.factory import make_engine, make_gate
from worker.geometry import INPUT_RATE
from worker.serving.link import WorkerLink
from worker.serving.scheduler import Scheduler
from worker.serving.warmup import warm_up
from worker.streaming.pool import StreamPool


def check_device(device: str) -> None:
    """Raises `ConfigError` for a CUDA device that is not there."""
    if device == "cpu":
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = int(device.partition(":")[2] or 0)
    if index >= count:
        found = f"{count} CUDA devices" if count else "no CUDA device"
        raise ConfigError(f"worker.device: {device} is not there, this host has {found}; use --device cpu")


class Worker:
    """One model, one link, many sessions."""

    def __init__(self, config: Config, gateways: list[str], device: str, worker_id: str) -> None:
        """Raises `ConfigError` for whatever is wrong with the configuration."""
        keys = load_keys(config.link, need_server=True)
        check_device(device)
        self._config = config
        self._gateways, self._device, self._worker_id = gateways, device, worker_id
        settings = config.worker
        engine = make_engine(settings, device)
        pool = StreamPool(
            engine,
            settings.max_sessions,
            device=device,
            rms_mix_rate=settings.rms_mix_rate,
            gate=make_gate(settings, device),
        )
        planner = warm_up(pool, settings)
        self._hello = self._introduce(engine, min(settings.max_sessions, planner.capacity))
        self._link = WorkerLink(gateways, self._hello, keys, settings.stuck_after_s, self._write_state)
        self._scheduler = Scheduler(pool, self._link.reply, planner, gather_s=settings.gather_ms / 1000)
        self._started = time.time()
        self._state = StateReporter(config.serve.state_dir)
        self._signals = 0

    def run(self) -> int:
        """Serve until a signal; then until the last session has another worker or is over, or the grace is."""
        for number in stopping_signals():
            signal.signal(number, lambda number, _: self._on_signal(number))
        gc.collect()
        gc.freeze()  # torch's many objects stay out of later collections, which would pause every session
        self._link.start(self._scheduler)
        while not self._signals:
            self._scheduler.turn()
        logger.info("leaving: {} sessions", self._scheduler.sessions)
        self._link.say_goodbye("the worker stops")
        end = time.monotonic() + self._config.worker.shutdown_grace_s
        while self._scheduler.sessions and time.monotonic() < end:
            self._scheduler.turn()
        if self._scheduler.sessions:
            logger.warning("the grace is over: {} sessions are left without a worker", self._scheduler.sessions)
        self._link.stop()
        self._state.remove()
        logger.info("gone")
        return 0

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGHUP and self._signals:
            return  # of a terminal it may come twice
        self._signals += 1
        if self._signals > 1:
            os._exit(1)

    def _introduce(self, engine: Engine, capacity: int) -> Hello:
        geometry = engine.geometry
        return Hello(
            protocol=PROTOCOL_VERSION,
            worker_id=self._worker_id,
            host=net.gethostname(),
            pid=os.getpid(),
            device=self._device,
            model=engine.name,
            block_ms=geometry.block_ms,
            delay_ms=geometry.delay_ms,
            history_ms=-(-geometry.history_samples * 1000 // INPUT_RATE),
            sample_rate_out=geometry.output_rate,
            voices=[VoiceInfo(name, description) for name, description in engine.voices.items()],
            capacity=capacity,
            reference_ms=round(1000 * engine.guest_prompt_s),
            options={name: [low, high] for name, (low, high) in engine.limits.bounds.items()},
        )

    def _write_state(self) -> None:
        self._state.write(
            WorkerState(
                started=self._started,
                host=self._hello.host,
                worker_id=self._worker_id,
                gateways=self._gateways,
                device=self._device,
                model=self._hello.model,
                sessions=self._scheduler.sessions,
                capacity=self._scheduler.capacity,
                connected=self._link.connected,
                stuck=self._link.is_stuck,
            )
        )


def run(config: Config, gateways: list[str], device: str | None = None, worker_id: str | None = None) -> int:
    """Serve `gateways` until a signal of `stopping_signals`. Returns the exit code; raises `ConfigError`."""
    worker_id = worker_id or f"{net.gethostname()}-{os.getpid()}"
    name = Path(worker_id).name  # it becomes a file's name
    configure(name if name.startswith("worker") else f"worker-{name}", config.log)
    torch.set_num_threads(config.worker.threads)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return Worker(config, gateways, device or config.worker.device, worker_id).run()
