"""Everything that the service's programs import, in the process that `tests.support.forked` forks them from."""

from __future__ import annotations

import gc
import os
from contextlib import suppress

os.environ["HF_HUB_OFFLINE"] = "1"  # read when its library is imported: nothing that is forked may ask a network

import worker.engines.diffusion.engine
import worker.engines.passthrough
import worker.engines.shift.engine
import worker.engines.v2.engine
import worker.main  # noqa: F401

with suppress(ImportError):
    import aiortc  # noqa: F401

gc.collect()
gc.freeze()  # what is here is not looked through again in any of them
