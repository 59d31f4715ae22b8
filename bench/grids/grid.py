"""Grids: YAML files that name classifiers, defences, attacks and budgets.

.. code-block:: yaml

    title: Simple defences on the embedded clips
    dataset: {name: motion12, clips: 96}
    models: [nl_tiny]
    defenses: [none, jpeg, {name: jpeg, quality: 50}]
    budgets: [{norm: linf, size: 4/255, steps: 10}]
    attacks: [clean, noise, PGD, PGD+BPDA, PGD+exact]

An attack is written as a label, ``ATTACK`` (gray-box) or ``ATTACK+GRADIENT`` (adaptive), or as a mapping
``{attack: {name: pgd, loss: margin}, gradient: bpda, label: PGD-margin+BPDA}``. With ``source: slowfast_tiny`` its
clips are made on that classifier instead (black-box transfer). ``adaptive`` stands alone: it runs the strongest attacks
known for the kind of each defence. ``{worst: [PGD+BPDA, PGD+exact], label: Worst}`` is the column of the clips that
survive both. ``{attack: pgd, gradient: bpda, against: Mine, label: ...}`` shows the undefended classifier the clips
that were made against the grid's defence ``Mine``: whether knowing a defence costs the attacker.

With ``labels: own`` in the data set's section, labels are the classifier's own answers to the clean clips.
With ``dataset: {name: motion12, select: {correct-by: [nl_tiny, slowfast_tiny]}}`` the grid is run on the clips that
both classifiers get right.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bench import userfiles
from bench.errors import BenchError, nearest, short
from bench.files import slug
from bench.modes import Precision, check_precision
from bench.records.description import AcrossSection, ReportedSection
from bench.records.identity import Gradient
from bench.records.strict_yaml import read_yaml
from bench.registry import Spec

TOGETHER = ("Union", "Mean", "Seconds")
"""Headings that every table may have beside its attacks."""
_RESERVED = {"clean", "standard", "defence", "audit", *(heading.casefold() for heading in TOGETHER)}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


class SelectSection(_Section):
    """Which clips of a data set are taken: those that some classifiers, undefended, all get right.

    Attributes:
        correct_by: the classifiers, written ``correct-by``.
        per_class: so many clips of each class, drawn by the grid's seed from those that are right, written
            ``per-class``; all of them if not given.
    """

    correct_by: list[Any] = Field(alias="correct-by", min_length=1)
    per_class: int | None = Field(default=None, alias="per-class", ge=1, strict=True)

    @property
    def specs(self) -> list[Spec]:
        return [Spec.parse(entry) for entry in self.correct_by]


class DatasetSection(BaseModel):
    """The data set, how many of its clips, and its parameters (any further key).

    Attributes:
        name: registered name.
        clips: the first so many clips, or all of them; of those that are selected.
        select: takes only some of the clips; all if not given.
        labels: ``given`` by the data set, or ``own``: what the grid's one classifier, undefended, answers to the clean
            clip. Figures are then agreement with itself and no accuracy.
    """

    model_config = ConfigDict(extra="allow")

    name: str
    clips: int | None = Field(default=None, ge=1, strict=True)
    select: SelectSection | None = None
    labels: Literal["given", "own"] = "given"

    @property
    def spec(self) -> Spec:
        return Spec(userfiles.absolute(self.name), dict(self.model_extra or {}))


# The parameters may hold a plus, too; and so may the path of a file.
_REST = r"\s*(?P<params>\(.*\))?\s*(?:\+\s*(?P<gradient>[^()]*?)\s*)?"
_LABEL = re.compile(r"\s*(?P<name>[^\s(+]+)" + _REST, flags=re.DOTALL)
_FILE_LABEL = re.compile(r"\s*(?P<name>.+?\.py(?::[\w.\-]+)?)" + _REST, flags=re.DOTALL)


class AttackSection(_Section):
    """One attack of the grid.

    Attributes:
        label: column header, unique within the grid.
        attack: the attack, or ``None`` for ``clean``.
        gradient: ``None`` for gray-box, else how the defence is differentiated.
        budget: overrides of single keys of the grid's budgets, e.g. ``{steps: 50}``.
        source: another classifier, on which the clips are made; ``None`` for the one that is evaluated.
        against: label of a defence of the grid; the clips are made against it and shown to the undefended classifier.
        worst: instead of an attack, labels of others: a column computed from their outcomes.
    """

    label: str
    attack: Spec | None
    gradient: Gradient | None = None
    budget: dict[str, Any] = {}
    source: Spec | None = None
    against: str | None = None
    worst: list[str] = []

    @classmethod
    def read(cls, entry: str | Mapping[str, Any]) -> AttackSection:
        """Reads a label or a mapping.

        Raises:
            BenchError: an unknown key, a value of the wrong kind, or nothing that names an attack.
        """
        if not isinstance(entry, (str, Mapping)):
            raise BenchError(
                f"Cannot read attack {entry!r}: write a label such as PGD+BPDA, or a mapping with 'attack'."
            )
        if isinstance(entry, str):
            return cls._read_label(entry)
        if "worst" in entry:
            return cls._read_worst(entry)
        known = ("attack", "gradient", "label", "budget", "source", "against")
        for key in entry:
            if key not in known:
                raise BenchError(f"An attack has no key {key!r}{nearest(str(key), known)}; keys: {', '.join(known)}.")
        if "attack" not in entry:
            raise BenchError(f"This attack names none: {dict(entry)!r}; add 'attack: NAME'.")
        spec = Spec.parse(entry["attack"])
        source = Spec.parse(entry["source"]) if entry.get("source") is not None else None
        gradient = _of_its_own(spec, _gradient(entry.get("gradient"), str(entry.get("label", spec))))
        if source is not None and gradient is not None:
            raise BenchError(
                f"Attack {spec} has a source, {source}, and a gradient, {gradient}: who differentiates the defence "
                "knows the classifier. Remove one."
            )
        against = entry.get("against")
        if against is not None and gradient is None:
            raise BenchError(
                f"Attack {spec} is made against {against}: say with 'gradient' how that defence is differentiated."
            )
        shown = gradient if gradient != "strongest" else None
        default = str(spec) + (f"@{source}" if source else "") + (f"+{shown}" if shown else "")
        default += f" against {against}" if against is not None else ""
        try:
            return cls(
                label=entry.get("label", default),
                attack=spec,
                gradient=gradient,
                budget=entry.get("budget", {}),
                source=source,
                against=against,
            )
        except ValidationError as error:
            raise _explain(f"attack {spec} is", error) from error

    @classmethod
    def _read_label(cls, entry: str) -> AttackSection:
        of_file = _FILE_LABEL.fullmatch(entry)
        is_path = of_file is not None and "/" in Path(entry.partition("(")[0]).as_posix()
        match = of_file if is_path else _LABEL.fullmatch(entry) or of_file
        if match is None:
            raise BenchError(f"Cannot read attack {short(entry)}: write ATTACK or ATTACK+GRADIENT.")
        name, params, gradient = match["name"], match["params"] or "", match["gradient"]
        if name.lower() == "clean":
            if params or gradient is not None:
                raise BenchError(f"Cannot read attack {short(entry)}: clean clips are not attacked; write clean alone.")
            return cls(label="clean", attack=None)
        # Labels are written as papers write them; parameters mean what they say.
        is_path = userfiles.split(name) is not None
        spec = Spec.parse((name if ":" in name or is_path else name.lower().replace("-", "_")) + params)
        if gradient == "":
            raise BenchError(
                f"Attack {short(entry)} names no gradient behind the plus: leave it out for a gray-box one."
            )
        taken = _gradient(gradient.lower() if gradient else None, entry)
        label = (f"{spec}+{gradient}" if gradient else str(spec)) if is_path else entry
        return cls(label=label, attack=spec, gradient=_of_its_own(spec, taken))

    @classmethod
    def _read_worst(cls, entry: Mapping[str, Any]) -> AttackSection:
        extra = sorted(set(entry) - {"worst", "label"})
        if extra:
            raise BenchError(f"A column 'worst' takes labels of attacks and a label, not {', '.join(extra)}.")
        try:
            return cls(label=entry.get("label", "Worst"), attack=None, worst=entry["worst"])
        except ValidationError as error:
            raise _explain("column 'worst' is", error) from error


# Its moves differentiate the defence each in a way of its own.
_ADAPTIVE = "adaptive"


def _of_its_own(spec: Spec, gradient: Gradient | None) -> Gradient | None:
    """The gradient of an attack; ``adaptive`` brings its own, and nothing else has that one."""
    if (spec.name == _ADAPTIVE and gradient not in (None, "strongest")) or (
        spec.name != _ADAPTIVE and gradient == "strongest"
    ):
        raise BenchError(
            f"Attack {spec} cannot take the gradient {gradient!r}: write {_ADAPTIVE} alone, or another one."
        )
    return "strongest" if spec.name == _ADAPTIVE else gradient


def _gradient(name: Any, label: str) -> Gradient | None:
    """Checks how an attack differentiates the defence."""
    if name is not None and name not in get_args(Gradient):
        known = get_args(Gradient)
        raise BenchError(
            f"Attack {label!r} asks for gradient {name!r}{nearest(str(name), known)}; known: {', '.join(known)}."
        )
    gradient: Gradient | None = name
    return gradient


class Grid(_Section):
    """A validated grid.

    Attributes:
        name: file name without suffix; results go to ``results/<name>/``.
        title, summary: for people.
        dataset, models, defenses, budgets, attacks: what is crossed.
        seed: of every random choice.
        precision: in which numbers networks compute under attack, see :data:`bench.modes.Precision`; the judge's always
            compute in ``fp32``.
        queries: how often a randomised defence is asked about each clip; its accuracy is the average.
        oracles: rows composed of others, ``{label: {attack: defence}}``: what a defence would do that was told the
            attack. None of them is a defence.
        counts_clean: whether Union and Mean count the clean clips as one of the attacks, as Lo and Patel (IEEE TIP
            2022) do.
        timed: whether the tables show what one pass of a clip through each defence takes.
        averages: columns that are the mean of some attacks' accuracies, ``{label: [attack labels]}``, as papers print
            them. An attack that does not exist for a defence is left out of its mean.
        across: columns that are the mean of one column over several grids, ``{label: {column: C, grids: [G, H]}}``, by
            the labels of the defences; they show once all of those grids have been run.
        reported: published figures shown beside the measured ones.
        stands_for: the shipped grid of a paper's table whose rows and columns these are in the embedded size. Figures
            of that table are compared with these ones, and said to be of other clips and networks.
    """

    name: str
    title: str = ""
    summary: str = ""
    dataset: DatasetSection
    models: list[Any] = Field(min_length=1)
    defenses: list[Any] = Field(min_length=1)
    budgets: list[dict[str, Any]] = Field(default=[{}], min_length=1)
    attacks: list[Any] = Field(min_length=1)
    seed: int = Field(default=0, strict=True)
    precision: Precision = "fp32"
    queries: int = Field(default=10, ge=1, strict=True)
    oracles: dict[str, dict[str, str]] = {}
    counts_clean: bool = Field(default=False, strict=True)
    timed: bool = Field(default=False, strict=True)
    averages: dict[str, list[str]] = {}
    across: dict[str, AcrossSection] = {}
    reported: ReportedSection | None = None
    stands_for: str = ""

    @field_validator("stands_for")
    @classmethod
    def _is_shipped(cls, name: str) -> str:
        if name and name not in (shipped := shipped_grids()):
            raise ValueError(f"there is no shipped grid {name!r}{nearest(name, shipped)}")
        return name

    @field_validator("name")
    @classmethod
    def _usable_folder(cls, name: str) -> str:
        if not re.fullmatch(r"\w[\w.+=-]*", name) or name == "reported":
            raise ValueError(
                f"{name!r} cannot name a folder of results: use letters, digits, '_', '.', '+', '=' and '-', and not "
                "'reported'"
            )
        return name

    @model_validator(mode="after")
    def _whose_figures(self) -> Self:
        if self.reported is not None and not self.reported.model:
            if len(self.models) > 1:
                raise ValueError("with several models, 'reported' needs a 'model': the one its figures belong to")
            self.reported.model = str(Spec.parse(self.models[0]))
        return self

    def check(self) -> None:
        """Reads every entry, so that an unreadable or repeated one fails before anything is loaded.

        Raises:
            BenchError: an entry cannot be read, or is there twice.
        """
        for what, specs in (("model", self.model_specs), ("defence", self.defense_specs)):
            labels = [str(s) for s in specs]
            # The undefended row is there whether it is named or not.
            labels = ["none", *(label for label in labels if label != "none")] if what == "defence" else labels
            self._check_twice(what, [str(s) for s in specs])
            _check_slugs(what, labels)
        _check_slugs("attack", [s.label for s in self.attack_sections])
        self._check_reserved()
        if self.dataset.select is not None:
            self._check_twice("classifier to select by", [str(s) for s in self.dataset.select.specs])
        self._check_own()
        attacks = [s.label for s in self.attack_sections]
        defenses = [str(s) for s in self.defense_specs]
        self._check_averages(attacks)
        for section in self.attack_sections:
            if section.against is not None and section.against not in defenses:
                raise BenchError(
                    f"Attack {section.label!r} of grid {self.name!r} is made against {section.against!r}, which it "
                    f"does not have{nearest(section.against, defenses)}; its defences: {', '.join(defenses)}."
                )
        for label, parts in self.oracles.items():
            if label in defenses:
                raise BenchError(f"Grid {self.name!r} has a defence and an oracle called {label!r}: rename one.")
            for what, known, used in (("attack", attacks, list(parts)), ("defence", defenses, list(parts.values()))):
                for name in used:
                    if name not in known:
                        raise BenchError(
                            f"Oracle {label!r} of grid {self.name!r} needs the {what} {name!r}, which it does not "
                            f"have{nearest(name, known)}; it has: {', '.join(known)}."
                        )

    def _check_own(self) -> None:
        """Labels that are a classifier's own answers are of one classifier, and all right by it."""
        if self.dataset.labels != "own":
            return
        if len(self.models) > 1:
            raise BenchError(
                f"Grid {self.name!r} takes the classifier's own answers for labels, and has several classifiers: "
                "choose one with --model."
            )
        if self.dataset.select is not None or self.reported is not None:
            raise BenchError(
                f"Grid {self.name!r} takes the classifier's own answers for labels, beside which neither 'select' nor "
                "'reported' means anything: leave them out."
            )

    def _check_reserved(self) -> None:
        """No row or column may pass for the ones that stand in every table."""
        for section in self.attack_sections:
            if section.attack is not None and section.label.casefold() in _RESERVED:
                raise BenchError(
                    f"An attack of grid {self.name!r} is labelled {section.label!r}, as a column that is no attack: "
                    "give it another 'label'."
                )
        rows = [str(s) for s in self.defense_specs if s != Spec("none")]
        for row in (*rows, *self.oracles):
            if row.casefold() == "none":
                raise BenchError(
                    f"A row of grid {self.name!r} is labelled {row!r}, as the undefended one: give it another 'label'."
                )

    def _check_averages(self, attacks: Sequence[str]) -> None:
        for label in (*self.averages, *self.across):
            if label in (*attacks, *self.worst, *TOGETHER) or (label in self.averages and label in self.across):
                raise BenchError(f"Grid {self.name!r} has another column called {label!r}: rename the average.")
        for label, parts in self.averages.items():
            if not parts:
                raise BenchError(f"Average {label!r} of grid {self.name!r} is of no attack: name some.")
            self._check_twice(f"in the average {label!r} the attack", parts)
            for part in parts:
                if part not in attacks:
                    raise BenchError(
                        f"Average {label!r} of grid {self.name!r} needs the attack {part!r}, which it does not "
                        f"have{nearest(part, attacks)}; it has: {', '.join(attacks)}."
                    )

    def _check_twice(self, what: str, labels: Sequence[str]) -> None:
        twice = [label for label in labels if labels.count(label) > 1]
        if twice:
            raise BenchError(f"Grid {self.name!r} lists {what} {twice[0]} twice: remove one.")

    @property
    def model_specs(self) -> list[Spec]:
        return [Spec.parse(m) for m in self.models]

    @property
    def defense_specs(self) -> list[Spec]:
        return [Spec.parse(d) for d in self.defenses]

    @property
    def attack_sections(self) -> list[AttackSection]:
        """The attacks, ``clean`` first whether it is written or not: Standard Acc belongs to every table.

        Raises:
            BenchError: two attacks with one label.
        """
        sections = [AttackSection.read(a) for a in self.attacks]
        self._check_worst(sections)
        labels = [s.label for s in sections if s.label != "clean"]
        sections = [AttackSection.read("clean"), *(s for s in sections if s.attack is not None)]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise BenchError(f"Grid {self.name!r} has two attacks labelled {twice[0]!r}: give one another 'label'.")
        return sections

    @staticmethod
    def _check_worst(sections: Sequence[AttackSection]) -> None:
        labels = [s.label for s in sections if s.attack is not None]
        for section in sections:
            for label in section.worst:
                if label not in labels:
                    raise BenchError(
                        f"Column {section.label!r} is the worst of {label!r} among others, which the grid does not "
                        f"have{nearest(label, labels)}; its attacks: {', '.join(labels)}."
                    )

    @property
    def worst(self) -> dict[str, list[str]]:
        """Columns computed from others: label to the labels they are the worst of."""
        sections = [AttackSection.read(a) for a in self.attacks]
        return {s.label: list(s.worst) for s in sections if s.worst}


