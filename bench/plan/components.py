"""Components made from what a grid names, with all that identifies them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from bench import code
from bench.attack.base import Attack
from bench.data.base import Dataset, Missing
from bench.defense.base import Defense, RobustModel
from bench.defense.defended import GRADIENTS, DefendedClassifier
from bench.defense.nature import PLAIN, Nature
from bench.defense.trained import TrainedDefense, know_origin
from bench.errors import BenchError
from bench.grids.grid import AttackSection, Grid
from bench.plan.cells import Component
from bench.plan.classes import in_common_order
from bench.plan.labels import own_labels
from bench.records.identity import ComponentIdentity, digest
from bench.registry import ATTACKS, DATASETS, DEFENSES, MODELS, Entry, Registry, Spec
from bench.threat.budgets import Budget
from bench.training.recipes import recipe_of
from bench.weights.files import fingerprint, sha256_of
from bench.weights.places import MissingFiles, looking
from bench.weights.zoo import build_classifier, find_weights

C = TypeVar("C")


@dataclass(frozen=True)
class Parts:
    """What a grid crosses, made.

    Attributes:
        defenses: the undefended baseline among them.
        attacks: by the label of their column.
        sources: classifiers to transfer from, by label.
        judges: classifiers that select the clips, by label.
    """

    dataset: Component[Dataset]
    models: list[Component[nn.Module]]
    defenses: list[Component[Defense]]
    attacks: Mapping[str, Component[Attack]]
    sources: Mapping[str, Component[nn.Module]] = field(default_factory=dict)
    judges: Mapping[str, Component[nn.Module]] = field(default_factory=dict)

    @property
    def undefended(self) -> Component[Defense]:
        return next(filter(_is_bare, self.defenses))


def make_parts(grid: Grid, data_root: Path | None, checkpoint: Path | None) -> Parts:
    """Makes and checks what a grid names. Names first: a typing error must not cost the time of loading a network.

    Raises:
        BenchError: a name or parameter is unknown, files are missing (all are listed), or an attack cannot
            take a budget.
    """
    with looking():
        check_attacks(grid, _attacks(grid))
    for spec in grid.defense_specs:
        DEFENSES.get(spec.name).check(spec.params)
    dataset = _dataset(grid, data_root)
    if getattr(dataset.instance, "unlabelled", False) and grid.dataset.labels == "given":
        raise BenchError(
            f"The clips of {dataset.label} have no labels: say labels='own' beside it, to compare the classifier with "
            "its own answers to the clean clips."
        )
    # Files before networks, which may have a billion weights.
    missing = _missing(grid, dataset.instance, checkpoint, data_root)
    if missing:
        raise MissingFiles(missing, f"Grid {grid.name!r}")
    attacks, wanted = _attacks(grid), _sources(grid)
    defenses = with_baseline([make_component(spec, DEFENSES) for spec in grid.defense_specs])
    models = _models(grid, grid.model_specs, checkpoint, data_root)
    sources = _models(grid, list(wanted.values()), None, data_root)
    by_label = {m.label: m for m in sources}
    judges = _judges(grid, models, data_root)
    if grid.dataset.labels == "own":
        dataset = own_labels(dataset, models[0], grid.dataset.clips)
    else:
        dataset = in_common_order(dataset, [*models, *sources, *judges.values()])
    return Parts(dataset=dataset, models=models, defenses=defenses, attacks=attacks, sources=by_label, judges=judges)


def _attacks(grid: Grid) -> dict[str, Component[Attack]]:
    return {s.label: make_component(s.attack, ATTACKS) for s in grid.attack_sections if s.attack}


def _sources(grid: Grid) -> dict[str, Spec]:
    """Classifiers to transfer from, by label."""
    return {str(s.source): s.source for s in grid.attack_sections if s.source is not None}


def missing_files(grid: Grid, data_root: Path | None = None, checkpoint: Path | None = None) -> list[Missing]:
    """All that a grid needs and this machine has not: data, weights of classifiers, defences and attacks.

    Nothing is loaded but the small networks that are shipped, and nothing is downloaded.

    Raises:
        BenchError: a name or parameter is unknown.
    """
    return _missing(grid, _dataset(grid, data_root).instance, checkpoint, data_root)


def _missing(grid: Grid, dataset: Dataset, checkpoint: Path | None, data_root: Path | None) -> list[Missing]:
    own = grid.model_specs
    others = [*_sources(grid).values(), *(grid.dataset.select.specs if grid.dataset.select else ())]
    for spec in (*own, *others):
        MODELS.get(spec.name).check({k: v for k, v in spec.params.items() if k != "checkpoint"})
    given = [find_weights(spec, grid.dataset.name, checkpoint, data_root) for spec in own]
    taken = {str(spec) for spec in own}
    further = [find_weights(s, grid.dataset.name, None, data_root) for s in others if str(s) not in taken]
    robust = _robust_weights(grid, data_root)
    missing = [*dataset.missing(), *(w for w in (*given, *further) if isinstance(w, Missing)), *robust]
    attacks = [section.attack for section in grid.attack_sections if section.attack]
    asked = [(DEFENSES, grid.defense_specs), (MODELS, [*own, *others]), (ATTACKS, attacks)]
    parts = (part for registry, specs in asked for spec in specs for part in _parts_missing(spec, registry))
    files = (file for spec in attacks for file in _files_missing(spec))
    return list(dict.fromkeys([*missing, *parts, *files]))


# Parameters that name a published network: what has one is made to see which weights it asks for.
_NETWORKS = {"flow", "backbone"}


def _parts_missing(spec: Spec, registry: Registry) -> list[Missing]:
    """Weights of networks inside a component that are missing."""
    entry = registry.get(spec.name)
    if not _NETWORKS & {p.name for p in entry.parameters}:
        return []
    with looking() as missing:
        entry.create({k: v for k, v in spec.params.items() if k != "checkpoint"})
    return missing


def _files_missing(spec: Spec) -> Iterator[Missing]:
    """Files that an attack reads, beside networks that it names."""
    with looking():
        attack: Attack = ATTACKS.create(spec)
    for path in attack.files:
        if not path.is_file():
            yield Missing(
                f"{path}, which the attack {spec} reads",
                "nowhere: bench train writes such files (docs/training.md)",
                "of whoever trained it",
                path,
            )


def _robust_weights(grid: Grid, data_root: Path | None) -> Iterator[Missing]:
    """Weights of trained defences that are missing, for each classifier.

    Raises:
        BenchError: a defence names a recipe that does not exist, so that nobody can have trained it.
    """
    kinds = [(spec, DEFENSES.get(spec.name).factory) for spec in grid.defense_specs]
    trained = [spec for spec, kind in kinds if isinstance(kind, type) and issubclass(kind, TrainedDefense)]
    for model in grid.model_specs:
        for spec in trained:
            defense: TrainedDefense = DEFENSES.create(spec)
            found = defense.find(MODELS.get(model.name).name, grid.dataset.name, data_root)
            if isinstance(found, Missing):
                if not defense.weights:
                    recipe_of(defense.recipe)
                yield found


def _judges(grid: Grid, models: list[Component[nn.Module]], data_root: Path | None) -> dict[str, Component[nn.Module]]:
    """The classifiers that select the clips: the grid's own where it has them, whatever weights were given to it."""
    select = grid.dataset.select
    if select is None:
        return {}
    own = dict(zip(map(str, grid.model_specs), models, strict=True))
    others = [spec for spec in select.specs if str(spec) not in own]
    made = _models(grid, others, None, data_root)
    known = own | {str(spec): judge for spec, judge in zip(others, made, strict=True)}
    return {known[str(spec)].label: known[str(spec)] for spec in select.specs}


