"""Logging with loguru: one line an event, with the session it belongs to, to the console and to a rotated file.

The console's line is text on stderr, or with ``log.format: json`` one JSON object on stdout, which is what collectors
of containers' logs read.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from typing import TYPE_CHECKING

from loguru import logger

from shared.settings import LogConfig

if TYPE_CHECKING:
    from loguru import Logger, Message, Record

_LINE = "{time:YYYY-MM-DD HH:mm:ss.SSS} {level: <7} {extra[role]} {extra[session_id]} {message}"


def configure(role: str, config: LogConfig, *, to_file: bool = True) -> None:
    """Send this process's log to the console and to ``DIR/ROLE.log``; rotated at `max_file_mb`, `keep_files` kept.

    A folder that cannot be written costs the file, not the service.
    """
    logger.remove()
    logger.configure(extra={"role": role, "session_id": "-"})
    if config.format == "json":
        logger.add(_to_stdout, level=config.level, backtrace=False, diagnose=False)
    else:
        logger.add(sys.stderr, format=_LINE, level=config.level, backtrace=False, diagnose=False)
    if to_file and config.to_file:
        try:
            config.dir.mkdir(parents=True, exist_ok=True)
            _add_file(role, config)
        except OSError as error:
            logger.warning("log.dir: {}: {}; no log file is written", config.dir, error.strerror)
    logging.basicConfig(handlers=[_Intercept()], level=logging.WARNING, force=True)


def _add_file(role: str, config: LogConfig) -> None:
    path = config.dir / f"{role}.log"
    handler = _File(path, maxBytes=config.max_file_mb * 1_000_000, backupCount=config.keep_files, encoding="utf-8")
    # enqueue: a slow disk never blocks the event loop
    logger.add(handler, format=_LINE, level=config.level, enqueue=True, backtrace=False, diagnose=False)


class _File(RotatingFileHandler):
    """A file on a disk that may be full: the first failure in a row is said on stderr, and lines go on coming there."""

    failed = False
    error: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        failed, self.failed = self.failed, False
        super().emit(record)  # calls `handleError` where it cannot write
        if self.failed and not failed:
            # in one write: another thread's line may come between two
            sys.stderr.write(f"log.dir: {self.baseFilename}: {self.error}; it goes on here alone\n")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802: the standard library's name
        self.failed, self.error = True, sys.exc_info()[1]
        if self.stream is not None:
            with suppress(OSError, ValueError):
                self.stream.close()
            self.stream = None  # opened again for the next line


def as_json(record: Record) -> str:
    """One line: time (ISO 8601 with zone), level, role, session_id, message, and the exception if there is one."""
    line = {
        "time": record["time"].isoformat(timespec="milliseconds"),
        "level": record["level"].name,
        "role": record["extra"]["role"],
        "session_id": record["extra"]["session_id"],
        "message": record["message"],
    }
    if (error := record["exception"]) is not None:
        line["exception"] = "".join(traceback.format_exception(error.type, error.value, error.traceback))
    return json.dumps(line, ensure_ascii=False)


def _to_stdout(message: Message) -> None:
    sys.stdout.write(as_json(message.record) + "\n")
    sys.stdout.flush()


def for_session(session_id: str) -> Logger:
    """A logger whose lines carry `session_id`; what callers put into one cannot break a line."""
    shown = session_id if session_id.isprintable() else session_id.encode("unicode_escape").decode()
    return logger.bind(session_id=shown)


class _Intercept(logging.Handler):
    """Lines of libraries that use the standard module."""

    def emit(self, record: logging.LogRecord) -> None:
        def patch(entry: Record) -> None:
            entry["name"] = record.name

        level = record.levelname if record.levelname in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL") else "INFO"
        logger.patch(patch).opt(exception=record.exc_info).log(level, record.getMessage())
