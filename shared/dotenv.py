"""``.env`` of the working folder: settings that a service and its children find as if they had been exported.

One ``NAME=value`` a line, with or without ``export`` before it and quotes round the value; after a value, `` #`` begins
a comment. Nothing is expanded. The file is shared with other programs, such as docker compose: only names that mean
something here are taken, other lines are passed over, and what the environment has already stays.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from pathlib import Path

from shared.errors import ConfigError

_LINE = re.compile(r"\s*(?:export\s+)?(FASTVC_\w+|HF_\w+)\s*=\s*(.*?)\s*")
_QUOTED = re.compile(r"(['\"])(.*)\1\s*(?:#.*)?")
_COMMENT = re.compile(r"(?:^|\s)#.*")


def read_dotenv(path: Path, environ: MutableMapping[str, str]) -> list[str]:
    """Add to `environ` what `path` sets and it does not; the names. No file: nothing. Raises `ConfigError`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    found = [match.groups() for line in lines if (match := _LINE.fullmatch(line))]
    added = {name: _value(text) for name, text in found if name not in environ}  # the last line of a name counts
    environ.update(added)
    return list(added)


def _value(text: str) -> str:
    quoted = _QUOTED.fullmatch(text)
    return quoted[2] if quoted else _COMMENT.sub("", text).strip()
