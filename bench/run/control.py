"""The zero-budget control: an attack that may change nothing must change no answer."""

from __future__ import annotations

from collections.abc import Sequence

from bench.records.metrics import wilson
from bench.records.outcome import Control, Outcome


def compare(attacked: Sequence[Outcome], clean: Sequence[Outcome]) -> Control:
    """The verdict of the zero-budget control, from the outcomes of the attack and those on the clean clips."""
    flawed = next((o for o in attacked if o.status != "ok"), None)
    if flawed is not None:
        return Control(clips=len(attacked), passed=False, message=f"{flawed.clip}: {flawed.error}")
    if not any(o.draws for o in attacked):
        other = sum(o.prediction != c.prediction for o, c in zip(attacked, clean, strict=True))
        message = f"{other} of {len(attacked)} clips are answered differently although nothing was changed"
        return Control(clips=len(attacked), passed=not other, message=message)
    here, there = ([v for o in outcomes for v in o.verdicts] for outcomes in (attacked, clean))
    (low, high), (least, most) = wilson(sum(here), len(here)), wilson(sum(there), len(there))
    message = f"{sum(here)} of {len(here)} draws are right, {sum(there)} of {len(there)} on the clean clips"
    return Control(clips=len(attacked), passed=low <= most and least <= high, message=message)
