"""``bench list`` and ``bench show``: what there is, and what it is."""

from __future__ import annotations

import json
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from bench.cli.app import DataRoot, Results, out, warn_broken
from bench.cli.clips import show_clip
from bench.cli.rows import is_row, show_row
from bench.errors import BenchError, nearest

if TYPE_CHECKING:
    from bench.registry import Entry

AsJson = Annotated[bool, typer.Option("--json", help="An array of objects.")]


class What(StrEnum):
    """What can be listed."""

    attacks = "attacks"
    defenses = "defenses"
    datasets = "datasets"
    models = "models"
    gradients = "gradients"
    grids = "grids"
    weights = "weights"


def list_(
    what: Annotated[What, typer.Argument(help="attacks, defenses, datasets, models, gradients, grids or weights")],
    as_json: AsJson = False,
) -> None:
    """List what is registered, the ways to differentiate a defence, or the shipped weights."""
    if what is What.gradients:
        items = [_gradient(name) for name in _gradients()]
    elif what is What.grids:
        from bench.grids.grid import read_grid, shipped_grids

        items = [{"name": n, "summary": read_grid(p).title} for n, p in shipped_grids().items()]
    elif what is What.weights:
        from bench.weights.zoo import figures_in_words, manifest

        items = [{"name": Path(f).stem, "summary": figures_in_words(e), **e} for f, e in manifest().items()]
    else:
        from bench.registry import REGISTRIES

        registry = REGISTRIES[what.value[:-1]]
        items = [{"name": e.name, "summary": e.summary, "source": e.source, "origin": e.origin} for e in registry]
    warn_broken()
    if as_json:
        typer.echo(json.dumps(items, indent=1))
        return
    width = max((len(i["name"]) for i in items), default=0)
    for item in items:
        out.print(f"{item['name']:<{width}}  {item['summary']}", markup=False, highlight=False)
    if what.value == "models":
        from bench.registry import ADAPTERS

        prefixes = ", ".join(f"{prefix}:NAME" for prefix in ADAPTERS)
        out.print(f"Of other libraries: {prefixes}; yours: FILE.py:factory, package.module:factory.", highlight=False)


def show(
    name: Annotated[
        str,
        typer.Argument(
            help="Attack, defence, data set, classifier, gradient, grid, FILE.py, row GRID:DEFENCE, or a clip --of one."
        ),
    ],
    as_json: AsJson = False,
    clip: Annotated[str | None, typer.Option(help="Of a row: id of one clip, with all its numbers.")] = None,
    of: Annotated[str, typer.Option(help="Row GRID:DEFENCE whose clip is drawn, attacked and purified.")] = "",
    attack: Annotated[str | None, typer.Option(help="Of a clip --of a row: label of the attack.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Of a clip --of a row: FILE.gif, .webp or .png; CLIP.gif if not given.")
    ] = None,
    results: Results = Path("results"),
    sheet: Annotated[Path | None, typer.Option(help="Of a data set: write a contact sheet (.png).")] = None,
    animate: Annotated[Path | None, typer.Option(help="Of a data set: write an animated sheet (.gif).")] = None,
    clips: Annotated[
        bool, typer.Option("--clips", help="Of a data set: write an animated sheet, NAME.gif in this folder.")
    ] = False,
    count: Annotated[int, typer.Option(help="Clips on the sheet.")] = 12,
    data_root: DataRoot = None,
) -> None:
    """Show what a component is: summary, source, parameters, defaults. Or a row of results, clip by clip, or a clip."""
    if of:
        show_clip(name, of, attack, output, results, data_root)
        return
    if attack is not None or output is not None:
        raise BenchError("--attack and --output are of one clip of a row: 'bench show CLIP --of GRID:DEFENCE'.")
    if is_row(name, results):
        show_row(name, results, clip, as_json)
        return
    if clip is not None:
        raise BenchError(f"--clip is of a row of results, GRID:DEFENCE, and there is no {name!r} in {results}.")
    from bench.grids.grid import read_grid, shipped_grids
    from bench.registry import REGISTRIES

    entries = [e for r in REGISTRIES.values() for e in r if e.name == name] or _from_elsewhere(name)
    grids = shipped_grids()
    gradient = name.lower() if name.lower() in _gradients() else None
    if not entries and gradient is None and name not in grids:
        names = [e.name for r in REGISTRIES.values() for e in r] + list(_gradients()) + list(grids)
        raise BenchError(f"Nothing is called {name!r}{nearest(name, names)}; see 'bench list attacks' and the like.")
    if clips and animate is None:
        animate = Path(f"{name}.gif")
    if sheet is not None or animate is not None:
        dataset = next((e for e in entries if e.kind == "dataset"), None)
        if dataset is None:
            raise BenchError(f"{name!r} is not a data set, so it has no clips to draw.")
        _draw(dataset, count, sheet, animate, data_root)
        return
    described = [_describe(e) for e in entries]
    if gradient is not None:
        described.append(_gradient(gradient))
    if name in grids:
        grid = read_grid(grids[name])
        described.append({"kind": "grid", "origin": str(grids[name]), **json.loads(grid.model_dump_json())})
    if as_json:
        typer.echo(json.dumps(described, indent=1))
        return
    for item in described:
        if item["kind"] == "grid":  # as it is written, to copy and change
            text = grids[name].read_text(encoding="utf-8").rstrip()
            out.print(f"# {item['origin']}\n{text}", markup=False, highlight=False, soft_wrap=True)
        elif item["kind"] == "gradient":
            _print_gradient(item)
        else:
            _print_description(item)


