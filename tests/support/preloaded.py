"""Everything that the service's programs import. Who forks them imports this: what `tests.support.forked` forks has
it then, and imports nothing again."""

from __future__ import annotations

from contextlib import suppress

import worker.engines.diffusion.engine
import worker.engines.passthrough
import worker.engines.shift.engine
import worker.engines.v2.engine
import worker.main  # noqa: F401

with suppress(ImportError):
    import aiortc  # noqa: F401
