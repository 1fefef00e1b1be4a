"""What a type checker knows of the SDK: mypy reads `known`, nothing runs it."""

from __future__ import annotations

import inspect
import typing
from typing import Any, assert_type

import msgspec

import coord
from coord import errors
from coord.client.submit_options import SubmitOptions
from coord.client.submits import Submits
from coord.client.task_handle import TaskHandle
from coord.client.workflows import WorkflowHandle


class Summary(msgspec.Struct):
    words: int


async def known(c: coord.Coord, flow: coord.Workflow) -> None:
    """A result is of the type that was given as `returns`, and Any without."""
    assert_type(await (await c.submit("sum", 1, returns=Summary, retries=2)).result(), Summary)
    assert_type(await c.submit("sum", 1), TaskHandle[Any])
    assert_type(await (await c.submit("sum", returns=Summary | None)).result(), Any)
    assert_type(await c.submit_many("sum", [1], returns=list[int]), list[TaskHandle[list[int]]])
    several = await c.submit_many("sum", [1], returns=int, return_errors=True)
    assert_type(several, list[TaskHandle[int] | errors.CoordError])
    await c.submit_many("sum", [1], retires=2)  # type: ignore[call-overload]  # a name that is no option's
    assert_type(c.task("id", returns=str), TaskHandle[str])
    assert_type(await c.start_workflow(flow, returns=int), WorkflowHandle[int])
    assert_type(await c.run_workflow(flow, 1, returns=int, timeout_s=2.0), int)
    assert_type(await c.rerun_workflow("id", returns=int), WorkflowHandle[int])
    assert_type(c.workflow("id"), WorkflowHandle[Any])


def test_a_type_checker_is_told_all_options_of_a_submission() -> None:
    taken = inspect.signature(Submits.submit).parameters
    given = {name for name, one in taken.items() if one.kind is one.KEYWORD_ONLY} - {"id", "returns"}
    assert given == set(typing.get_type_hints(SubmitOptions))
