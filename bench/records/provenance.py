"""Who computed an outcome: which versions, on what, and on which day."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Provenance(BaseModel):
    """What computed outcomes. Two batches of one run have the same; of a crew, those of one worker.

    Attributes:
        bench: version of this package.
        commit: of its git checkout, with ``+`` behind it where files were changed; ``None`` if it is none.
        python, torch: their versions.
        device: ``cpu`` or the name of the GPU and its memory, see :func:`bench.run.engine.hardware`.
        machine: the kind of processor, as ``x86_64``.
        threads: that PyTorch used on the CPU.
        date: ``YYYY-MM-DD``, UTC, on which the run (or the worker) began.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bench: str
    commit: str | None
    python: str
    torch: str
    device: str
    machine: str
    threads: int
    date: str


def listed(found: set[Provenance | None]) -> list[Provenance | None]:
    """Each once, in an order that does not depend on who came first: what is unknown, then by day and name."""
    return sorted(found, key=lambda p: (p is not None, p.date if p else "", p.model_dump_json() if p else ""))
