"""Before the first caller: every shape is run once, and what it costs is learnt."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from loguru import logger

from shared.config import ConfigError, WorkerConfig
from worker.buckets import buckets
from worker.serving.cost import CostModel
from worker.serving.plan import Planner
from worker.streaming.pool import OutOfMemory, StreamPool

GROWTH = 2.5  # what a bucket of twice the size may cost, at most


def warm_up(pool: StreamPool, config: WorkerConfig, clock: Callable[[], float] = time.perf_counter) -> Planner:
    """Run batches of every bucket with the fewest and the most steps, which the planner will use first, and make it
    from what they took. What lies between is prepared when it is first met (see ``Engine.prepare``).

    Buckets too large for the device's memory, or for `warm_up_s`, lower `max_batch`. Raises `ConfigError` if there is
    no memory for a single row.
    """
    began = clock()
    cost = CostModel()
    most = config.steps
    fewest = config.fewest_steps if pool.engine.limits.max_steps else most  # a model without a solver has no choice
    counts = sorted({fewest, most})
    largest = min(config.max_batch, pool.max_sessions)
    fits, took_s = 0, 0.0
    for size in sorted({min(bucket, largest) for bucket in buckets(largest)}):
        if fits and GROWTH * took_s > config.warm_up_s - (clock() - began):
            logger.warning("warm-up stops at batches of {}: {} would take too long on {}", fits, size, pool.device)
            break
        bucket_began = clock()
        try:
            for steps in counts:
                cost.measure(size, steps, _time_batch(pool, size, steps, clock))
        except OutOfMemory as error:
            if not fits:
                raise ConfigError(f"worker: {error}: choose a smaller model, or precision bf16") from None
            logger.warning("{}: max_batch is {}", error, fits)
            break
        fits, took_s = size, clock() - bucket_began
    planner = Planner(
        cost,
        max_batch=fits,
        min_steps=fewest,
        max_steps=most,
        block_s=config.block_ms / 1000,
        load_share=config.load_share,
    )
    logger.info(
        "{} on {}: one session takes {:.1f} ms of {} ms, {} take {:.1f} ms; {} can speak at once",
        pool.engine.name,
        pool.device,
        cost.ms(1, most),
        config.block_ms,
        fits,
        cost.ms(fits, most),
        min(pool.max_sessions, planner.capacity),
    )
    if not planner.in_real_time:
        logger.warning(
            "{} on {} is too slow for real time, even for one session at {} steps: much will be concealed; use fewer "
            "steps, a smaller model or another device",
            pool.engine.name,
            pool.device,
            fewest,
        )
    return planner


def _time_batch(pool: StreamPool, size: int, steps: int, clock: Callable[[], float]) -> float:
    """Milliseconds of the second of two batches; the first, and what the engine prepares after it, set up what is set
    up on first use."""
    voice = next(iter(pool.engine.voices))
    noise = np.random.default_rng(0).integers(-3000, 3000, pool.geometry.block_samples_in).astype(np.int16)
    slots = []
    try:
        for _ in range(size):
            slots.append(pool.open(voice))
        pool.listen(slots, [noise] * size)
        pool.convert(slots, steps)
        while pool.engine.prepare(float("inf")):
            pass
        began = clock()
        pool.convert(slots, steps)
        return 1e3 * (clock() - began)
    finally:
        for slot in slots:
            pool.close(slot)
