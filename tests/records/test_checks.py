"""Result files that contradict themselves are refused, field by field."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit.cells import SOMEBODY, cell, identified

from bench import BenchError
from bench.records import checks
from bench.records.identity import BudgetIdentity, ComponentIdentity
from bench.records.outcome import Control, Outcome
from bench.records.results import CellResult, Score, read_result, read_results
from bench.run import judge
from bench.threat.budgets import NORMS

SIZE = 4 / 255


def attacked(clip: str, votes: list[int], draws: list[int] | None = None, **more: Any) -> Outcome:
    """A clip of class 0, moved as far as linf 4/255 allows."""
    values: dict[str, Any] = {"clean_prediction": 0, "prediction": votes[0], "correct": votes[0] == 0, "attacked": True}
    values |= {"linf": 0.015686303, "l2": 5.815, "changed": 0.9869, "trace": [0.1, 0.4, None], "forwards": 3}
    values |= {"backwards": 2, "measured": [2.5, 1.5]}
    return Outcome(**{"clip": clip, "label": 0, "votes": votes, "draws": draws or [], **values, **more})


def row(*, randomised: bool) -> list[CellResult]:
    """A clean cell and one under attack, of three clips that are right without it."""
    queries = 2 if randomised else None
    draws = ([0, 0], [1, 0], [2, 2]) if randomised else ([], [], [])
    cells = []
    for knowledge in ("clean", "adaptive"):
        adaptive = knowledge == "adaptive"
        result = cell("d", "PGD" if adaptive else "clean", knowledge, "111")  # type: ignore[arg-type]
        result.settings = result.settings.model_copy(update={"queries": queries})
        result.cell = result.settings.id
        if adaptive:
            votes = ([0, 1, 0], [1, 1, 2], [2, 0, 2])
            result.outcomes = [attacked(str(i), v, d) for i, (v, d) in enumerate(zip(votes, draws, strict=True))]
            words = "5 of 6 draws are right, 6 of 6 on the clean clips"
            words = words if randomised else "0 of 3 clips are answered differently although nothing was changed"
            result.control = Control(clips=3, passed=True, message=words)
        elif randomised:
            for outcome in result.outcomes:
                outcome.draws = [0, 0]
        result.score = Score.of(result.outcomes)
        cells.append(result)
    return cells


def written(folder: Path, cells: list[CellResult]) -> Path:
    """Writes cells; returns the file of the last."""
    folder.mkdir(exist_ok=True)
    for result in cells:
        (folder / result.file_name).write_text(result.to_text())
    return folder / cells[-1].file_name


def others(value: Any) -> Iterator[Any]:
    """Values of the same kind."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value + 1
        yield value - 1
    elif isinstance(value, float):
        yield 3 * value
        yield -value
        yield float("nan")
    elif isinstance(value, str):
        yield value + "0"
    elif isinstance(value, list):
        yield value[:-1]
        yield [*value, copy.deepcopy(value[-1])]