def _from_elsewhere(name: str) -> list[Entry]:
    """What stands in a file, in another package or in a library of classifiers, under a name with a colon or a path."""
    from bench.registry import ADAPTERS, MODELS, REGISTRIES, Spec

    if "(" in name or not Spec(name).is_imported:
        return []
    whole = Spec.parse(name).name
    if whole.partition(":")[0] in ADAPTERS:
        return [MODELS.get(whole)]
    found = []
    for kind, registry in REGISTRIES.items():
        with suppress(BenchError):
            entry = registry.get(whole)
            found += [entry] if getattr(entry.factory, "kind", "model") == kind else []
    return found or [MODELS.get(whole)]


# Where a gradient comes from, and the method by which a purifier has one of its own.
_SOURCES = {
    "bpda": "Athalye, Carlini and Wagner, Obfuscated Gradients Give a False Sense of Security, ICML 2018",
    "surrogate": "Lee and Kim, Robust Evaluation of Diffusion-Based Adversarial Purification, ICCV 2023",
    "diffattack": "Kang, Song and Li, DiffAttack: Evasion Attacks Against Diffusion-Based Adversarial Purification, "
    "NeurIPS 2023",
}
_HOOKS = {"bpda": "bpda", "bpda-lowpass": "lowpass", "surrogate": "surrogate", "diffattack": "deviation"}


def _gradients() -> tuple[str, ...]:
    from bench.defense.defended import GRADIENTS

    return tuple(g for g in GRADIENTS if g != "none")


def _gradient(name: str) -> dict[str, Any]:
    """A gradient as it is shown: not an attack by itself, but how any attack differentiates the defence before it."""
    from bench.defense.base import Purifier
    from bench.defense.defended import GRADIENTS
    from bench.registry import DEFENSES

    hook = _HOOKS.get(name)
    own = [e.name for e in DEFENSES if hook and getattr(e.factory, hook, None) not in (None, getattr(Purifier, hook))]
    summary = next(words for gradient, words in GRADIENTS.items() if gradient == name)
    return {
        "name": name,
        "kind": "gradient",
        "summary": summary,
        "source": _SOURCES.get(name, ""),
        "usage": {"query": "rays+query", "strongest": "adaptive"}.get(name, f"pgd+{name}"),
        "defenses": own,
    }