def _check_slugs(what: str, labels: Sequence[str]) -> None:
    """Labels become file names, in which only letters, digits and a few signs are left, and case may not count."""
    seen: dict[str, str] = {}
    for label in labels:
        if not label.isprintable():
            raise BenchError(f"The {what} label {short(label)} holds signs that cannot be printed: leave them out.")
        name = slug(label).casefold()
        if not name:
            raise BenchError(f"The {what} label {label!r} makes no file name: use a letter or a digit in it.")
        if seen.setdefault(name, label) != label:
            raise BenchError(
                f"The {what} labels {seen[name]!r} and {label!r} make one file name: give one another 'label'."
            )


def _explain(subject: str, error: ValidationError) -> BenchError:
    sentences = []
    for problem in error.errors():
        where = ".".join(str(p) for p in problem["loc"])
        if problem["type"] == "extra_forbidden":
            parents: dict[Any, type[BaseModel]] = {"reported": ReportedSection, "dataset": SelectSection}
            parent = parents.get(problem["loc"][0], Grid)
            keys = [field.alias or name for name, field in parent.model_fields.items()]
            key = str(problem["loc"][-1])
            sentences.append(f"unknown key {where!r}{nearest(key, keys)}")
        elif problem["type"] == "missing":
            sentences.append(f"key {where!r} is missing")
        elif problem["type"] == "value_error":
            sentences.append(str(problem["ctx"]["error"]))
        else:
            sentences.append(f"{where!r}: {problem['msg'].lower()}")
    return BenchError(f"{subject[0].upper()}{subject[1:]} not valid: {'; '.join(sentences)}.")


