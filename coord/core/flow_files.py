"""Definitions as files: TOML or JSON, and templates of them with parameters.

A **template** is a TOML file whose lines ``#: name = default`` declare parameters.  ``"{{name}}"`` becomes
the value as TOML writes it, ``{{name}}`` within text becomes its text.  Filled in, it is an
ordinary definition, comments and all, to be kept and edited.

Pure: the text is an argument.
"""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any, Final, TypeAlias

import msgspec

from coord.core import flow_definition
from coord.errors import InvalidWorkflow
from coord.wire.flow import Definition, RuleTable

Parameter: TypeAlias = str | int | float | bool

_DECLARED: Final = re.compile(r"#:\s*(\w+)\s*=\s*(.+)")
_QUOTED: Final = re.compile(r'"\{\{(\w+)\}\}"')
_WITHIN: Final = re.compile(r"\{\{(\w+)\}\}")


def parse(text: str | bytes, *, is_json: bool = False) -> Definition:
    """The checked definition in a file's text; raises `InvalidWorkflow`."""
    definition = flow_definition.convert(_read(text, is_json=is_json))
    flow_definition.plan(definition)
    return definition


def parse_table(text: str | bytes, *, is_json: bool = False) -> RuleTable:
    """The checked decision table in a file's text; raises `InvalidWorkflow`."""
    return flow_definition.table_of(_read(text, is_json=is_json))


def _read(text: str | bytes, *, is_json: bool) -> Any:
    try:
        if is_json:
            return msgspec.json.decode(text)
        return tomllib.loads(text if isinstance(text, str) else text.decode())
    except (msgspec.MsgspecError, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidWorkflow(f"not {'JSON' if is_json else 'TOML'}: {exc}") from exc


def parameters(template: str) -> dict[str, Parameter]:
    """The parameters that a template declares, and their defaults."""
    found: dict[str, Parameter] = {}
    for line in template.splitlines():
        declared = _DECLARED.match(line)
        if declared is not None:
            try:
                found.update(tomllib.loads(f"{declared[1]} = {declared[2]}"))
            except tomllib.TOMLDecodeError as exc:
                raise InvalidWorkflow(f"a parameter's default is not TOML: {exc}", parameter=declared[1]) from exc
    return found


def described(template: str) -> str:
    """What a template says of itself: its first line."""
    return template.partition("\n")[0].lstrip("# ")


def filled(template: str, given: dict[str, Any]) -> str:
    """The template with its parameters filled in; raises `InvalidWorkflow` for one that it does not have.

    Text that is given for a number or a truth is read as one.
    """
    values: dict[str, Parameter] = parameters(template)
    for name, value in given.items():
        if name not in values:
            raise InvalidWorkflow(f"no such parameter; there are {', '.join(sorted(values))}", parameter=name)
        values[name] = _like(values[name], value, name)
    body = "\n".join(line for line in template.splitlines() if _DECLARED.match(line) is None)

    def value_of(found: re.Match[str]) -> Parameter:
        if found[1] not in values:
            raise InvalidWorkflow("the template uses a parameter that it does not declare", parameter=found[1])
        return values[found[1]]

    body = _QUOTED.sub(lambda found: json.dumps(value_of(found), ensure_ascii=False), body)
    return _WITHIN.sub(lambda found: _text(value_of(found)), body).lstrip("\n") + "\n"


def _text(value: Parameter) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)[1:-1]
    return json.dumps(value)


def _like(default: Parameter, value: Any, name: str) -> Parameter:
    if isinstance(default, str):
        return str(value)
    try:
        read = json.loads(value) if isinstance(value, str) else value
    except ValueError as exc:
        raise InvalidWorkflow("not a number or truth", parameter=name, value=str(value)[:100]) from exc
    if isinstance(default, bool) != isinstance(read, bool) or not isinstance(read, int | float):
        raise InvalidWorkflow(f"takes a {type(default).__name__}", parameter=name, value=str(value)[:100])
    return type(default)(read)
