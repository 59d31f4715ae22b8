"""Components made from what a grid names, with all that identifies them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from bench import code
from bench.attack.base import Attack
from bench.data.base import Dataset, Missing, listing
from bench.defense.base import RobustModel
from bench.defense.defended import DefendedClassifier
from bench.defense.trained import know_origin
from bench.errors import BenchError
from bench.grids.grid import Grid
from bench.plan.cells import Component
from bench.registry import ATTACKS, DATASETS, MODELS, Entry, Spec
from bench.weights.files import fingerprint, sha256_of
from bench.weights.zoo import build_classifier, find_weights


def _dataset(grid: Grid, data_root: Path | None) -> Component:
    spec = grid.dataset.spec
    entry = DATASETS.get(spec.name)
    takes_root = any(p.name == "root" for p in entry.parameters)
    params = {**spec.params, **({"root": data_root} if takes_root and "root" not in spec.params else {})}
    identity = {k: v for k, v in entry.settings(params).items() if k != "root"}
    made: Dataset = entry.create(params)
    files = made.fingerprint()
    settings = {"name": spec.name, "params": identity, "code": entry.code, **({"files": files} if files else {})}
    return Component(str(spec), made, settings)


def _identity(spec: Spec, entry: Entry, made: Any) -> dict[str, Any]:
    """What identifies a component: its parameters and code, and those of attacks that it runs."""
    settings: dict[str, Any] = {"name": spec.name, "params": entry.settings(spec.params), "code": entry.code}
    if isinstance(made, Attack) and made.parts:
        inner = [(part, ATTACKS.get(part.name)) for part in map(Spec.parse, made.parts)]
        settings["parts"] = [_identity(part, e, e.create(part.params)) for part, e in inner]
    if isinstance(made, Attack) and made.files:
        settings["files"] = [sha256_of(file) if file.is_file() else "absent" for file in made.files]
    elif isinstance(made, Attack):  # a defence's weights are part of it, an attack need not keep its own
        files = {k: sha256_of(Path(v)) for k, v in settings["params"].items() if _is_file(v)}
        settings |= {"files": files} if files else {}
    return settings


def _is_file(value: Any) -> bool:
    """Whether a parameter is a file with an ending; a word such as ``margin`` is none, whatever lies in this folder."""
    if not isinstance(value, str) or not Path(value).suffix:
        return False
    return os.path.isfile(value)  # a Path would raise where a text is too long for a file's name


def _components(specs: list[Spec], registry: Any) -> list[Component]:
    made = []
    for spec in specs:
        entry = registry.get(spec.name)
        thing = entry.create(spec.params)
        component = Component(str(spec), thing, _identity(spec, entry, thing))
        made.append(_with_weights(component, component.made) if isinstance(component.made, nn.Module) else component)
    return made


def _with_weights(component: Component, network: nn.Module) -> Component:
    """Adds a network's weights, if it has any, to what identifies a component."""
    if not any(True for _ in (*network.parameters(), *network.buffers())):
        return component
    return replace(component, settings={**component.settings, "weights": fingerprint(network)})


def _architecture(factory: Any, network: nn.Module) -> str:
    """Digest of the code that makes a network and of the layers that it is made of, wherever they come from."""
    layers = {type(layer) for layer in network.modules()}
    return code.digest(factory, *sorted((t for t in layers if code.is_ours(t)), key=lambda t: t.__qualname__))


def _defend(model: Component, defense: Component) -> tuple[Component, DefendedClassifier]:
    """Puts a classifier behind a defence, once for all cells; a robust model is identified by its weights too."""
    try:
        defended = DefendedClassifier(model.made, defense.made, "none")
    except BenchError:
        raise
    except Exception as error:
        raise BenchError(
            f"Defence {defense.label} cannot wrap {model.label}: {type(error).__name__}: {error}"
        ) from error
    if isinstance(defense.made, RobustModel):
        defense = _with_weights(defense, defended.classifier)
        made = _architecture(type(defense.made), defended.classifier)
        defense = replace(defense, settings={**defense.settings, "code": made})
    return defense, defended


def _models(
    grid: Grid, specs: list[Spec], dataset: Dataset, checkpoint: Path | None, data_root: Path | None
) -> list[Component]:
    """Builds the classifiers, or says in one message everything that is missing on this machine."""
    for spec in specs:
        MODELS.get(spec.name).check({k: v for k, v in spec.params.items() if k != "checkpoint"})
    found = [(spec, find_weights(spec, grid.dataset.name, checkpoint, data_root)) for spec in specs]
    missing = [*dataset.missing(), *(w for _, w in found if isinstance(w, Missing))]
    if missing:
        raise BenchError(f"Grid {grid.name!r} needs files that are not here:\n{listing(missing)}")
    models = []
    for spec, weights in found:
        assert not isinstance(weights, Missing)
        model: nn.Module = build_classifier(spec, weights)
        know_origin(model, spec.name, grid.dataset.name)
        entry = MODELS.get(spec.name)
        params = {k: v for k, v in entry.settings(spec.params).items() if k != "checkpoint"}
        digits = fingerprint(model)
        settings = {"name": spec.name, "params": params, "code": _architecture(entry.factory, model), "weights": digits}
        # Other weights must not pass for the shipped or published ones, nor for one another, in any table.
        label = str(spec) if checkpoint is None else f"{spec}@{checkpoint.stem}-{digits[:6]}"
        models.append(Component(label, model, settings))
    return models
