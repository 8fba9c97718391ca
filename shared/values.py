"""Kinds of values that the configuration's keys have."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

Port = Annotated[int, Field(ge=0, le=65_535)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
UnitMs = Annotated[int, Field(ge=20, le=10_000, multiple_of=20)]


def _matching(pattern: str, allowed: str) -> AfterValidator:
    """Of a text: all of it is as `pattern`; else the error says what is `allowed`."""
    whole = re.compile(pattern, re.ASCII)

    def check(text: str) -> str:
        if not whole.fullmatch(text):
            raise PydanticCustomError("not_allowed", "must be {allowed}", {"allowed": allowed})
        return text

    return AfterValidator(check)


def _check_loopback(value: Any, as_usual: ValidatorFunctionWrapHandler) -> Any:
    try:
        return as_usual(value)
    except ValidationError:
        raise PydanticCustomError("loopback", "must be true, false or loopback") from None


_HOST = r"(\[[0-9a-f:.]+\]|[\w.-]+)"
_ORIGIN = 'scheme://host[:port], as https://app.example, "null" (a page from a file) or "*" (all)'
Origin = Annotated[str, _matching(rf"(?i:\*|null|[a-z][a-z0-9+.-]*://{_HOST}(:\d{{1,5}})?/?)", _ORIGIN)]
Device = Annotated[str, _matching(r"cpu|cuda(:\d+)?", "cpu, cuda or cuda:NUMBER")]
Published = Annotated[str, _matching(r"\S+:\d{1,5}", "HOST:PORT")]
IceUrl = Annotated[str, _matching(r"(stun|turns?):\S+", "stun:HOST[:PORT], turn:HOST[:PORT] or turns:HOST[:PORT]")]
Loopback = Annotated[bool | Literal["loopback"], WrapValidator(_check_loopback)]
