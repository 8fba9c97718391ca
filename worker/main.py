"""A worker process: engine, scheduler, link; from start-up to a polite end."""

from __future__ import annotations

import gc
import os
import signal
import socket as net
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from loguru import logger

from shared.config import Config, ConfigError, WorkerConfig, resolve
from shared.link import SWITCH_INTERVAL_S, check_plain, load_keys, parse_endpoint
from shared.log import configure
from shared.messages import PROTOCOL_VERSION, Hello, VoiceInfo
from shared.state import remove_state, write_state
from worker.engine import Engine
from worker.geometry import INPUT_RATE, Geometry
from worker.link import WorkerLink
from worker.passthrough import PassthroughEngine
from worker.scheduler import Scheduler
from worker.shift import ShiftEngine
from worker.streams import StreamPool
from worker.vad import EnergyGate
from worker.voices import VoiceError, list_voices


def make_engine(config: WorkerConfig, device: str) -> Engine:
    """The configured model. Raises `ConfigError` with what to do."""
    try:
        geometry = Geometry.from_ms(
            block_ms=config.block_ms,
            left_ms=config.left_ms,
            crossfade_ms=config.crossfade_ms,
            search_ms=config.search_ms,
            right_ms=config.right_ms,
        )
        if config.model == "passthrough":
            return PassthroughEngine(geometry)
        voices = list_voices(resolve(config.voices_dir))
        return ShiftEngine(
            voices, config.max_sessions, geometry=geometry, device=device, max_prompt_s=config.max_prompt_s
        )
    except (VoiceError, ValueError) as error:
        raise ConfigError(f"worker: {error}") from None


def check_device(device: str) -> None:
    """Raises `ConfigError` for a CUDA device that is not there."""
    if device == "cpu":
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = int(device.partition(":")[2] or 0)
    if index >= count:
        found = f"{count} CUDA devices" if count else "no CUDA device"
        raise ConfigError(f"worker.device: {device} is not there, this host has {found}; use --device cpu")


def warm_up(pool: StreamPool, sizes: tuple[int, ...]) -> float:
    """Run batches of `sizes` once with noise, so that the first caller waits for nothing; milliseconds of the last."""
    voice = next(iter(pool.engine.voices))
    took_ms = 0.0
    for size in sorted({min(size, pool.max_sessions) for size in sizes}):
        slots = [pool.open(voice) for _ in range(size)]
        noise = np.random.default_rng(0).integers(-3000, 3000, pool.geometry.block_samples_in).astype(np.int16)
        for _ in range(2):
            began = time.perf_counter()
            pool.step(slots, [noise] * size)
            took_ms = (time.perf_counter() - began) * 1000
        for slot in slots:
            pool.close(slot)
    return took_ms


class Worker:
    """One model, one link, many sessions."""

    def __init__(self, config: Config, gateways: list[str], device: str, worker_id: str) -> None:
        """Raises `ConfigError` for whatever is wrong with the configuration."""
        for endpoint in gateways:
            check_plain(parse_endpoint(endpoint)[0], config.link)
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
            gate=EnergyGate(settings.max_sessions, threshold_dbfs=settings.silence_dbfs),
        )
        took_ms = warm_up(pool, (1, settings.max_batch))
        logger.info("{} on {}: a full batch takes {:.1f} ms of {} ms", engine.name, device, took_ms, settings.block_ms)
        self._hello = self._introduce(engine)
        self._link = WorkerLink(gateways, self._hello, keys, settings.stuck_after_s, self._write_state)
        self._scheduler = Scheduler(pool, self._link.reply, max_batch=settings.max_batch, steps=settings.steps)
        self._started = time.time()
        self._signals = 0

    def run(self) -> int:
        """Serve until a signal; then until the last session is gone, or the grace is over."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._on_signal())
        gc.collect()
        gc.freeze()  # torch's many objects stay out of later collections, which would pause every session
        self._link.start(self._scheduler)
        while not self._signals:
            self._scheduler.turn()
        logger.info("leaving: {} sessions", self._scheduler.sessions)
        self._link.say_goodbye("the worker stops")
        end = time.monotonic() + self._config.gateway.shutdown_grace_s
        while self._scheduler.sessions and time.monotonic() < end:
            self._scheduler.turn()
        self._link.stop()
        remove_state(self._config.serve.state_dir, self._state_name)
        logger.info("gone")
        return 0

    def _on_signal(self) -> None:
        self._signals += 1
        if self._signals > 1:
            os._exit(1)

    def _introduce(self, engine: Engine) -> Hello:
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
            capacity=self._config.worker.max_sessions,
        )

    @property
    def _state_name(self) -> str:
        return f"worker-{os.getpid()}.json"

    def _write_state(self) -> None:
        state = {
            "role": "worker",
            "worker_id": self._worker_id,
            "pid": os.getpid(),
            "host": self._hello.host,
            "port": None,
            "gateways": self._gateways,
            "device": self._device,
            "model": self._hello.model,
            "sessions": self._scheduler.sessions,
            "capacity": self._hello.capacity,
            "started": self._started,
        }
        with suppress(OSError):  # a full disk stops no call
            write_state(self._config.serve.state_dir, self._state_name, state)


def run(config: Config, gateways: list[str], device: str | None = None, worker_id: str | None = None) -> int:
    """Serve `gateways` until SIGTERM or SIGINT. Returns the exit code; raises `ConfigError`."""
    worker_id = worker_id or f"{net.gethostname()}-{os.getpid()}"
    name = Path(worker_id).name  # it becomes a file's name
    configure(name if name.startswith("worker") else f"worker-{name}", config.log)
    torch.set_num_threads(config.worker.threads)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return Worker(config, gateways, device or config.worker.device, worker_id).run()
