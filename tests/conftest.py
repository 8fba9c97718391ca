"""What holds for every test."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# neither how long an example takes nor how long it takes to think of one says anything on a busy machine
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
