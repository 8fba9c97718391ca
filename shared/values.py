"""Kinds of values that the configuration's keys have."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

Port = Annotated[int, Field(ge=0, le=65_535)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
UnitMs = Annotated[int, Field(ge=20, le=10_000, multiple_of=20)]
Device = Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")]

_HOST = r"\[[0-9A-Fa-f:.]+\]|[\w.-]+"
_ORIGIN = re.compile(rf"\*|null|[a-z][a-z0-9+.-]*://({_HOST})(:\d{{1,5}})?/?", re.ASCII | re.IGNORECASE)


def _check_origin(text: str) -> str:
    if not _ORIGIN.fullmatch(text):
        allowed = 'must be scheme://host[:port], as https://app.example, "null" (a page from a file) or "*" (all)'
        raise PydanticCustomError("origin", allowed)
    return text


def _check_loopback(value: Any, as_usual: ValidatorFunctionWrapHandler) -> Any:
    try:
        return as_usual(value)
    except ValidationError:
        raise PydanticCustomError("loopback", "must be true, false or loopback") from None


Origin = Annotated[str, AfterValidator(_check_origin)]
Loopback = Annotated[bool | Literal["loopback"], WrapValidator(_check_loopback)]
