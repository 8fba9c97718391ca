"""Logging with loguru: one line an event, with the session it belongs to, to stderr and to a rotated file."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from loguru import logger

from shared.config import LogConfig

if TYPE_CHECKING:
    from loguru import Logger, Record

_LINE = "{time:YYYY-MM-DD HH:mm:ss.SSS} {level: <7} {extra[role]} {extra[session_id]} {message}"


def configure(role: str, config: LogConfig, *, to_file: bool = True) -> None:
    """Send this process's log to stderr and to ``DIR/ROLE.log``; rotated at `max_file_mb`, `keep_files` kept."""
    logger.remove()
    logger.configure(extra={"role": role, "session_id": "-"})
    logger.add(sys.stderr, format=_LINE, level=config.level, backtrace=False, diagnose=False)
    if to_file:
        config.dir.mkdir(parents=True, exist_ok=True)
        logger.add(
            config.dir / f"{role}.log",
            format=_LINE,
            level=config.level,
            rotation=config.max_file_mb * 1_000_000,
            retention=config.keep_files,
            enqueue=True,  # a slow disk never blocks the event loop
            backtrace=False,
            diagnose=False,
        )
    logging.basicConfig(handlers=[_Intercept()], level=logging.WARNING, force=True)


def for_session(session_id: str) -> Logger:
    """A logger whose lines carry `session_id`."""
    return logger.bind(session_id=session_id)


class _Intercept(logging.Handler):
    """Lines of libraries that use the standard module."""

    def emit(self, record: logging.LogRecord) -> None:
        def patch(entry: Record) -> None:
            entry["name"] = record.name

        level = record.levelname if record.levelname in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL") else "INFO"
        logger.patch(patch).opt(exception=record.exc_info).log(level, record.getMessage())
