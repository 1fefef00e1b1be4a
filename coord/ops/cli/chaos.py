"""``coord chaos``: break everything on purpose."""

from __future__ import annotations

from typing import Annotated

import typer

from coord.ops.cli.base import Context, Exit, command, group

app = group("chaos", "Break everything on purpose, and see that nothing is lost.")

_SHOWN_MAX = 20


@command(app, "sim")
def sim(
    ctx: Context,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many runs.")] = 200,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The first of them.")] = 0,
) -> int:
    """Simulate the whole of coordination in virtual time, without servers: about 30 ms a seed.

    Agents, deciders and the broker die, hang, lose and repeat messages. A seed that breaks a rule is printed; it
    plays again exactly with --seed N --seeds 1.
    """
    from coord.testing.simulation import simulate

    failed, facts = [], 0
    for number in range(seed, seed + seeds):
        run = simulate(number)
        facts += run.facts
        if run.wrongs:
            failed.append(run)
            ctx.out.say(f"seed {number}: {run.wrongs[0]}")
    shown = [{"seed": run.seed, "log": run.digest, "wrong": wrong} for run in failed for wrong in run.wrongs]
    if not ctx.out.is_table:
        ctx.out.record(
            {"first": seed, "runs": seeds, "facts": facts, "failed": len(failed), "wrong": shown[:_SHOWN_MAX]}
        )
    elif failed:
        ctx.out.rows(shown[:_SHOWN_MAX], ["seed", "log", "wrong"])
    ctx.out.say(f"{seeds} runs from seed {seed}, {facts} facts, {len(failed)} failed.")
    return Exit.UNHEALTHY if failed else Exit.OK
