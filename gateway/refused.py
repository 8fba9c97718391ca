"""HTTP requests that are refused: each answer is JSON with an error code, each is counted, none is quoted in a log.

aiohttp has words of its own for what no route takes and for what is no request at all. Those of the first kind are put
into ours; those of the second quote the line that is wrong, which may hold a credential: the log has their kind alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.typedefs import Handler, Middleware

from gateway.auth.requests import failure
from gateway.errors import ErrorCode
from gateway.origins import Origins

Count = Callable[[int, ErrorCode], None]  # of a status and an error code
_JSON = "application/json"


def refusals(count: Count, origins: Origins) -> Middleware:
    """The outermost middleware. Pages of other sites that may call may read why they are refused."""

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            response = await handler(request)
        except web.HTTPException as error:
            if error.status >= 400:
                if error.content_type != _JSON:
                    error.text, error.content_type = _in_our_words(error), _JSON
                error.headers.update(origins.headers(request))
                _count(count, error)
            raise
        except (web.RequestPayloadError, HttpProcessingError):
            count(400, "INVALID_CONFIG")
            message = "the body is not what its Content-Encoding says"
            raise failure(400, "INVALID_CONFIG", message, origins.headers(request)) from None
        if response.status >= 400 and isinstance(response, web.Response):
            _count(count, response)
        return response

    return answer


def request_log(count: Count) -> logging.Logger:
    """For the server: bytes that are no request cost a line without a word of theirs, and so does who hangs up."""
    log = logging.Logger("gateway.http")
    log.parent, log.propagate = logging.getLogger(), True

    def disarm(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError | web.RequestPayloadError | ConnectionError):
            record.levelno, record.levelname, record.exc_info = logging.WARNING, "WARNING", None
            record.msg, record.args = f"{record.msg}: {type(error).__name__}", record.args
            if isinstance(error, HttpProcessingError):  # the other is of a body whose request was answered, and counted
                count(error.code, "INVALID_CONFIG")
        return True

    log.addFilter(disarm)
    return log


def _in_our_words(error: web.HTTPException) -> str:
    message = (error.text or error.reason).removeprefix(f"{error.status}: ")
    return json.dumps({"error_code": "INVALID_CONFIG", "message": message})


def _count(count: Count, response: web.Response) -> None:
    """What says why it refuses; other answers (of `/ready`) are none."""
    if response.content_type != _JSON:
        return
    try:
        code: ErrorCode = json.loads(response.text or "")["error_code"]
    except (ValueError, KeyError, TypeError):
        return
    count(response.status, code)
