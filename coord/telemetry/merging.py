"""Several processes' metrics as one page.

Every series gets the label `process`, nothing is added up: a counter of one process that was
started again begins at 0 while the others go on, and only Prometheus, which sees each series
by itself, can tell that from a sum that fell.  A process that does not answer is not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

LABEL: Final = "process"


def merged(pages: Mapping[str, str]) -> bytes:
    """One page in Prometheus's text format out of several: process → its page."""
    registry = CollectorRegistry()
    registry.register(_Families(pages))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, pages: Mapping[str, str]) -> None:
        self._families: dict[str, Metric] = {}
        for process, page in pages.items():
            for family in text_string_to_metric_families(page):
                known = self._families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type, family.unit)
                )
                for sample in family.samples:
                    known.add_sample(sample.name, {LABEL: process, **sample.labels}, sample.value, sample.timestamp)

    def collect(self) -> Iterable[Metric]:
        return self._families.values()
