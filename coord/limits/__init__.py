"""Every bound in coord, with its unit and its reason.

A queue, buffer, loop, retry or size that is not bounded here is a defect.  Relations
between bounds are asserted at the end, at import: a bad edit fails at once, not in
production.  Bounds that an operator may tune are the *defaults* of a settings struct and
are named here too; bounds of the protocol are fixed.
"""

from __future__ import annotations

from coord.limits.archive import *  # noqa: F403 - one name for every bound: limits.X
from coord.limits.cache import *  # noqa: F403
from coord.limits.database import *  # noqa: F403
from coord.limits.query import *  # noqa: F403
from coord.limits.spine import *  # noqa: F403
from coord.limits.work import *  # noqa: F403
