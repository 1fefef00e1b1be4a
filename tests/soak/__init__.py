"""Volume faults: `make soak`.  Not part of the default suite: nothing here is named test_*.

One module is one scenario.  A scenario module has

    SCENARIO = Scenario(name=…, title=…, bound_s=…)
    async def run(job: Job) -> Result

and `python -m tests.soak` finds it by that.  Each runs in a process of its own, with servers of
its own on free ports and a time bound, and leaves one JSON result in docs/fault-ledger/; all
results together are rendered into docs/fault-ledger.md.
"""