def with_baseline(defenses: list[Component[Defense]]) -> list[Component[Defense]]:
    """The defences, the undefended classifier before them if it is not among them."""
    return defenses if any(map(_is_bare, defenses)) else [make_component(Spec("none"), DEFENSES), *defenses]


def _is_bare(defense: Component[Defense]) -> bool:
    """Whether it is the undefended classifier, by what it is and not by what it says of itself."""
    return type(defense.instance) is DEFENSES.get("none").factory


def budgets_of(grid: Grid, section: AttackSection) -> dict[str, Budget]:
    """The budgets under which an attack is run, by the text of the grid's budget each belongs to."""
    budgets = {str(Budget.parse(b)): Budget.parse({**b, **section.budget}) for b in grid.budgets}
    if len(budgets) < len(grid.budgets):
        raise BenchError(f"Grid {grid.name!r} lists the same budget twice: remove one.")
    return budgets


def check_attacks(grid: Grid, attacks: Mapping[str, Component[Attack]]) -> None:
    """Raises :class:`BenchError` if an attack cannot take one of its budgets, or has gradients and only may ask."""
    for section in grid.attack_sections:
        for budget in budgets_of(grid, section).values() if section.attack else ():
            attack = attacks[section.label].instance
            attack.check(budget)
            if section.gradient == "query" and attack.passes(budget)[1]:
                raise BenchError(
                    f"Attack {section.label!r} takes gradients, and 'query' has none: write one of "
                    f"{', '.join(g for g in GRADIENTS if g not in ('query', 'none'))}."
                )


def make_component(spec: Spec, registry: Registry) -> Component[Any]:
    """Makes an attack or a defence.

    Raises:
        BenchError: there is none of that name, or it refuses its parameters.
    """
    entry = registry.get(spec.name)
    instance = entry.create(spec.params)
    identity = _identity(spec, entry, instance)
    if isinstance(instance, nn.Module):
        identity = _with_network(identity, entry.factory, instance)
    return Component(str(spec), instance, identity)


