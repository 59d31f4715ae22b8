"""The runner: what is computed, what is kept, what is charged to whom."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kit.gray import MARGIN, Counting, Offset
from kit.running import run, run_plan

from bench import BenchError
from bench.grids.grid import read_grid
from bench.plan.expand import make_plan
from bench.records.outcome import Outcome
from bench.run.engine import LocalEngine
from bench.run.export import collect
from bench.run.runner import Runner
from bench.run.store import Store

Write = Callable[..., Path]
CPU = torch.device("cpu")
ALL = "[clean, noise, PGD, PGD+BPDA, PGD+exact]"


def without_time(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    return [o.model_dump(exclude={"seconds"}) for o in outcomes]


def test_a_budget_beyond_the_margin_breaks_every_clip_and_one_below_breaks_none(
    gray_grid: Write, tmp_path: Path
) -> None:
    # The outermost classes can only be pushed inwards, the middle one either way; the margin is 0.1 for all.
    strong = run(gray_grid(("size: 0.15", f"size: {1.2 * MARGIN}")), tmp_path / "a")
    weak = run(gray_grid(("size: 0.15", f"size: {0.8 * MARGIN}")), tmp_path / "a")
    for attack in ("PGD", "PGD+BPDA", "PGD+exact"):
        assert strong["none", attack].score.correct == 0
        assert weak["none", attack].score.correct == 6
    assert strong["none", "clean"].score.correct == strong["none", "noise"].score.correct == 6


def test_the_identity_defence_reproduces_the_undefended_outcomes_exactly(gray_grid: Write, tmp_path: Path) -> None:
    """On the shipped classifier, clip by clip: predictions, distances and counted passes of the judged clips."""
    path = gray_grid(
        ('"kit.gray:GrayClips", length: 6', "motion12, clips: 6"),
        ("kit.gray:level_classifier", "nl_tiny"),
        ("size: 0.15", "size: 2/255"),
        (ALL, "[noise, PGD]"),
    )
    cells = run(path, tmp_path / "s")
    for attack in ("clean", "noise", "PGD"):
        assert without_time(cells["kit.gray:Identity", attack].outcomes) == without_time(cells["none", attack].outcomes)


def test_adaptive_attacks_through_the_identity_find_what_the_bare_attack_finds(
    gray_grid: Write, tmp_path: Path
) -> None:
    cells = run(gray_grid(), tmp_path / "s")
    for gradient in ("PGD+BPDA", "PGD+exact"):
        for bare, through in zip(
            cells["none", gradient].outcomes, cells["kit.gray:Identity", gradient].outcomes, strict=True
        ):
            assert (bare.prediction, bare.correct) == (through.prediction, through.correct)
            # The same random start, since the seed leaves the defence out: the first loss is the same number.
            assert bare.trace[0] == through.trace[0]


def test_an_attack_that_a_row_cannot_take_costs_its_own_cell_alone(gray_grid: Write, tmp_path: Path) -> None:
    attack = '{attack: "kit.moves:Decided(by=0.15)", gradient: query, label: Decided}'
    path = gray_grid((ALL, f"[noise, {attack}, PGD, PGD+exact]"), ('"kit.gray:Identity"', "kit.gray:Coin"))
    plan = make_plan(read_grid(path))
    cells = {(r.defense, r.attack): r for r in run_plan(plan, tmp_path / "s")}
    left_out = {(s.defense, s.attack): s.reason for s in plan.skipped}
    assert left_out["kit.gray:Coin", "Decided"] == "Decided needs a classifier that gives the same answer twice."
    assert ("kit.gray:Coin", "Decided") not in cells
    assert cells["none", "Decided"].score.correct == 2  # the brightest can only be pushed inwards
    assert {attack for defense, attack in cells if defense == "kit.gray:Coin"} >= {"clean", "noise", "PGD"}
    assert all(o.status == "ok" for r in cells.values() for o in r.outcomes)


def test_an_attack_that_no_row_can_take_is_a_mistake_told_after_all_else_is_stored(
    gray_grid: Write, tmp_path: Path
) -> None:
    attack = "{attack: {name: one_frame, frame: 9}, budget: {norm: one-frame}, gradient: bpda, label: Nine}"
    plan = make_plan(read_grid(gray_grid((ALL, f"[{attack}, PGD]"))))
    store = Store(tmp_path / "s")
    with pytest.raises(BenchError, match="There is no frame 9"):
        Runner(plan, store, LocalEngine(CPU), control=0).run()
    assert {c.attack_label for c in plan.cells if len(store.done(c.id)) == 6} == {"clean", "PGD"}
    store.close()


def test_gray_box_clips_are_made_once_and_reused_for_every_defence(gray_grid: Write, tmp_path: Path) -> None:
    Counting.clips_seen.clear()
    path = gray_grid((ALL, '[{attack: "kit.gray:Counting"}]'), ('"kit.gray:Identity"', '"kit.gray:Identity", jpeg'))
    cells = run(path, tmp_path / "s")
    assert len(cells) == 6
    assert sum(Counting.clips_seen) == 6
    # A defence added later meets the stored clips.
    run(gray_grid((ALL, '[{attack: "kit.gray:Counting"}]'), ('"kit.gray:Identity"', "wavelet")), tmp_path / "s")
    assert sum(Counting.clips_seen) == 6


def test_adaptive_attacks_are_run_per_defence(gray_grid: Write, tmp_path: Path) -> None:
    Counting.clips_seen.clear()
    entry = '[{attack: "kit.gray:Counting", gradient: bpda}]'
    run(gray_grid((ALL, entry), ('"kit.gray:Identity"', '"kit.gray:Identity", jpeg')), tmp_path / "s")
    assert sum(Counting.clips_seen) == 18


def test_a_second_run_has_nothing_to_do(gray_grid: Write, tmp_path: Path) -> None:
    first = run(gray_grid(), tmp_path / "s", control=2)

    class Idle(LocalEngine):
        def attack(self, *_: Any) -> Any:
            raise AssertionError("attacked again")

        def judge(self, *_: Any) -> Any:
            raise AssertionError("judged again")

    plan = make_plan(read_grid(gray_grid()))
    store = Store(tmp_path / "s")
    Runner(plan, store, Idle(CPU)).run()
    again = {(r.defense, r.attack): r for r in collect(plan, store)}
    store.close()
    assert again == first


def test_more_clips_extend_a_cell_without_repeating_it(gray_grid: Write, tmp_path: Path) -> None:
    few = run(gray_grid(("length: 6", "length: 6, clips: 3")), tmp_path / "s")
    many = run(gray_grid(), tmp_path / "s")
    assert many["none", "PGD"].outcomes[:3] == few["none", "PGD"].outcomes  # seconds included: not run again
    assert len(many["none", "PGD"].outcomes) == 6


def test_results_do_not_depend_on_the_batch_size(gray_grid: Write, tmp_path: Path) -> None:
    small = run(gray_grid(), tmp_path / "a", batch_size=1)
    large = run(gray_grid(), tmp_path / "b", batch_size=6)
    for key, cell in large.items():
        assert without_time(cell.outcomes) == without_time(small[key].outcomes), key


def test_stochastic_defences_draw_per_clip_not_per_batch(gray_grid: Write, tmp_path: Path) -> None:
    path = gray_grid(("kit.gray:Identity", "kit.gray:Coin"), ("length: 6", "length: 40"), (ALL, "[noise]"))
    one = run(path, tmp_path / "a", batch_size=1)["kit.gray:Coin", "clean"]
    many = run(path, tmp_path / "b", batch_size=40)["kit.gray:Coin", "clean"]
    assert [o.prediction for o in one.outcomes] == [o.prediction for o in many.outcomes]
    # Blackened clips are called dark: a fair coin over the 26 clips of the other classes.
    others = [o for o in many.outcomes if o.label > 0]
    assert 0.2 < sum(o.correct for o in others) / len(others) < 0.8


def test_a_misclassified_clip_is_not_attacked_unless_the_defence_is_random(gray_grid: Write, tmp_path: Path) -> None:
    path = gray_grid(("[none,", '[none, "kit.gray:Coin",'), ("kit.gray:Identity", "kit.gray:Lighten"))
    cells = run(path, tmp_path / "s")
    lightened = cells["kit.gray:Lighten", "PGD+exact"].outcomes
    # Lightening moves dark and medium clips one level up; bright ones stay bright.
    assert [o.clean_prediction for o in lightened] == [1, 2, 2] * 2
    assert [o.attacked for o in lightened] == [False, False, True] * 2
    assert all(not o.correct and o.forwards == 0 for o in lightened if not o.attacked)
    coin = cells["kit.gray:Coin", "PGD+BPDA"].outcomes
    assert all(o.attacked and (o.forwards, o.backwards) == (4, 4) for o in coin)


@pytest.mark.parametrize(
    ("how", "says"), [("budget", "exceeds"), ("range", "leave [0, 1]"), ("nan", "not finite"), ("shape", "shape")]
)
def test_a_cheating_attack_is_invalid_and_never_robust(gray_grid: Write, tmp_path: Path, how: str, says: str) -> None:
    entry = f'[{{attack: "kit.gray:Cheater(how={how!r})", label: cheat}}]'.replace("'", "''")
    path = gray_grid((ALL, entry.replace('"kit.gray', "'kit.gray").replace(')"', ")'")))
    cells = run(path, tmp_path / "s")
    for defense in ("none", "kit.gray:Identity"):
        cell = cells[defense, "cheat"]
        assert cell.score.invalid == 6
        assert cell.score.correct == 0
        assert all(o.status == "invalid" and says in (o.error or "") for o in cell.outcomes)


def test_a_failing_clip_is_charged_alone(gray_grid: Write, tmp_path: Path) -> None:
    path = gray_grid(("kit.gray:Identity", "kit.gray:FailsOnBright"), ("size: 0.15", "size: 0.05"))
    cells = run(path, tmp_path / "s", batch_size=6)
    for attack in ("clean", "PGD", "PGD+exact"):
        cell = cells["kit.gray:FailsOnBright", attack]
        assert [o.status for o in cell.outcomes] == ["ok", "ok", "failed"] * 2
        assert "ZeroDivisionError: too bright" in (cell.outcomes[2].error or "")
    clean = cells["kit.gray:FailsOnBright", "clean"].score
    assert (clean.correct, clean.clips, clean.failed) == (4, 6, 2)
    assert cells["none", "clean"].score.correct == 6


def test_missing_and_unreadable_clips_are_counted(gray_grid: Write, tmp_path: Path) -> None:
    cells = run(gray_grid(("length: 6", "length: 6, absent: 0, broken: 1")), tmp_path / "s")
    for cell in cells.values():
        assert [o.status for o in cell.outcomes[:2]] == ["missing", "failed"]
        assert (cell.score.missing, cell.score.failed, cell.score.clips) == (1, 1, 6)
        assert not any(o.correct for o in cell.outcomes[:2])
    assert cells["none", "clean"].score.correct == 4


def test_stored_errors_do_not_tell_where_the_files_lie(gray_grid: Write, tmp_path: Path) -> None:
    plan = make_plan(read_grid(gray_grid(("length: 6", "length: 6, absent: 0"))))
    plan.dataset.root = tmp_path  # type: ignore[attr-defined]
    for result in run_plan(plan, tmp_path / "s"):
        assert result.outcomes[0].error == "no file DATA_ROOT/gray/0"


def test_retry_runs_only_what_failed(gray_grid: Write, tmp_path: Path) -> None:
    broken = gray_grid(("length: 6", "length: 6, absent: 0"))
    run(broken, tmp_path / "s")
    plan = make_plan(read_grid(broken))
    plan.dataset.absent = -1  # type: ignore[attr-defined] - the file is back
    before = {r.cell: r for r in run_plan(plan, tmp_path / "s")}
    after = run_plan(plan, tmp_path / "s", retry=True)
    assert all(r.score.missing == 0 for r in after)
    assert all(before[r.cell].outcomes[1:] == r.outcomes[1:] for r in after)


def test_a_robust_model_is_a_row_like_any_other(gray_grid: Write, tmp_path: Path) -> None:
    cells = run(gray_grid(("kit.gray:Identity", "kit.gray:Doubled"), ("size: 0.15", "size: 0.12")), tmp_path / "s")
    assert cells["kit.gray:Doubled", "clean"].score.correct == 6
    assert cells["kit.gray:Doubled", "PGD+exact"].score.correct == 0


def test_an_answer_that_is_not_finite_is_failed_and_never_robust(gray_grid: Write, tmp_path: Path) -> None:
    """Dark clips are class 0, and class 0 is what arg-max makes of not-a-number."""
    cells = run(gray_grid(("kit.gray:Identity", "kit.gray:NotFinite"), ("size: 0.15", "size: 0.01")), tmp_path / "s")
    clean, attacked = cells["kit.gray:NotFinite", "clean"], cells["kit.gray:NotFinite", "PGD"]
    for cell in (clean, attacked):
        assert [o.status for o in cell.outcomes] == ["failed", "ok", "ok"] * 2
        assert cell.score.correct == 4
    assert "not finite" in (clean.outcomes[0].error or "")


def test_clips_that_the_bare_classifier_gets_wrong_are_attacked_for_the_defences(
    gray_grid: Write, tmp_path: Path
) -> None:
    """Labels 0, 1, 2 at levels .3, .5, .7: the bare classifier is wrong on 2, its negative right on none but 1."""
    path = gray_grid(
        ("kit.gray:level_classifier", "kit.gray:TwoSided"),
        ("kit.gray:Identity", "kit.gray:Negative"),
        ("size: 0.15", "size: 0.05"),
        (ALL, "[PGD, PGD+exact]"),
    )
    cells = run(path, tmp_path / "s")
    for defense in ("none", "kit.gray:Negative"):
        assert all(o.attacked and o.forwards == 5 for o in cells[defense, "PGD"].outcomes), defense
    # Adaptive attacks know the pipeline whose mistake it is, and leave it alone.
    adaptive = cells["kit.gray:Negative", "PGD+exact"].outcomes
    clean = cells["kit.gray:Negative", "clean"].outcomes
    assert [o.attacked for o in adaptive] == [o.correct for o in clean]


def test_the_undefended_row_is_as_broken_as_an_identity_that_does_not_say_so(gray_grid: Write, tmp_path: Path) -> None:
    """A loss that rises past the band where the clip is lost: the last iterate alone would look robust."""
    path = gray_grid(
        ("kit.gray:level_classifier", "kit.gray:Oscillating"),
        ("norm: linf, size: 0.15, steps: 4", "norm: linf, size: 4/255, steps: 6, step_size: 0.003"),
        ('"kit.gray:GrayClips", length: 6', '"kit.gray:GrayClips", length: 6, only: 1, label: 0'),
    )
    cells = run(path, tmp_path / "s")
    for attack in ("PGD", "PGD+BPDA", "PGD+exact"):
        assert cells["none", attack].score.correct == 0, attack
        assert cells["kit.gray:Identity", attack].score.correct == 0, attack


def test_a_robust_model_is_wrapped_once_and_cannot_touch_the_bare_classifier(gray_grid: Write, tmp_path: Path) -> None:
    Offset.wrapped.clear()
    path = gray_grid(("kit.gray:Identity", "kit.gray:Offset(by=0.5)"), (ALL, "[noise, PGD, PGD+exact]"))
    cells = run(path, tmp_path / "s", batch_size=2)
    assert len(Offset.wrapped) == 1
    # Levels .8, 1., 1.2 instead of .3, .5, .7: every clip is called dark. The undefended row is as it was.
    assert [o.prediction for o in cells["kit.gray:Offset(by=0.5)", "clean"].outcomes] == [0] * 6
    assert cells["none", "clean"].score.correct == 6


def test_a_classifier_that_does_not_fit_is_one_sentence_before_any_work(gray_grid: Write, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"has 3 classes, but the labels go up to 6"):
        run(gray_grid(("length: 6", "length: 6, label: 6")), tmp_path / "s")
    with pytest.raises(BenchError, match=r"has 3 classes, but the data set has 12"):
        run(gray_grid(("kit.gray:GrayClips", "kit.gray:Dozen")), tmp_path / "s")
    torch.manual_seed(0)
    for model, says in (("kit.gray:PerFrame", r"logits of shape \(1, K\)"), ("kit.gray:NeedsBigFrames", "cannot take")):
        with pytest.raises(BenchError, match=says):
            run(gray_grid(("kit.gray:level_classifier", model)), tmp_path / "s")


def test_retry_runs_invalid_clips_again(gray_grid: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for gradient in ("none", "exact"):
        Counting.clips_seen.clear()
        path = gray_grid((ALL, f'[{{attack: "kit.gray:Counting", gradient: {gradient}}}]'))
        with monkeypatch.context() as patched:
            patched.setattr(Counting, "shift", 0.5)
            first = run(path, tmp_path / gradient)["kit.gray:Identity", f"kit.gray:Counting+{gradient}"]
        assert first.score.invalid == 6
        assert all(o.linf == pytest.approx(0.5) for o in first.outcomes if o.label == 0)
        again = run(path, tmp_path / gradient, retry=True)["kit.gray:Identity", f"kit.gray:Counting+{gradient}"]
        assert (again.score.invalid, again.score.correct) == (0, 6)


def test_a_defence_that_would_end_the_program_costs_its_own_clips(gray_grid: Write, tmp_path: Path) -> None:
    cells = run(gray_grid(("kit.gray:Identity", "kit.gray:Leaving"), (ALL, "[noise]")), tmp_path / "s")
    assert {o.status for o in cells["none", "noise"].outcomes} == {"ok"}
    for outcome in cells["kit.gray:Leaving", "noise"].outcomes:
        assert outcome.status == "failed"
        assert outcome.error is not None
        assert outcome.error.startswith("SystemExit: 0 (kit/gray.py:")
