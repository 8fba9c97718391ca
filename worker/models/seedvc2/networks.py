"""Every published network that Seed-VC V2 adds to those of the first models, by name."""

from __future__ import annotations

from collections.abc import Mapping

from worker.models.seedvc2 import ar, astral, dit, hubert, regulator
from worker.models.weights.published import PublishedNetwork

NETWORKS: Mapping[str, PublishedNetwork] = {
    network.name: network
    for network in (
        hubert.HUBERT,
        astral.ASTRAL_WIDE,
        astral.ASTRAL_NARROW,
        dit.CFM_V2,
        regulator.REGULATOR_V2,
        ar.AR_V2,
        regulator.REGULATOR_AR_V2,
    )
}
