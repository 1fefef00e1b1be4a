"""Notebooks, run as a reader would run them.

python -m tests.support.notebooks FILE URL OUT   # run it against a database, and write it with what it shows
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from tests.support.sources import ROOT


def read(path: Path) -> Any:
    """A notebook of a file."""
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


async def execute(path: Path, url: str, out: Path) -> Any:
    """The notebook as a fresh run against this database leaves it; in a process of its own, which starts the kernel.

    Fails with what it said where a cell fails.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, str(path), url, str(out),
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()[-3000:]
    return read(out)


def run(path: Path, url: str, timeout_s: float = 200.0) -> Any:
    """The same in this process.  Raises what a cell raises."""
    notebook = read(path)
    environ = {k: v for k, v in os.environ.items() if not k.startswith("COORD_")}
    environ |= {"COORD_DATABASE_URL": url, "PYTHONPATH": str(ROOT)}
    environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    where = {"metadata": {"path": str(ROOT)}}
    NotebookClient(notebook, timeout=timeout_s, kernel_name="python3", resources=where).execute(env=environ)
    return notebook


def outputs(notebook: Any) -> list[str]:
    """What each code cell shows, in order: "image", "text" or nothing."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            kinds = {kind for out in cell.outputs for kind in out.get("data", {})}
            found.append("image" if "image/png" in kinds else "text" if "text/plain" in kinds else "")
    return found


def clean(notebook: Any) -> Any:
    """Without what differs from run to run and says nothing: times of execution, ids of objects."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for out in cell.get("outputs", ()):
            text = out.get("data", {}).get("text/plain")
            if text and re.search(r" at 0x[0-9a-f]+>", text):
                out["data"]["text/plain"] = re.sub(r" at 0x[0-9a-f]+>", ">", text)
    return notebook


if __name__ == "__main__":
    nbformat.write(clean(run(Path(sys.argv[1]), sys.argv[2])), sys.argv[3])  # type: ignore[no-untyped-call]
