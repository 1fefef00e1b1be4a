"""Which subjects a filter of the broker selects."""

from __future__ import annotations


def matches(filter_subject: str, subject: str) -> bool:
    """Whether the broker lets a subject through this filter: ``*`` is one token, ``>`` at the end one or more."""
    wanted, tokens = filter_subject.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(tokens) <= len(wanted):
            return False
    elif len(tokens) != len(wanted):
        return False
    return all(one in ("*", other) for one, other in zip(wanted, tokens, strict=False))
