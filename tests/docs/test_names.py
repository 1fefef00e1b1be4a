"""What the documentation names exists: links, files, functions, commands, metrics, error codes, settings, tables."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from coord import errors
from coord.ops import settings
from coord.telemetry.metrics import Metrics
from coord.wire.authors import TABLE
from tests.docs.test_docs import ROOT_COMMAND, parse
from tests.support.pages import Link, Page, command_lines, names_in, page, pages, words
from tests.support.sources import ROOT

Check = Callable[[Page], Iterator[str]]


# --- the checks: each yields what is wrong with a page -------------------------------------


def links(here: Page) -> Iterator[str]:
    for link in here.links():
        if re.match(r"[a-z]+:", link.target):
            if not link.target.startswith("https://"):
                yield f"{link.target}: neither a file nor https"
        else:
            yield from _link(here, link)


def _link(here: Page, link: Link) -> Iterator[str]:
    file, _, anchor = link.target.partition("#")
    target = (here.path.parent / file).resolve() if file else here.path
    if not target.is_relative_to(ROOT) or not (target == here.path or target.exists()):
        yield f"{link.target}: no such file"
    elif anchor and target.suffix == ".md":
        if anchor not in (here if target == here.path else page(target)).anchors():
            yield f"{link.target}: no such heading"
    elif target.suffix == ".py":
        named = re.fullmatch(r"`([A-Za-z_][\w.]*)`", link.text)
        if named and named[1] not in names_in(target):
            yield f"{link.target} defines no {named[1]}"


def paths(here: Page) -> Iterator[str]:
    parts = "coord|deploy|docs|sql|streams|tests|tools"
    for span in here.spans():
        # Ending in a letter: `coord/derived/1` is a hash's salt, not a file.
        if re.fullmatch(rf"(?:\.\./)*(?:{parts})/[\w./*-]*[a-z*/]", span):
            place = re.sub(r"^(\.\./)+", "", span).rstrip("/")
            if not any(ROOT.glob(place)):
                yield f"{span}: no such path"


def commands(here: Page) -> Iterator[str]:
    for span in here.spans():
        if re.match(r"coord [a-z]", span):
            yield from _command(span)
    for block in here.blocks():
        for line in command_lines(block.text) if block.language == "sh" else ():
            if line.startswith("coord "):
                try:
                    parse(words(line)[1:])
                except Exception as exc:
                    yield f"{line}: {exc}"


def _command(text: str) -> Iterator[str]:
    """Its nouns, verbs and options exist; values may be left out in prose."""
    command: Any = ROOT_COMMAND
    for word in text.split()[1:]:
        inner = getattr(command, "commands", {})
        if word.startswith("-"):
            options = {opt for parameter in command.params for opt in (*parameter.opts, *parameter.secondary_opts)}
            if word not in options | {"--help", "--version"}:
                yield f"`{text}`: {command.name} has no {word}"
        elif inner:
            if word not in inner:
                yield f"`{text}`: there is no {word}"
                return
            command = inner[word]


@cache
def metric_names() -> frozenset[str]:
    """Every name /metrics can have, histograms' parts left out."""
    families = Metrics(CollectorRegistry()).registry.collect()
    return frozenset(family.name + ("_total" if family.type == "counter" else "") for family in families)


def metrics(here: Page) -> Iterator[str]:
    roles, schemas, sides = {"coord_reader"}, {"coord_tenant", "coord_rebuild"}, {"coord_local", "coord_handler"}
    known = metric_names() | roles | schemas | sides
    yield from sorted(set(re.findall(r"\bcoord_[a-z_]+\b", here.text)) - known)


def codes_and_settings(here: Page) -> Iterator[str]:
    areas = {code.partition(".")[0] for code in error_codes()}
    # The query service answers `log.read`, so that section's names are not only settings'.
    areas |= {key.partition(".")[0] for key in setting_names()} - {"log"}
    for span in here.spans():
        if not re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", span) or span.endswith((".conf", ".toml", ".md", ".sql", ".yaml")):
            continue
        known = span in error_codes() or span in setting_names() or _is_something_else(span) or _is_figure(span)
        known = known or tuple(span.split(".")[:2]) in TABLE  # `task.completed`: an event
        known = known or span in refusals()
        if span.partition(".")[0] in areas and not known:
            yield f"`{span}` is no error code, setting or name"


@cache
def setting_names() -> frozenset[str]:
    return frozenset(settings._types())


@cache
def error_codes() -> frozenset[str]:
    def tree(error: type[errors.CoordError]) -> Iterator[str]:
        yield error.code
        for inner in error.__subclasses__():
            yield from tree(inner)

    return frozenset(tree(errors.CoordError))


