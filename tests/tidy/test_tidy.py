"""Rules about the tree that a machine can check."""

from __future__ import annotations

import re

from tests.support import sources
from tests.support.sources import Module, parse

LINES_MAX = 700
_SUBJECTS = "coord.wire.subjects"
_LOGGERS = "coord.telemetry.logs"
"""Builds the names of loggers, which begin as subjects do."""

# In two halves: this file is part of the tree.
_REGISTRIES = "|".join(
    re.escape(half + rest)
    for half, rest in (
        ("pypi", ".org"), ("python", "hosted.org"), ("deb.debian", ".org"), ("security.debian", ".org"),
        ("npmjs", ".org"), ("proxy.golang", ".org"),
    )
)  # fmt: skip
_MACHINE_PATHS = r"(?<![\w.])/(?:work/(?:main|steering|shared|\.)|farm/|ro" + r"ot/|home/\w+/)"
FOREIGN = re.compile(f"{_REGISTRIES}|{_MACHINE_PATHS}")


def subject_roots(module: Module) -> set[str]:
    """The second tokens of the subjects that the module spells."""
    found = (re.match(r"coord\.([a-z]+)\.", value) for _, value in sources.strings(module))
    return {m[1] for m in found if m}


def subjects_spelled(module: Module, roots: set[str]) -> list[str]:
    """Its literals that begin as a subject does.  Error codes, loggers and module names begin otherwise."""
    subject = re.compile(rf"coord\.(?:{'|'.join(sorted(roots))})\.")
    found = [f"{module.name}:{line} spells {text!r}" for line, text in sources.strings(module) if subject.match(text)]
    bare = [f"{module.name}:{line} spells {text!r}" for line, text in sources.strings(module) if text == "coord."]
    return found + bare


def test_only_one_module_spells_subjects():
    modules = sources.modules()
    roots = subject_roots(modules[_SUBJECTS])
    assert roots >= {"ev", "log", "live", "tel", "tlog", "rpc", "dlq"}
    others = [m for m in modules.values() if m.name not in {_SUBJECTS, _LOGGERS}]
    assert [line for m in others for line in subjects_spelled(m, roots)] == []


def test_the_subject_rule_itself():
    bad = parse("coord.x", "def f(p):\n    'coord.ev.x in a docstring'\n    return f'coord.log.{p}'")
    assert subjects_spelled(bad, {"ev", "log"}) == ["coord.x:3 spells 'coord.log.'"]
    assert subjects_spelled(parse("coord.x", "A = 'coord.' + b"), {"ev"})
    assert not subjects_spelled(
        parse("coord.x", "CODE = 'coord.overloaded'\nM = 'coord.ops.demo'\nF = 'coord.log'"), {"ev", "log"}
    )


def test_no_file_is_too_long():
    long = {
        str(path.relative_to(sources.ROOT)): lines
        for path in sources.tracked_files()
        if path.suffix in {".py", ".sql", ".sh", ".js", ".mjs", ".toml"} or path.name == "Makefile"
        if path.name != "schema.sql"  # the whole truth about the tables, in one file on purpose
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > LINES_MAX
    }
    assert long == {}, f"longer than {LINES_MAX} lines: look for a second noun"


def test_no_registry_and_no_path_of_one_machine_stands_in_the_tree():
    wrong = []
    for path in sources.tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a golden file of bytes
        wrong += [
            f"{path.relative_to(sources.ROOT)}:{number}: {line.strip()[:100]}"
            for number, line in enumerate(text.splitlines(), 1)
            if FOREIGN.search(line)
        ]
    assert wrong == []


def test_the_foreign_rule_itself():
    assert FOREIGN.search("see https://" + "pypi" + ".org/x")
    assert FOREIGN.search("cd /ro" + "ot/x")
    assert FOREIGN.search('"/work' + '/main"')
    assert not FOREIGN.search("a/ro" + "ot/b and ./home" + "work/main")


def test_every_module_is_used():
    modules = sources.modules()
    known = frozenset(modules)
    used = {i.target for m in modules.values() for i in sources.imports(m, known)}
    # What is run as a program is named by a string: python -m, the script in pyproject.toml.
    used |= {text for m in modules.values() for _, text in sources.strings(m)}
    project = (sources.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    dead = [
        name
        for name, module in modules.items()
        if name not in used and module.layer and not module.path.name.startswith("__") and f'"{name}:' not in project
    ]
    assert dead == []
