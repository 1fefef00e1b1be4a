"""The wire format: subjects, envelope, bodies, frames, ids, authors and schemas.  Pure.

Nothing here does I/O, reads a clock or draws a random number.  docs/protocol.md is the
same in prose and is normative; tests/golden/ holds vectors for other languages.
"""
