"""Foreign names: always a token, always the same, and never two names as one."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord.ops.replay import places
from coord.ops.replay.names import NameRefused, Names, token_of
from coord.wire import subjects

names = st.text(min_size=1).filter(lambda name: name.strip()) | st.from_regex(
    r"[A-Za-z_ ]{1,80}", fullmatch=True
).filter(lambda name: name.strip())


@given(names)
def test_every_name_has_a_token_that_anybody_may_speak_under(name: str) -> None:
    token = token_of(name)
    assert subjects.check_token(token, "agent") == token
    assert not subjects.is_decider(token)
    assert token_of(name) == token


@given(st.from_regex(r"[a-z0-9]([a-z0-9_-]{0,40}[a-z0-9])?", fullmatch=True).filter(lambda t: "--" not in t))
def test_a_plain_token_stays_itself(token: str) -> None:
    assert token_of(token) == token


@given(st.lists(names, max_size=30))
def test_one_token_stands_for_one_name(given_names: list[str]) -> None:
    known = Names("agent")
    stands_for: dict[str, str] = {}
    for line, name in enumerate(given_names, 1):
        token = token_of(name)
        if stands_for.setdefault(token, name) == name:
            assert known.token(name, line) == token
        else:
            with pytest.raises(NameRefused, match=re.escape(repr(name))):
                known.token(name, line)


@given(st.lists(names, min_size=4, max_size=10, unique_by=token_of))
def test_names_beyond_the_bound_are_refused(given_names: list[str]) -> None:
    known = Names("agent", names_max=3)
    for name in given_names[:3]:
        known.token(name, 1)
    for name in given_names[:3]:
        known.token(name, 2)
    for name in given_names[3:]:
        with pytest.raises(NameRefused, match="different names"):
            known.token(name, 3)


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=4), documents, min_size=1, max_size=4), st.data())
def test_a_value_of_a_document_is_found_on_its_line(document: dict[str, object], data: st.DataObject) -> None:
    """Every value on a line of its own, with a marker in place of the one that is looked for."""
    path: list[str | int] = []
    parent: Any = None
    inside: Any = document
    while isinstance(inside, dict | list) and inside and (not path or data.draw(st.booleans())):
        step = data.draw(st.sampled_from(sorted(inside) if isinstance(inside, dict) else list(range(len(inside)))))
        path.append(step)
        parent, inside = inside, inside[step]
    parent[path[-1]] = "@marker@"
    text = json.dumps(document, indent=0)
    assert places.line_of(text, path) == text[: text.index('"@marker@"')].count("\n") + 1