def edits(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every place in a file, with the values that could stand there instead."""
    for value in others(content):
        yield path, value
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, inner in items:
        yield from edits(inner, (*path, key))


def put(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    content = copy.deepcopy(content)
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return content


# What no other field of a file decides, by place; none of it enters an accuracy.
FREE = {
    "control.message": "words; the counts at their beginning are compared",
    "outcomes.backwards": "what an attack costs is known to the attack; only its sign and that it asked are",
    "outcomes.changed": "any fraction above 0",
    "outcomes.draws": "a wrong answer that stays wrong",
    "outcomes.forwards": "as backwards; at least one for each loss",
    "outcomes.l2": "of a linf budget: any length that is not below linf",
    "outcomes.measured": "a number of the defence's own",
    "outcomes.trace": "losses, any finite numbers",
    "outcomes.votes": "as long as the same class wins",
    "outcomes.linf": "anything smaller",
    "provenance": "who computed it, which decides nothing",
    **{f"provenance.{key}": "as provenance" for key in SOMEBODY.model_dump()},
    "version": "2 and 3, which say the same where all votes were asked",
}


@pytest.mark.parametrize("randomised", [False, True])
def test_a_file_with_any_field_changed_is_refused_or_the_field_is_free(tmp_path: Path, randomised: bool) -> None:
    cells = row(randomised=randomised)
    file = written(tmp_path, cells)
    assert len(read_results(tmp_path)) == 2
    content = json.loads(file.read_text())
    free, tried = set(), 0
    for path, value in edits(content):
        tried += 1
        file.write_text(json.dumps(put(content, path, value)))
        try:
            read_results(tmp_path)
        except BenchError:
            continue
        free.add(".".join(key for key in path if isinstance(key, str)))
    assert tried > 150
    assert free <= FREE.keys(), free - FREE.keys()
    assert {"outcomes.votes", "outcomes.trace", "outcomes.measured"} <= free  # what is free is really tried


def forged(file: Path, **fields: Any) -> str:
    """What reading says of a file of which some fields of the first clip are changed."""
    content = json.loads(file.read_text())
    content["outcomes"][0] |= fields
    file.write_text(json.dumps(content))
    with pytest.raises(BenchError) as caught:
        read_result(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert str(caught.value).endswith(": the file was changed by hand; run the grid again.")
    return str(caught.value)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"label": 5, "prediction": 3, "votes": [3]}, "clip 0 says correct = true, but prediction 3 is not label 5"),
        ({"correct": False}, "clip 0 says correct = false, but prediction 0 is label 0"),
        ({"linf": 0.9, "l2": 90.0}, "clip 0 says linf = 0.9, but the budget is linf 0.0156863"),
        ({"linf": 0.01569}, "clip 0 says linf = 0.01569, but the budget is linf 0.0156863"),
        ({"votes": [0, 1, 1]}, r"clip 0 says prediction = 0, but its votes [0, 1, 1] are for 1"),
        ({"votes": [1, 0]}, None),
        ({"votes": [0, 0, None]}, None),
        ({"votes": [0, 1, None]}, "has votes [0, 1, None], of which those unasked might have changed the decision"),
        ({"votes": [0, None, 0]}, "of which only the last of a plurality may be unasked"),
        ({"votes": [None]}, "has no votes"),
        ({"status": "failed"}, "clip 0 says status = failed, but has an answer"),
        ({"attacked": False}, "clip 0 says attacked = false, but forwards = 3"),
        ({"backwards": -1}, "clip 0 says forwards = 3 and backwards = -1"),
        ({"forwards": 1}, "clip 0 has a trace of 2 losses, but forwards = 1"),
        ({"linf": 0.0}, "which no two clips have"),
        ({"changed": 1.5}, "changed = 1.5"),
        ({"draws": [0, 1]}, "clip 0 has 2 draws, but its defence was asked only once"),
        ({"seconds": 1.0}, "clip 0 says seconds = 1, which no file holds"),
        ({"error": "x"}, "clip 0 says status = ok, but error = 'x'"),
        ({"clip": "1"}, "clip 1 is there twice"),
    ],
)
def test_a_contradiction_is_one_sentence_that_names_clip_and_fields(
    tmp_path: Path, fields: dict[str, Any], says: str | None
) -> None:
    file = written(tmp_path, row(randomised=False))
    if says is None:  # a tie goes to the lowest class, and there is nothing to object to
        content = json.loads(file.read_text())
        content["outcomes"][0] |= fields
        file.write_text(json.dumps(content))
        assert read_result(file).outcomes[0].votes == fields["votes"]
    else:
        assert says in forged(file, **fields)


def test_clips_are_spared_only_where_a_deterministic_defence_errs_on_the_clean_one(tmp_path: Path) -> None:
    cells = row(randomised=False)
    spared = Outcome(clip="0", label=0, clean_prediction=1, prediction=1, votes=[1])
    cells[1].outcomes[0] = spared
    cells[1].score = Score.of(cells[1].outcomes)
    assert read_result(written(tmp_path, cells)).outcomes[0] == spared
    for change in ({"clean_prediction": 0}, {"prediction": 0, "votes": [0], "correct": True}):
        cells[1].outcomes[0] = spared.model_copy(update=change)
        cells[1].score = Score.of(cells[1].outcomes)
        with pytest.raises(BenchError, match="only mistakes of a deterministic defence are spared"):
            read_result(written(tmp_path, cells))


def test_a_mean_of_probabilities_may_choose_a_class_that_no_candidate_has(tmp_path: Path) -> None:
    cells = row(randomised=False)
    cells[1].outcomes[0] = attacked("0", [0, 1, 1])
    with pytest.raises(BenchError, match="are for 1"):
        read_result(written(tmp_path, cells))
    cells[1].settings = cells[1].settings.model_copy(update={"vote": "mean"})
    cells[1].cell = cells[1].settings.id
    assert read_result(written(tmp_path, cells)).outcomes[0].prediction == 0


def test_files_of_one_folder_say_the_same_of_the_clean_clips(tmp_path: Path) -> None:
    cells = row(randomised=False)
    cells[1].outcomes[2].clean_prediction = 4
    written(tmp_path, cells)
    with pytest.raises(
        BenchError, match=r"clip 2 says clean_prediction = 4, but m--d--clean\.json says prediction = 0"
    ):
        read_results(tmp_path)
    cells[0].outcomes[2] = Outcome(clip="2", label=0, status="failed", error="boom")  # since mended, or not yet
    cells[0].score = Score.of(cells[0].outcomes)
    written(tmp_path, cells)
    assert len(read_results(tmp_path)) == 2
    cells = row(randomised=False)
    cells[1].outcomes[1].label = 6
    file = written(tmp_path, cells)
    with pytest.raises(BenchError, match="clip 1 says label = 0, but other files say 6"):
        read_results(tmp_path)
    file.rename(tmp_path / "renamed.json")
    with pytest.raises(BenchError, match=r"renamed\.json: its labels are those of m--d--PGD"):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("control", "holds"),
    [
        (Control(clips=3, passed=True, message="0 of 3 clips are answered differently"), True),
        (Control(clips=3, passed=True, message="1 of 3 clips are answered differently"), False),
        (Control(clips=3, passed=False, message="0 of 3 clips are answered differently"), False),
        (Control(clips=2, passed=True, message="0 of 3 clips are answered differently"), False),
        (Control(clips=9, passed=True, message="0 of 9 clips are answered differently"), True),
        (Control(clips=0, passed=True, message="0 of 0 clips are answered differently"), False),
        (Control(clips=3, passed=False, message="3: it broke"), True),
        (Control(clips=3, passed=True, message="3: it broke"), False),
        (Control(clips=3, passed=True, message="1 of 6 draws are right, 6 of 6 on the clean clips"), False),
        (Control(clips=3, passed=False, message="1 of 6 draws are right, 6 of 6 on the clean clips"), True),
        (Control(clips=3, passed=False, message="1 of 9 draws are right, 9 of 9 on the clean clips"), False),
    ],
)
def test_a_control_says_what_it_saw(control: Control, holds: bool) -> None:
    result = row(randomised="draws" in control.message)[1]
    result.control = control
    assert (checks.contradiction(result) is None) == holds


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"knowledge": "gray-box"}, "knowledge = gray-box, but its settings say adaptive"),
        ({"gradient": "bpda"}, "gradient = bpda, but its settings say exact"),
        ({"budget": ""}, "but has no budget label"),
        ({"cell": "0123456789abcdef"}, "cell = 0123456789abcdef, but its settings come to"),
        ({"outcomes": []}, "it holds no clip"),
    ],
)
def test_labels_and_identity_agree(change: dict[str, Any], says: str) -> None:
    found = checks.contradiction(row(randomised=False)[1].model_copy(update=change))
    assert found is not None
    assert says in found


def test_attackers_are_what_they_know() -> None:
    attack, budget = ComponentIdentity(name="pgd"), BudgetIdentity(norm="linf", size=SIZE, steps=1, restarts=1)
    base = row(randomised=False)[1].model_copy(update={"control": None})
    defended, other = ComponentIdentity(name="d2"), ComponentIdentity(name="other")
    against = identified("none", "gray-box", "bpda", attack, budget).model_copy(update={"against": defended})
    update = {"settings": against, "cell": against.id, "knowledge": "gray-box", "gradient": "bpda"}
    assert checks.contradiction(base.model_copy(update=update)) is None
    adaptive = base.settings.model_copy(update={"against": defended})
    assert checks.contradiction(base.model_copy(update={"settings": adaptive, "cell": adaptive.id}))
    for knowledge, gradient, source in (
        ("black-box", "none", None),
        ("gray-box", "none", other),
        ("adaptive", "none", None),
        ("gray-box", "exact", None),
        ("noise", "none", None),  # whose clips took passes
    ):
        settings = identified("d", knowledge, gradient, attack, budget)  # type: ignore[arg-type]
        settings = settings.model_copy(update={"source": source})
        update = {"settings": settings, "cell": settings.id, "knowledge": knowledge, "gradient": gradient}
        assert checks.contradiction(base.model_copy(update=update)), (knowledge, gradient)


def test_tolerances_are_those_of_the_judge() -> None:
    assert (checks.LINF_SLACK, checks.L2_RELATIVE_SLACK) == (judge.LINF_SLACK, judge.L2_RELATIVE_SLACK)


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_no_clip_that_the_judge_accepts_is_refused(norm: str) -> None:
    """Clips as far out as each ball goes, judged and then checked."""
    import torch

    from bench.seeds import ClipRandom
    from bench.threat.budgets import Budget

    size = 2 if norm in ("rectangle", "border", "pixels", "framing") else 0.5
    clips = torch.rand(6, 3, 4, 12, 12, generator=torch.Generator().manual_seed(0))
    budget = Budget(norm=norm, size=size, steps=1)
    rng = ClipRandom(list(range(6)))
    far = (clips + torch.randn(clips.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    for moved in (budget.geometry.random_start(clips, size, rng), budget.geometry.project(far, clips, size)):
        for before, after in zip(clips, moved, strict=True):
            assert judge.violation(before, after, budget) is None
            distance = judge.distances(before, after)
            kept = {"linf": float(f"{distance.linf:.8g}"), "l2": float(f"{distance.l2:.4g}")}
            most = checks.most_of(BudgetIdentity(norm=norm, size=size, steps=1, restarts=1))
            assert all(kept[field] <= limit for field, limit in most.items()), (kept, most)


def test_the_largest_factors_move_a_value_by_less_than_all() -> None:
    """A factor of 2 or 1/2 moves a value of [0, 1] by at most 1/2; a linf distance of .9 is none."""
    for norm, size in (("mult-linf", 1.0), ("mult-l2", 0.6931471805599453)):
        most = checks.most_of(BudgetIdentity(norm=norm, size=size, steps=1, restarts=1))
        assert most["linf"] == pytest.approx(0.5, abs=0.01)
    assert checks.most_of(None) == {"linf": 0.0, "l2": 0.0, "changed": 0.0}


def test_every_shipped_result_agrees_with_itself() -> None:
    folder = Path(__file__).parents[2] / "results"
    grids = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name != "reported"]
    assert sum(len(read_results(path)) for path in grids) > 500
