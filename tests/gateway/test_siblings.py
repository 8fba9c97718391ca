"""Expositions of several processes become one that Prometheus reads."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from gateway.metrics import Metrics
from gateway.siblings import labelled


def test_families_stand_together_and_every_sample_says_whose_it_is() -> None:
    first, second = Metrics(), Metrics()
    first.sessions.set(3)
    second.sessions.set(4)
    second.refused.labels('TOO "MANY" {OF} THEM').inc()
    text = labelled({1: second.text(), 0: first.text()}).decode()
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    samples = [sample for family in families for sample in family.samples]
    assert {sample.labels["process"] for sample in samples} == {"0", "1"}
    sessions = {s.labels["process"]: s.value for s in samples if s.name == "fastvc_sessions"}
    assert sessions == {"0": 3, "1": 4}
    (refused,) = [s for s in samples if s.name == "fastvc_sessions_refused_total"]
    assert refused.labels == {"process": "1", "reason": 'TOO "MANY" {OF} THEM'}
