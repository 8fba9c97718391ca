"""The recorder's figures for `/metrics`, read when somebody asks."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.recording.folder import Backlog


class RecorderFigures(Collector):
    """A collector for the gateway's registry."""

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog

    def collect(self) -> Iterator[Metric]:
        backlog = self._backlog
        yield GaugeMetricFamily(
            "fastvc_recorder_backlog_bytes", "Handed over to the recorder and not written yet", backlog.bytes
        )
        counts = {
            "fastvc_recorder_written_bytes": ("Recorded, before compression", backlog.written_bytes),
            "fastvc_recorder_dropped_bytes": ("Not recorded: the disk was too slow", backlog.dropped_bytes),
            "fastvc_recordings_failed": ("Recordings that the disk ended", backlog.failed),
        }
        for name, (text, value) in counts.items():
            yield CounterMetricFamily(name, text, value)
