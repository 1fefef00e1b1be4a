"""``pytest --collect-only -p tests.support.compiled``: test modules are imported, which compiles them; no more.

Making six thousand tests of them, which nobody runs then, is nearly half of a collection's CPU.
"""

from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem() -> list[pytest.Item]:
    """Nothing in any module is a test."""
    return []