def _identity(spec: Spec, entry: Entry, instance: Any) -> ComponentIdentity:
    """A component's parameters and code, those of attacks that it runs, and files."""
    params, files = _placeless(entry.settings(spec.params))
    files |= _fixed(entry)
    parts = []
    if isinstance(instance, Attack):
        files |= {path.name: sha256_of(path) if path.is_file() else "absent" for path in instance.files}
        parts = [identity_of(part, ATTACKS) for part in map(Spec.parse, instance.parts)]
    return ComponentIdentity(name=entry.name, params=params, code=entry.code, files=files, parts=tuple(parts))


def identity_of(spec: Spec, registry: Registry) -> ComponentIdentity:
    """What identifies a component that is made of nothing but its name and parameters.

    Raises:
        BenchError: there is none of that name, or it refuses its parameters.
    """
    entry = registry.get(spec.name)
    return _identity(spec, entry, entry.create(spec.params))


def _placeless(params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Parameters with the names of files in place of their paths, and their digests: where a file lies on this machine
    changes nothing, and what it holds does."""
    files = {key: sha256_of(Path(value)) for key, value in params.items() if is_file(value)}
    return {key: Path(value).name if key in files else value for key, value in params.items()}, files


def _fixed(entry: Entry) -> dict[str, str]:
    """Digest of what the factory was made with. It stands among the files: random streams depend on parameters."""
    return {"fixed": digest(dict(entry.fixed))} if entry.fixed else {}


def is_file(value: Any) -> bool:
    """Whether a parameter is a file with an ending; a word such as ``margin`` is none, whatever lies in this folder."""
    if not isinstance(value, str) or not Path(value).suffix:
        return False
    return os.path.isfile(value)  # a Path would raise where a text is too long for a file's name


def _with_network(identity: ComponentIdentity, factory: Any, network: nn.Module) -> ComponentIdentity:
    """Adds a network's weights, and the code of the layers that it is made of, wherever they come from."""
    layers = {type(layer) for layer in network.modules()}
    ours = sorted((layer for layer in layers if code.is_ours(layer)), key=lambda t: f"{t.__module__}.{t.__qualname__}")
    has_weights = any(True for _ in (*network.parameters(), *network.buffers()))
    weights = fingerprint(network) if has_weights else ""
    return identity.model_copy(update={"code": code.digest(factory, *ours), "weights": weights})


def defend(
    model: Component[nn.Module], defense: Component[Defense], nature: Nature = PLAIN
) -> tuple[Component[Defense], DefendedClassifier]:
    """Puts a classifier behind a defence, once for all cells; a robust model is identified by its network too.

    Raises:
        BenchError: the defence cannot wrap the classifier.
    """
    try:
        defended = DefendedClassifier(model.instance, defense.instance, "none", nature)
    except BenchError:
        raise
    except Exception as error:
        raise BenchError(
            f"Defence {defense.label} cannot wrap {model.label}: {type(error).__name__}: {error}"
        ) from error
    if isinstance(defense.instance, RobustModel):
        identity = _with_network(defense.identity, type(defense.instance), defended.classifier)
        defense = replace(defense, identity=identity)
    return defense, defended


def _dataset(grid: Grid, data_root: Path | None) -> Component[Dataset]:
    spec = grid.dataset.spec
    entry = DATASETS.get(spec.name)
    takes_root = any(p.name == "root" for p in entry.parameters)
    params = {**spec.params, **({"root": data_root} if takes_root and "root" not in spec.params else {})}
    dataset: Dataset = entry.create(params)
    content = dataset.fingerprint()
    settings, files = _placeless({k: v for k, v in entry.settings(params).items() if k != "root"})
    # Random streams depend on parameters, and not on what stands among the files.
    apart = {k: str(v) for k, v in settings.items() if k in dataset.unseeded}
    identity = ComponentIdentity(
        name=entry.name,
        params={k: v for k, v in settings.items() if k not in apart},
        code=entry.code,
        files=({"content": content} if content else {}) | files | apart | _fixed(entry),
    )
    return Component(str(spec), dataset, identity)


def _models(
    grid: Grid, specs: list[Spec], checkpoint: Path | None, data_root: Path | None
) -> list[Component[nn.Module]]:
    """Builds the classifiers, whose files are here."""
    models = []
    for spec in specs:
        weights = find_weights(spec, grid.dataset.name, checkpoint, data_root)
        assert not isinstance(weights, Missing)
        model: nn.Module = build_classifier(spec, weights)
        entry = MODELS.get(spec.name)
        know_origin(model, entry.name, grid.dataset.name, data_root)
        params, files = _placeless({k: v for k, v in entry.settings(spec.params).items() if k != "checkpoint"})
        own = ComponentIdentity(name=entry.name, params=params, files=files | _fixed(entry))
        identity = _with_network(own, entry.factory, model)
        identity = identity.model_copy(update={"weights": fingerprint(model)})
        # Other weights must not pass for the shipped or published ones, nor for one another, in any table.
        label = str(spec) if checkpoint is None else f"{spec}@{checkpoint.stem}-{identity.weights[:6]}"
        models.append(Component(label, model, identity))
    return models
