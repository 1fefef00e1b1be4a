"""What is said about feature flags: the data of the facts of kind `flag`, in docs/protocol.md §16.7.

A **flag** is the entity (tenant, ``flags``, ``flag``, name): one key, so one order of all changes.
Every change is a fact; whether a flag is on for somebody is computed wherever it is asked.
"""

from __future__ import annotations

from typing import Final

import msgspec

from coord import limits
from coord.errors import InvalidPayload
from coord.wire.numbers import Count
from coord.wire.subjects import check_token

KEY: Final = "flags"
"""The key of all flags."""


class FlagRule(msgspec.Struct, frozen=True, omit_defaults=True):
    """For whom another percentage holds: everything that is given must fit.

    `agents`, `subjects`: one of these; empty: any.  `labels`: all of these, of the agent that asks.  `percentage`: 0 to
    100; default: on for them.
    """

    agents: tuple[str, ...] = ()
    """One of these agents; empty: any."""
    labels: dict[str, str] = {}
    """All of these, of the agent that asks."""
    subjects: tuple[str, ...] = ()
    """One of these subjects; empty: any."""
    percentage: float = 100.0
    """0: off for them."""


class Said(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who set it and when, where the decider states it again."""

    by: str
    at: float


class FlagSet(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """``flag.set``: what holds from now on, all of it."""

    enabled: bool = True
    """False: off for everybody, whatever follows."""
    percentage: float = 100.0
    """Of subjects for which it is on where no rule fits.  Who is in at 10 is in at 20."""
    rules: tuple[FlagRule, ...] = ()
    """The first that fits decides."""
    salt: str = ""
    """Flags of one salt are on for the same subjects; default: the flag's name."""
    note: str = ""
    """Why."""
    restated: Count = 0
    said: Said | None = None
    """With `restated`; believed of a decider."""


class Removed(msgspec.Struct, frozen=True, omit_defaults=True):
    """``flag.removed``: from now on it is what whoever asks takes for the default."""

    note: str = ""


def check(said: FlagSet) -> FlagSet:
    """Itself, or `InvalidPayload`/`InvalidToken` naming what is out of range."""
    if len(said.rules) > limits.FLAG_RULES_MAX:
        raise InvalidPayload(f"a flag has at most {limits.FLAG_RULES_MAX} rules", given=len(said.rules))
    for percentage in (said.percentage, *(rule.percentage for rule in said.rules)):
        if not 0 <= percentage <= 100:
            raise InvalidPayload("a percentage is 0 to 100", percentage=percentage)
    for rule in said.rules:
        if max(len(rule.agents), len(rule.subjects), len(rule.labels)) > limits.FLAG_RULE_NAMES_MAX:
            raise InvalidPayload(f"a rule names at most {limits.FLAG_RULE_NAMES_MAX} of a kind")
        for agent in rule.agents:
            check_token(agent, "agent")
    if len(msgspec.json.encode(said)) > limits.FLAG_BYTES_MAX:
        raise InvalidPayload(f"a flag has at most {limits.FLAG_BYTES_MAX} bytes")
    return said
