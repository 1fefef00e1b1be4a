"""What of the named questions a fleet may ask, what evicts their answers, and what their parameters may be."""

from __future__ import annotations

import re

import pytest

from coord import errors, limits
from coord.client.querying import Querying
from coord.core.eviction import TagRules, depends_on
from coord.query import catalogue
from coord.query.http import _AFTER, _MIN, _ROWS
from coord.runtime.assets import sql_dir
from coord.store import queries, rollup_files
from coord.wire import subjects

_VIEW = re.compile(r"coord\.v_\w+")


def test_what_is_about_the_deployment_is_not_asked_by_a_fleet() -> None:
    missing = queries.all_queries().keys() - catalogue.questions().keys()
    assert missing >= {"storage", "disk_full", "projection_lag", "dead_letter"}
    assert all("tenant" not in queries.get(name).parameters for name in missing - {"latency_committed"})
    with pytest.raises(errors.UnknownQuestion):
        catalogue.get("storage")


@pytest.mark.parametrize("name", list(catalogue.questions()))
def test_a_question_reads_the_rows_of_its_fleet_alone(name: str) -> None:
    sql = re.sub(r"--[^\n]*", "", catalogue.get(name).query.sql)
    own = re.findall(r"\(SELECT \* FROM coord\.v_\w+ WHERE tenant = :'tenant'\)", sql)
    assert len(own) == len(_VIEW.findall(sql)) > 0


def test_nothing_that_only_looks_like_a_view_is_taken_for_one() -> None:
    sql = (
        "-- One.\n-- :tenant whose\nSELECT 'coord.v_task', coord.v_of(x.a)"
        " FROM coord.v_task AS x WHERE x.tenant = :'tenant' -- coord.v_lock"
    )
    assert queries.parse("q", sql).relations == {"v_task"}
    assert queries.parse("q", sql).of_its_tenant().sql.count("WHERE tenant = :'tenant'") == 1
    of_another = sql.replace(":tenant", ":other").replace("'tenant'", "'other'")
    for other in (sql.replace("coord.v_task AS", "coord.task AS"), of_another):
        with pytest.raises(errors.QueryError, match="not about one fleet"):
            queries.parse("q", other).of_its_tenant()


@pytest.mark.parametrize(
    ("name", "params", "tags"),
    [
        ("task", {"id": "t1"}, ("key:t1",)),
        ("task", {"id": "t1", "key": "wf"}, ("key:wf",)),
        ("agent", {"id": "a1"}, ("key:a1",)),
        ("history", {"key": "k"}, ("key:k",)),
        ("flag", {"id": "f"}, ("key:flags",)),
        ("workflow_steps", {"key": "wf"}, ("key:wf",)),
        ("tasks", {}, ("kind:task",)),
        ("flags", {}, ("kind:flag",)),
        ("workflows", {}, ("kind:workflow", "kind:task")),
        ("facts", {}, ("any",)),
    ],
)
def test_tags(name: str, params: dict[str, str], tags: tuple[str, ...]) -> None:
    question = catalogue.get(name)
    assert question.tags(question.bind("acme", params)) == tags


def test_every_fact_touches_what_depends_on_any() -> None:
    assert catalogue.ANY in TagRules(catalogue.RULES).touched({"kind:note", "note:n1", "key:k"})
    assert all(depends_on(catalogue.ANY, (subjects.EVENTS, p)) for p in range(limits.PARTITIONS))


def test_what_no_notice_tells_of_is_kept_for_seconds() -> None:
    """Views of telemetry, by their files: a new one must not be forgotten."""
    rollups = [p.stem for p in (sql_dir() / "rollups").glob("*.sql")]
    of_telemetry = {
        f"v_{name}_{level}"
        for name in rollups
        for level in ("1h", "1d")
        if "FROM coord.metric_sample" in (sql_dir() / "rollups" / f"{name}.sql").read_text()
    }
    read = {view for q in catalogue.questions().values() for view in queries.get(q.name).relations}
    for name, question in catalogue.questions().items():
        if queries.get(name).relations & (of_telemetry | {"v_metric_sample", "v_dead_letter"}):
            assert question.moving, name
    assert of_telemetry & read
    assert rollup_files.LEVELS[1:] == ("1h", "1d")
    for name in ("agents", "tasks", "waiting", "task"):  # seconds until now
        assert catalogue.get(name).ttl_s == limits.QUERY_MOVING_TTL_S
    assert catalogue.get("history").ttl_s == limits.QUERY_TTL_S


def test_views_that_show_entities_read_no_other_table() -> None:
    """A view that learns to read more than its kinds' tables needs wider tags."""
    table_of = {"agent_registry": "agent"}
    for view, kinds in catalogue._KINDS.items():
        sql = (sql_dir() / "views" / f"{view}.sql").read_text()
        sql = sql[: sql.index("COMMENT ON")]
        tables = set(re.findall(r"(?:FROM|JOIN) coord\.(\w+)", sql))
        assert {table_of.get(t, t) for t in tables} <= set(kinds), view


def test_equal_questions_have_equal_values() -> None:
    question = catalogue.get("recent_events")
    one = question.bind("acme", {"since": "2026-11-21T10:00:00Z", "limit": 20, "until": None})
    assert one == question.bind("acme", {"since": "2026-11-21T12:00:00+02:00", "limit": "+20"})
    assert one == question.bind("acme", {"since": "2026-11-21T10:00"})
    assert one != question.bind("other", {"since": "2026-11-21T10:00:00Z", "limit": 20})


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("tasks", {"limit": "9" * 19}),
        ("tasks", {"limit": 1.5}),
        ("tasks", {"since": "yesterday"}),
        ("tasks", {"since": "0001-01-01T00:00:00+23:00"}),
        ("sla_kept", {"wait_s": float("inf")}),
        ("sla_kept", {"wait_s": "one"}),
        ("tasks", {"status": "\ud800"}),
        ("tasks", {"status": "a\0"}),
        ("tasks", {"tenant": "acme"}),
        ("tasks", {"": 1}),
        ("task", {"id": "Not a Token"}),
        ("history", {"key": "x" * 65}),
    ],
)
def test_what_is_no_value_is_refused(name: str, params: dict[str, str | float]) -> None:
    with pytest.raises(errors.QueryError):
        catalogue.get(name).bind("acme", params)


def test_no_question_has_a_parameter_that_means_something_else() -> None:
    own = set(Querying.__call__.__kwdefaults__ or ()) | {_ROWS, _AFTER, *_MIN}
    for question in catalogue.questions().values():
        assert not own & question.query.parameters.keys(), question.name