@cache
def refusals() -> frozenset[str]:
    """Codes of what folds do not believe, and of why a workflow's step failed: they are never raised."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "coord/core").glob("*.py")))
    return frozenset(re.findall(r'"([a-z]+\.[a-z_]+)"', text))


def _is_figure(span: str) -> bool:
    """`publish.single_ratio` is a figure of the bench when the bench makes it."""
    part, _, name = span.partition(".")
    return all(re.search(rf"[\"']{re.escape(word)}[\"']", benches()) for word in (part, name))


@cache
def benches() -> str:
    """All that makes figures."""
    return "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "coord/ops/bench").glob("*.py")))


def _is_something_else(span: str) -> bool:
    """`coord.event` is a relation, `coord.bus.rpc` Python, `coord.live` a subject, `coord.hot` a setting in SQL."""
    head, _, rest = span.partition(".")
    if head != "coord":
        return False
    if rest in relations() or rest.partition(".")[0] in SUBJECT_ROOTS:
        return True
    if re.search(rf"\b{re.escape(span)}\b", sql()):
        return True
    try:
        pkgutil.resolve_name(span)
    except (ImportError, AttributeError):
        return False
    return True


SUBJECT_ROOTS = {
    *("ev", "log", "live", "tel", "tlog", "rpc", "cursor", "notice", "timer", "due", "dlq", "beat"),
    *("hb", "push", "board", "snapshot", "wake"),
}


@cache
def sql() -> str:
    """All that the database is told."""
    files = [*(ROOT / "sql").rglob("*.sql"), *(ROOT / "coord/store").glob("*.py")]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


@cache
def relations() -> frozenset[str]:
    """Tables and views of schema coord."""
    schema = (ROOT / "sql/schema.sql").read_text(encoding="utf-8")
    tables = re.findall(r"^CREATE TABLE coord\.(\w+)", schema, re.MULTILINE)
    rolled = {f"{path.stem}_{level}" for path in (ROOT / "sql/rollups").glob("*.sql") for level in ("1m", "1h", "1d")}
    views = {path.stem for path in (ROOT / "sql/views").glob("*.sql")} | {f"v_{name}" for name in rolled}
    return frozenset(tables) | rolled | views


def tables(here: Page) -> Iterator[str]:
    yield from sorted(set(re.findall(r"\b(?:FROM|JOIN) coord\.(\w+)", here.text)) - relations())


# --- the pages -----------------------------------------------------------------------------


@pytest.mark.parametrize("check", [links, paths, commands, metrics, codes_and_settings, tables])
@pytest.mark.parametrize("name", pages())
def test_what_is_named_exists(name: str, check: Check) -> None:
    assert list(check(pages()[name])) == []


WRONG: list[tuple[Check, str]] = [
    (links, "[x](docs/nothing.md)"),
    (links, "[x](docs/protocol.md#no-such-heading)"),
    (links, "[x](#nothing)"),
    (links, "[`Writer.nothing`](coord/projector/writer.py)"),
    (links, "[x](http://example.org)"),
    (links, "[x](../elsewhere)"),
    (paths, "`coord/wire/nothing.py`"),
    (paths, "`sql/nothing/`"),
    (commands, "`coord event nothing`"),
    (commands, "`coord stream apply --nothing`"),
    (commands, "```sh\ncoord event tail --nothing\n```"),
    (metrics, "`coord_nothing_total`"),
    (metrics, "`coord_dead_letters_total`"),
    (codes_and_settings, "`wire.nothing`"),
    (codes_and_settings, "`projector.nothing_s`"),
    (codes_and_settings, "`publish.nothing_ratio`"),
    (codes_and_settings, "`coord.nothing`"),
    (codes_and_settings, "`coord.wire.subjects.nothing`"),
    (tables, "SELECT 1 FROM coord.nothing"),
]


@pytest.mark.parametrize(("check", "text"), WRONG)
def test_the_checks_themselves(check: Check, text: str) -> None:
    assert len(list(check(Page(ROOT / "x.md", text)))) == 1


def test_right_names_pass() -> None:
    text = """# A heading: `of code`

    [x](#a-heading-of-code) [`Writer.offer`](coord/projector/writer.py) `coord/wire/` `docs/adr/*.md`
    `coord event tail --durable NAME` `coord_dead_letters` `wire.token` `projector.writers` `coord.v_event`
    SELECT 1 FROM coord.event
    """
    here = Page(ROOT / "x.md", text)
    for check in (links, paths, commands, metrics, codes_and_settings, tables):
        assert list(check(here)) == []
