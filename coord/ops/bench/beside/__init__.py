"""coord beside other systems that run tasks and workflows: one module for each, as its documentation shows it.

Each module has two roles, each a process of its own (`python -m coord.ops.bench.beside JOB`):

work      hosts the handlers, which do nothing
submit    submits and has the results, one at a time and as many as a window takes

`coord.ops.bench.tasks_peers` starts their servers, lets them take turns and writes the report.
Everything that is installed for this bench alone is imported inside functions: without it the
peer is skipped, and says so.
"""