def read_mapping(content: Mapping[str, Any]) -> Grid:
    """Checks a grid that is given as a mapping with the keys of a grid file, and a name.

    Raises:
        BenchError: a key is unknown, missing or of the wrong kind.
    """
    name = content.get("name")
    if name is None:
        raise BenchError("A grid that is given as a mapping needs a 'name': its results go to a folder of that name.")
    try:
        grid = Grid(**{str(key): value for key, value in content.items()})
    except ValidationError as error:
        raise _explain(f"grid {name!r} is", error) from error
    grid.check()
    return grid


def read_grid(path: Path) -> Grid:
    """Reads and checks a grid file.

    Raises:
        BenchError: not YAML, or a key is unknown, missing or of the wrong kind.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BenchError(f"Grid file {path} is not UTF-8 text: {error.reason} at byte {error.start}.") from error
    except OSError as error:
        raise BenchError(f"Cannot read grid file {path}: {error.strerror or error}.") from error
    content = read_yaml(text, f"Grid file {path}")
    if not isinstance(content, dict):
        raise BenchError(f"Grid file {path} must hold keys such as dataset, models, defenses and attacks.")
    content = {str(key): _placed(value, path.parent) for key, value in content.items()}
    grid = read_mapping({"name": path.stem, **content})
    shipped = shipped_grids().get(grid.name)
    if shipped is not None and shipped.resolve() != path.resolve():
        raise BenchError(
            f"Grid file {path} is called {grid.name!r} as a shipped grid is, and would overwrite its results: rename "
            "the file, or give it another 'name'."
        )
    return grid


_RELATIVE = re.compile(r"\s*([^\s(/][^(]*?\.py)(?=\s*$|:[\w\-]|\s*[(+])")


def _placed(value: Any, folder: Path) -> Any:
    """What a grid file holds, with paths of Python files beside it made whole; others start from the working folder, as
    on the command line."""
    if isinstance(value, dict):
        return {
            key: inner if key in ("title", "summary", "label") else _placed(inner, folder)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_placed(inner, folder) for inner in value]
    match = _RELATIVE.match(value) if isinstance(value, str) else None
    if match is None or not (folder / match[1]).is_file():
        return value
    return userfiles.absolute(match[1], folder) + value[match.end() :]


def shipped_grids() -> dict[str, Path]:
    """Grids inside the package: name to file."""
    folder = Path(str(resources.files("bench.grids")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_grid(name: str) -> Grid:
    """A shipped grid by name, or any grid file by path.

    Raises:
        BenchError: neither exists.
    """
    grids = shipped_grids()
    if name in grids:
        return read_grid(grids[name])
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return read_grid(path)
        raise BenchError(f"There is no grid file {name}.")
    raise BenchError(
        f"There is no grid {name!r}{nearest(name, grids)}; known: {', '.join(grids)}, or give a .yaml file."
    )


def override(
    grid: Grid,
    *,
    models: Sequence[str] = (),
    defenses: Sequence[str] = (),
    attacks: Sequence[str] = (),
    clips: int | None = None,
    steps: int | None = None,
    seed: int | None = None,
    precision: str | None = None,
    label: str | None = None,
    dataset: str | None = None,
    wrap: Mapping[str, Any] | None = None,
) -> Grid:
    """A grid with some of its parts replaced from the command line.

    ``label`` names the one classifier or defence that is given; ``wrap`` says how the classifiers that are given take
    their clips. Another data set is taken whole, without the grid's selection of clips and without published figures,
    which are of others.

    Defences are *added* to the undefended row rather than put in place of it: a defence cannot be read
    without its baseline. Other defences, attacks and classifiers are rows, columns and tables of the same grid;
    other clips, steps, seeds or precisions make it another measurement, with a name and a results folder of its own, so
    that a quick look never overwrites the full one.
    """
    changes: dict[str, Any] = {}
    if label is not None and len(models) + len(defenses) != 1:
        raise BenchError(
            f"--label names the row of one --defense or one --model, and {len(models) + len(defenses)} are given: give "
            "one, or write labels into a grid file."
        )
    if wrap and not models:
        raise BenchError(f"--{next(iter(wrap))} says how a --model takes its clips: give that, too.")
    if models:
        specs = [Spec.parse(m) for m in models] if wrap else []
        wrapped = [replace(s, params={**s.params, "wrap": {**s.params.get("wrap", {}), **(wrap or {})}}) for s in specs]
        changes["models"] = _labelled(wrapped or models, label)
    if defenses:
        changes["defenses"] = ["none", *_labelled([d for d in dict.fromkeys(defenses) if d != "none"], label)]
        known = [str(Spec.parse(d)) for d in changes["defenses"]]
        # Columns of clips that are made against a defence go with it.
        changes["attacks"] = [a for a in grid.attacks if AttackSection.read(a).against in (None, *known)]
    if attacks:
        changes["attacks"] = list(attacks)
    if "attacks" in changes:
        labels = [AttackSection.read(a).label for a in changes["attacks"]]
        # A paper's average is of all its attacks, or is none.
        changes["averages"] = {k: parts for k, parts in grid.averages.items() if set(parts) <= set(labels)}
    section = grid.dataset
    if dataset is not None:
        section = _dataset_section(dataset, grid.dataset.labels)
        changes |= {"dataset": section, "reported": None, "across": {}}
    if clips is not None:
        if clips < 1:
            raise BenchError(f"--clips must be at least 1, not {clips}.")
        changes["dataset"] = section.model_copy(update={"clips": clips})
    if steps is not None:
        changes["budgets"] = [{**b, "steps": steps} for b in grid.budgets]
    if seed is not None:
        changes["seed"] = seed
    if precision is not None:
        check_precision(precision)
        changes["precision"] = precision
    same = precision is None or precision == grid.precision
    other = {"clips": clips, "steps": steps, "seed": seed, "precision": None if same else precision}
    tags = [f"{key}{value}" for key, value in other.items() if value is not None]
    words = ", ".join(f"{key} {value}" for key, value in other.items() if value is not None)
    if dataset is not None:
        own = ["own-labels"] if section.labels == "own" != grid.dataset.labels else []
        tags = [f"on-{slug(userfiles.shown(section.name))}-{_short_digest(section.spec)}", *own, *tags]
        words = ", ".join(filter(None, (f"data set {section.spec}", words)))
    if tags:
        changes |= {"name": "-".join([grid.name, *tags]), "title": f"{grid.title or grid.name} ({words})"}
    changed = grid.model_copy(update=changes)
    changed.check()
    return changed


def _dataset_section(text: str, labels: str) -> DatasetSection:
    """Of a data set on the command line; ``labels`` are the grid's where it does not say which."""
    spec = Spec.parse(text)
    for key in ("clips", "select"):
        if key in spec.params:
            raise BenchError(f"--dataset names a data set and its parameters, and {key!r} is none: write a grid file.")
    try:
        return DatasetSection(name=spec.name, **{"labels": labels, **spec.params})
    except ValidationError as error:
        raise _explain("--dataset is", error) from error


def _short_digest(spec: Spec) -> str:
    """Tells data sets of one name apart, in the names of folders."""
    return hashlib.sha256(f"{spec.name} {sorted(spec.params.items())}".encode()).hexdigest()[:6]


def _labelled(texts: Sequence[str | Spec], label: str | None) -> list[Any]:
    return list(texts) if label is None else [replace(Spec.parse(text), label=label) for text in texts]
