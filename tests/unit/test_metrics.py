"""Metric names: the rules every one of them keeps, and that none is declared and never set."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.metrics import MetricWrapperBase

from coord.telemetry import metrics

FORBIDDEN_LABELS = {"agent", "agent_id", "task", "task_id", "tenant", "subject", "key", "id", "partition", "url"}


def families() -> dict[str, MetricWrapperBase]:
    made = metrics.Metrics(CollectorRegistry())
    return {name: value for name, value in vars(made).items() if isinstance(value, MetricWrapperBase)}


@pytest.mark.parametrize(("attribute", "family"), families().items())
def test_names_units_help_and_labels(attribute: str, family: MetricWrapperBase) -> None:
    described = next(iter(family.describe()))
    assert re.fullmatch(r"coord_[a-z][a-z_]*", described.name)
    assert described.documentation
    assert not described.documentation.endswith(".")
    assert not FORBIDDEN_LABELS & set(family._labelnames)
    if isinstance(family, Histogram):
        assert described.name.endswith(("_seconds", "_messages", "_rows"))
    else:
        assert not re.search(r"_(ms|us|ns|kb|mb)$", described.name)


def test_registries_are_private() -> None:
    one, other = metrics.Metrics(CollectorRegistry()), metrics.Metrics(CollectorRegistry())
    one.events_published.labels(stream="EVENTS").inc(3)
    assert one.registry.get_sample_value("coord_events_published_total", {"stream": "EVENTS"}) == 3
    assert other.registry.get_sample_value("coord_events_published_total", {"stream": "EVENTS"}) is None


def test_the_default_is_made_once() -> None:
    assert metrics.default() is metrics.default()


def test_the_build_is_shown() -> None:
    made = metrics.Metrics(CollectorRegistry())
    made.set_build("1.2.3")
    assert b'coord_build_info{python="' in generate_latest(made.registry)
    assert b'version="1.2.3"} 1.0' in generate_latest(made.registry)


@given(st.lists(st.floats(min_value=0, max_value=100_000, allow_nan=False)))
def test_observing_many_is_observing_each(values: list[float]) -> None:
    registry = CollectorRegistry()
    one = Histogram("one_seconds", "…", buckets=metrics.LATENCY_BUCKETS_S, registry=registry)
    many = Histogram("many_seconds", "…", buckets=metrics.LATENCY_BUCKETS_S, registry=registry)
    for value in values:
        one.observe(value)
    metrics.observe_many(many, values)
    ours = {s.name.removeprefix("many") + str(s.labels): s.value for f in many.collect() for s in f.samples}
    theirs = {s.name.removeprefix("one") + str(s.labels): s.value for f in one.collect() for s in f.samples}
    created = [k for k in ours if "created" in k]
    for key in created:
        ours.pop(key)
        theirs.pop(key)
    assert ours == pytest.approx(theirs)


def test_every_metric_is_set_somewhere() -> None:
    """A metric that is declared and never set shows a zero that means nothing."""
    root = Path(metrics.__file__).parents[1]
    source = "\n".join(
        path.read_text(encoding="utf-8") for path in root.rglob("*.py") if path.name != Path(metrics.__file__).name
    )
    unused = [name for name in families() if not re.search(rf"\.{name}\b", source)]
    own = Path(metrics.__file__).read_text(encoding="utf-8")
    unused = [name for name in unused if f"self.{name}.labels" not in own]
    assert unused == []
