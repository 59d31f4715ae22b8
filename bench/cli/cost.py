"""How ``bench run --dry-run`` shows what a plan costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.cli.app import err, out

if TYPE_CHECKING:
    from bench.plan.cells import Plan
    from bench.plan.cost import Cost

_GIB = 2**30


def print_cost(plan: Plan, card: str) -> None:
    """Prints operations, memory and hours of a plan, on a card by name.

    Raises:
        BenchError: there is no such card, or no clip can be read.
    """
    from bench.plan.cost import card_of, cost_of

    card_of(card)  # before anything takes time
    with err.status("Counting operations ..."):
        cost = cost_of(plan)
    _print_rows(cost)
    _print_sum(cost, card)
    if plan.grid.precision != "fp32":
        out.print(f"Attacks in {plan.grid.precision}, the judge in fp32; memory is that of fp32.", highlight=False)


def _print_rows(cost: Cost) -> None:
    from rich import box
    from rich.table import Table

    ways = list(dict.fromkeys(way for row in cost.rows for way in row.backward))
    frames, height, width = cost.shape[1:]
    title = f"What one clip of {frames}x{height}x{width} takes: TFLOP of an answer, and with a gradient; memory"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for heading in ("Classifier", "Defence"):
        table.add_column(heading)
    for heading in ("answer", *ways, "GiB a clip", "GiB weights"):
        table.add_column(heading, justify="right")
    for row in cost.rows:
        known = not row.note.startswith("not measured")
        answer = _tera(row.forward.total) if known else "?"
        gradients = [_tera(row.backward[way].total) if way in row.backward else "-" for way in ways]
        memory = f"{row.peak / _GIB:.2f}" if known else "?"
        table.add_row(row.model, row.defense, answer, *gradients, memory, f"{row.weights / _GIB:.2f}")
    out.print(table)
    for row in cost.rows:
        if row.note:
            out.print(f"{row.model}, {row.defense}: {row.note}.", highlight=False, markup=False)


def _print_sum(cost: Cost, name: str) -> None:
    from bench.plan.cost import UTILISATION, card_of

    card = card_of(name)
    room = int((card.memory * 1e9 - max(row.weights for row in cost.rows)) // max(max(r.peak for r in cost.rows), 1))
    fits = f"{room} clips at once fit" if room else "not even one clip fits"
    out.print(
        f"At most {_tera(cost.work.total)} TFLOP in all: {_time(cost.work.seconds(card))} on one {name} at "
        f"{100 * UTILISATION:.0f} % of its peak, where {fits}; {cost.memory / _GIB:.1f} GiB for the dearest clip.",
        highlight=False,
    )


def _tera(flops: int) -> str:
    return f"{flops / 1e12:.3g}" if flops < 1e14 else f"{flops / 1e12:,.0f}"


def _time(seconds: float) -> str:
    return (
        f"{seconds:.1f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:,.1f} h"
    )
