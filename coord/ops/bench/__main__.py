"""``python -m coord.ops.bench``: the same as ``coord bench``."""

from __future__ import annotations

from coord.ops.cli.bench import app

if __name__ == "__main__":
    app(prog_name="python -m coord.ops.bench")
