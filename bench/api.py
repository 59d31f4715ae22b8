"""``bench.evaluate``: one's own classifier, clips and labels, in five lines."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from torch import Tensor, nn

from bench.attack import Attack
from bench.budgets import Budget
from bench.dataset import ClipRef, Dataset
from bench.defended import why_not
from bench.defense import Defense, Purifier, RobustModel
from bench.engines.local import LocalEngine, pick_device
from bench.errors import BenchError
from bench.grid import DatasetSection, Grid
from bench.models.checkpoints import fingerprint
from bench.plan import Component, expand
from bench.registry import ATTACKS, DEFENSES, Registry, Spec
from bench.render import heading, render
from bench.results import collect, to_frame
from bench.runner import Runner
from bench.store import Store
from bench.tables import make_tables


class _InMemory(Dataset):
    """The user's clips."""

    def __init__(self, clips: Tensor, labels: Tensor) -> None:
        self.clips = clips
        self._refs = [ClipRef(f"clip-{i:05d}", int(label)) for i, label in enumerate(labels)]
        self.classes = [str(c) for c in range(int(labels.max()) + 1)]

    def refs(self) -> list[ClipRef]:
        return self._refs

    def load(self, ref: ClipRef) -> Tensor:
        return self.clips[self._refs.index(ref)]


def _component(given: Any, registry: Registry) -> Component:
    if isinstance(given, (Attack, Purifier, RobustModel)):
        name = type(given).__name__
        return Component(name, given, {"name": name})
    spec = Spec.parse(given)
    return Component(str(spec), registry.create(spec), {"name": spec.name, "params": dict(spec.params)})


def evaluate(
    model: nn.Module,
    clips: Tensor | np.ndarray,
    labels: Tensor | np.ndarray | list[int],
    *,
    defense: str | Mapping[str, Any] | Defense = "none",
    attack: str | Mapping[str, Any] | Attack = "pgd",
    gradient: str = "auto",
    budget: Budget | Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    seed: int = 0,
    verbose: bool = True,
) -> pd.DataFrame:
    """Attacks a classifier behind a defence and judges every clip.

    Args:
        model: clips ``float32 (B, 3, T, H, W)`` in ``[0, 1]`` to logits ``(B, K)``; it normalises inside.
            It is put in evaluation mode and its weights take no gradient.
        clips: ``float32 (N, 3, T, H, W)`` in ``[0, 1]``, RGB.
        labels: true classes, ``(N,)`` integers.
        defense: a registered defence (``"jpeg(quality=50)"``) or an instance of your own.
        attack: a registered attack or an instance of your own.
        gradient: ``exact``, ``bpda``, ``none`` (gray-box: the attack sees the bare classifier), or ``auto``:
            exact where it exists, else bpda.
        budget: a :class:`Budget` or its keys; linf 4/255 with 10 steps if not given.
        batch_size: clips per batch; chosen if not given.
        device: ``auto``, ``cpu`` or ``cuda``.
        seed: of every random choice.
        verbose: print the table.

    Returns:
        A frame with one row per clip: ``clip``, ``label``, ``clean_prediction`` and ``prediction`` (of the
        defended classifier), ``correct`` (under attack), ``clean_correct``, ``status``, distances, passes and
        the loss trace.

    Raises:
        BenchError: the input is not what it should be; the message says what to do.

    Example:
        >>> frame = bench.evaluate(model, clips, labels, defense="jpeg", attack="pgd", gradient="bpda")
        >>> frame["correct"].mean()
    """
    clips, labels = torch.as_tensor(clips), torch.as_tensor(labels)
    if clips.ndim != 5 or clips.shape[1] != 3 or clips.dtype != torch.float32:
        raise BenchError(
            f"clips must be float32 of shape (N, 3, T, H, W) in [0, 1], not {clips.dtype} {tuple(clips.shape)}."
        )
    if not len(clips) or labels.shape != clips.shape[:1] or labels.is_floating_point():
        raise BenchError(
            f"labels must be one integer per clip: {len(clips)} clips, labels {labels.dtype} {tuple(labels.shape)}."
        )
    if not bool(((clips >= 0) & (clips <= 1)).all()):
        raise BenchError("clips must lie in [0, 1] and be finite; divide 8-bit frames by 255.")
    shield, weapon = _component(defense, DEFENSES), _component(attack, ATTACKS)
    if gradient == "auto":
        gradient = "exact" if why_not(shield.made, "exact") is None else "bpda"
    reason = why_not(shield.made, gradient)
    if reason:
        raise BenchError(reason)
    threat = budget if isinstance(budget, Budget) else Budget.parse(budget or {})
    adaptive = weapon.made.uses_model and gradient != "none"
    label = weapon.label.upper() + (f"+{gradient}" if adaptive else "")
    grid = Grid(
        name="evaluate",
        dataset=DatasetSection(name="clips"),
        models=["model"],
        defenses=["defense"],
        attacks=[{"attack": "given", "gradient": gradient if adaptive else None, "label": label}],
        budgets=[threat.settings()],
        seed=seed,
    )
    where = pick_device(device)
    model.eval().requires_grad_(False)
    name = type(model).__name__
    plan = expand(
        grid,
        Component("clips", _InMemory(clips.cpu(), labels.cpu()), {"name": "clips"}),
        [Component(name, model, {"name": name, "weights": fingerprint(model)})],
        [shield],
        {label: weapon},
    )
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        store = Store(Path(folder))
        try:
            Runner(plan, store, LocalEngine(where), batch_size=batch_size).run()
            results = collect(plan, store)
        finally:
            store.close()
    frame = to_frame(r for r in results if r.defense == shield.label)
    clean = frame[frame["knowledge"] == "clean"].set_index("clip")["correct"]
    frame = frame[frame["attack"] == label].reset_index(drop=True)
    frame.insert(list(frame.columns).index("correct") + 1, "clean_correct", frame["clip"].map(clean))
    if verbose:
        console = Console(width=None if Console().is_terminal else 120)
        for table in make_tables(results):
            console.print(heading(table), soft_wrap=True)
            console.print(render(table))
    return frame