def _print_gradient(item: dict[str, Any]) -> None:
    out.print(Text.assemble((item["name"], "bold"), "  (gradient)"), highlight=False)
    lines = [f"How an attack differentiates the defence: {item['summary']}."]
    if item["source"]:
        lines += ["", f"Source: {item['source']}"]
    if item["usage"] == "adaptive":
        lines += ["", "The attack adaptive has it, and no other: --attack adaptive."]
    else:
        lines += ["", f"Any attack takes it: --attack {item['usage']}, or 'gradient: {item['name']}' in a grid."]
    if item["defenses"]:
        of = "With a stand-in of their own" if item["name"] == "bpda" else "Defences that have it"
        lines.append(f"{of}: {', '.join(item['defenses'])}")
    out.print("\n".join(lines), markup=False, highlight=False)


def _draw(dataset: Entry, count: int, sheet: Path | None, animate: Path | None, data_root: Path | None) -> None:
    from bench.data.pictures import write_sheets

    params = {"root": data_root} if data_root is not None else {}
    for path in write_sheets(dataset.create(params), count, sheet, animate):
        out.print(f"wrote {path}", highlight=False)


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None), list, dict)) else str(value)


def _describe(entry: Entry) -> dict[str, Any]:
    parameters = [
        {
            "name": p.name,
            "type": p.annotation,
            "default": None if p.required else _plain(p.default),
            "required": p.required,
            "help": p.help,
        }
        for p in entry.parameters
    ]
    described: dict[str, Any] = {
        "name": entry.name,
        "kind": entry.kind,
        "summary": entry.summary,
        "description": entry.doc,
        "source": entry.source,
        "origin": entry.origin,
        "parameters": parameters,
    }
    if entry.kind == "model":
        from bench.weights.zoo import manifest

        described["weights"] = [e for e in manifest().values() if e["model"] == entry.name]
    if entry.name == "adaptive":
        described["lists"] = _lists()
    return described


def _lists() -> dict[str, list[str]]:
    """What ``adaptive`` runs against each kind of defence in a ball, and what a clip costs that nothing breaks."""
    from bench.attack.known import KINDS, moves_against
    from bench.attack.moves import Moves
    from bench.threat.budgets import Budget

    lists = {}
    for kind in KINDS:
        moves = moves_against(kind, Budget())
        forwards, backwards = Moves(moves).passes(Budget())
        cost = f"at most {forwards} passes forward and {backwards} backward, with a budget of {Budget().steps} steps"
        lists[f"{kind.name}; {cost}"] = [str(move) for move in moves]
    return lists


def _print_description(item: dict[str, Any]) -> None:
    from bench.weights.zoo import figures_in_words

    out.print(Text.assemble((item["name"], "bold"), f"  ({item['kind']})"), highlight=False)
    out.print(item["description"].split("\n\nArgs:")[0].split("\nArgs:")[0], markup=False, highlight=False)
    if item["source"]:
        out.print(f"\nSource: {item['source']}", markup=False, highlight=False)
    out.print(f"Defined in: {item['origin']}", markup=False, highlight=False)
    if item["parameters"]:
        out.print("\nParameters:")
    for p in item["parameters"]:
        default = "required" if p["required"] else f"default {p['default']!r}"
        out.print(f"  {p['name']} ({p['type']}, {default})", markup=False, highlight=False)
        if p["help"]:
            out.print(f"      {p['help']}", markup=False, highlight=False)
    for kind, moves in item.get("lists", {}).items():
        out.print(f"\nAgainst {kind}:", markup=False, highlight=False)
        for move in moves:
            out.print(f"  {move}", markup=False, highlight=False)
    for w in item.get("weights", []):
        out.print(
            f"\nShipped weights for {w['dataset']}: {w['parameters']} parameters, {figures_in_words(w)}.\n"
            f"Made by: {w['command']} ({w['minutes']} min, {w['hardware']})",
            markup=False,
            highlight=False,
        )
