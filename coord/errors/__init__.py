"""The one error tree: what went wrong, whose fault it is, and what to do about it.

Every error that leaves a public function of coord is a `CoordError`.  It has a stable
``code`` (dotted, lower case; safe to match on, to log and to put in a metric label),
says whether trying the same thing again can help (``retryable``), whose fault it is
(``fault``) and what a person should do (``remedy``).  Codes never change their meaning;
a class may be renamed, its code may not.

This module imports nothing of coord and is imported by everything: it never does I/O.
"""

from __future__ import annotations

from coord.errors.archive import *  # noqa: F403 - one name for every error: errors.X
from coord.errors.cache import *  # noqa: F403
from coord.errors.refusals import *  # noqa: F403
from coord.errors.spine import *  # noqa: F403
from coord.errors.work import *  # noqa: F403
