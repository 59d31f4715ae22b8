"""Submissions are made, verified and shown; frauds are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kit.cells import SOMEBODY
from kit.commands import Answer
from kit.gray import GRAY_GRID
from levels import GrayClips
from safetensors.torch import save_file

from bench import BenchError
from bench.ready.submission import Draft
from bench.ready.verification import verify
from bench.records.results import read_result, result_files
from bench.records.submissions import (
    CARD_FILE,
    VERIFIED_FILE,
    Verification,
    folder_digest,
    read_card,
    refusal,
    write_card,
    write_verification,
)
from bench.report.leaderboard import make_leaderboard
from bench.report.submitted import sorted_out
from bench.run.coding import decode, encode

Bench = Callable[..., Answer]

CLIPS = 12
DEFENCE = '''
import torch
from safetensors.torch import load_file
from bench import ClipRandom, Purifier
from .beside import offset


class Soft(Purifier):
    """Less contrast: no answer of the level classifier changes, and no attack fails.

    Args:
        weights: file with the factor.
    """

    def __init__(self, weights: str) -> None:
        super().__init__()
        self.factor = float(load_file(weights)["factor"])

    def purify(self, clips: torch.Tensor, rng: ClipRandom) -> torch.Tensor:
        return clips * self.factor + offset(self.factor)
'''
BESIDE = "def offset(factor: float) -> float:\n    return (1 - factor) / 2\n"
CARD = """
name: Soft clips
authors: [A. Author, B. Author]
summary: Takes contrast away.
licence: MIT
paper: https://example.org/paper
"""


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grid of gray clips, where every attack breaks everything."""
    path = tmp_path_factory.mktemp("grids") / "gray.yaml"
    text = GRAY_GRID.replace("length: 6", f"length: {CLIPS}")
    path.write_text(text.replace("PGD, PGD+BPDA, PGD+exact]", "PGD, PGD+exact]"), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _is_shipped(grid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.grids.grid.shipped_grids", lambda: {"gray": grid})
    monkeypatch.setattr("bench.grids.required.REQUIRED", ("gray",))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the authors have their defence and their card."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "soft.py").write_text(DEFENCE, encoding="utf-8")
    (folder / "beside.py").write_text(BESIDE, encoding="utf-8")
    (folder / "card.yaml").write_text(CARD, encoding="utf-8")
    save_file({"factor": torch.tensor(0.75)}, folder / "w.safetensors")
    return folder


@pytest.fixture(scope="module")
def made(home: Path, grid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a submission in it, as its authors made it."""
    results = tmp_path_factory.mktemp("made") / "results"
    weights = home / "w.safetensors"
    draft = Draft.of(
        f"{home / 'soft.py'}:Soft", home / "card.yaml", grids=[str(grid)], weights=weights, results=results
    )
    draft.place()
    for plan in draft.plans():
        draft.run(plan, minutes=0)
    draft.finish()
    shutil.rmtree(results / ".store")
    return results


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """The same, somewhere else, to be tampered with."""
    shutil.copytree(made, tmp_path / "results")
    return tmp_path / "results" / "submissions" / "soft_clips"


def asked(folder: Path, **options: Any) -> Verification:
    return verify(folder, **{"clips": 6, "salt": "salt", "minutes": 0, **options})


def accept(folder: Path) -> None:
    """Writes that somebody has verified the files that are there."""
    write_verification(
        folder,
        Verification(digest=folder_digest(folder), reasons=[], cells=[], clips=6, salt="salt", by=SOMEBODY),
    )


def edit(folder: Path, attack: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the outcomes of one column, and the score with them, so that the file does not contradict itself."""
    (path,) = (p for p in result_files(folder / "gray") if "Soft" in p.name and f"--{attack}--" in p.name)
    content = json.loads(path.read_text())
    for outcome in content["outcomes"]:
        change(outcome)
    content["score"]["correct"] = sum(bool(o.get("correct")) for o in content["outcomes"])
    path.write_text(json.dumps(content))
    read_result(path)


def claims_right(outcome: dict[str, Any]) -> None:
    outcome |= {"correct": True, "prediction": outcome["label"], "votes": [outcome["label"]]}


def test_a_submission_has_all_that_its_row_needs(folder: Path) -> None:
    card = read_card(folder / CARD_FILE)
    assert card.submission is not None
    assert (card.name, card.authors, card.submission.defense) == (
        "Soft clips",
        ["A. Author", "B. Author"],
        "soft.py:Soft",
    )
    assert card.submission.params == {"weights": "files/weights-w.safetensors"}
    assert set(card.submission.files) == {"soft.py", "beside.py", "files/weights-w.safetensors"}
    assert all((folder / place).is_file() for place in card.submission.files)
    assert len(list((folder / "gray" / "_clips").glob("*/*.advclip"))) == 3 * 4  # noise, PGD and the adaptive attack
    assert {p.name.split("--")[1] for p in result_files(folder / "gray")} == {"none", "Soft_clips"}


def test_an_honest_submission_is_verified_and_shown(folder: Path) -> None:
    results = folder.parents[1]
    assert "Soft clips" not in make_leaderboard(results)
    assert "nobody has verified it" in sorted_out(results)[1]["soft_clips"]
    found = asked(folder, minutes=20)
    assert found.reasons == []
    counts = {c.attack: (c.kept.asked, c.exact.asked, c.other.asked, c.total.lost + c.total.won) for c in found.cells}
    assert counts == {"noise": (4, 6, 0, 0), "PGD": (4, 6, 0, 0), "PGD+exact": (4, 6, 0, 0), "clean": (0, 6, 0, 0)}
    assert [row.grade for row in found.audits["gray"]] == ["A"]
    write_verification(folder, found)
    board = make_leaderboard(results)
    # No other results of that grid are here: it stands beside the undefended row of its authors.
    assert "### Gray clips (`gray`), submitted by A. Author, B. Author" in board
    assert "| Soft clips, *submitted* | 100.0 [76, 100] | " in board
    assert "| Soft clips | A. Author, B. Author | Takes contrast away. | https://example.org/paper | - | MIT |" in board


def test_a_submitted_row_joins_the_table_of_its_grid(folder: Path) -> None:
    results = folder.parents[1]
    shutil.copytree(folder / "gray", results / "gray")
    for path in (results / "gray").glob("*Soft*"):
        path.unlink()
    accept(folder)
    board = make_leaderboard(results)
    assert board.count("### Gray clips") == 1
    table = board.split("### Gray clips")[1].split("## ")[0]
    assert "| Soft clips, *submitted* |" in table
    assert "| none |" in table


def test_what_was_verified_may_not_change(folder: Path) -> None:
    accept(folder)
    assert refusal(folder) is None
    for path in folder.rglob("*.json"):  # as git on Windows checks them out
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    (folder / "__pycache__").mkdir(exist_ok=True)
    (folder / "__pycache__" / "soft.pyc").write_bytes(b"")
    assert refusal(folder) is None
    edit(folder, "PGD", claims_right)
    assert "not those that were verified" in str(refusal(folder))
    assert "Soft clips" not in make_leaderboard(folder.parents[1])


def test_outcomes_that_were_changed_are_refused(folder: Path) -> None:
    """One column is claimed to be robust; of another, the losses are invented, too, as if another attack was run."""

    def invented(outcome: dict[str, Any]) -> None:
        claims_right(outcome)
        outcome["trace"] = [0.5 * loss - 1 for loss in outcome["trace"]]

    edit(folder, "PGD+exact", claims_right)
    edit(folder, "PGD", invented)
    shutil.rmtree(folder / "gray" / "_clips" / unit_of(folder, "PGD"))
    assert asked(folder).reasons == [
        "gray: PGD begins otherwise than recorded on 6 of 6 clips.",
        # Of noise 4 kept ones and 6, of PGD+exact the same, and 6 clean ones.
        "gray: 10 of 26 measured clips are recorded as right, and are wrong (PGD, PGD+exact).",
        "gray: Attacked again, 6 clips are wrong that are recorded as right, and 0 the other way round "
        "(PGD, PGD+exact).",
    ]


def unit_of(folder: Path, attack: str) -> str:
    """The folder of the kept clips of a column: noise changes all values, and the others tell by their sizes."""
    dataset = GrayClips(CLIPS)
    (path,) = (p for p in result_files(folder / "gray") if "Soft" in p.name and f"--{attack}--" in p.name)
    outcomes = read_result(path).outcomes
    for place in (folder / "gray" / "_clips").iterdir():
        clips = {int(p.stem): decode(p.read_bytes(), clean_clip(dataset, int(p.stem))) for p in place.iterdir()}
        sizes = {i: float((clip - clean_clip(dataset, i)).double().norm()) for i, clip in clips.items()}
        if all(outcomes[i].l2 == float(f"{size:.4g}") for i, size in sizes.items()):
            return place.name
    raise AssertionError(attack)


def clean_clip(dataset: GrayClips, number: int) -> torch.Tensor:
    return dataset.load(dataset.refs()[number])


def test_kept_clips_that_were_exchanged_are_refused(folder: Path) -> None:
    """Clean ones, whose answers are right; ones that leave the budget, of which anything may be said; torn ones."""
    dataset = GrayClips(CLIPS)
    edit(folder, "PGD", claims_right)
    for attack, change in {
        "PGD": lambda content, clean: encode(clean, clean),
        "PGD+exact": lambda content, clean: encode(clean, (clean + 0.2).clamp(0, 1)),
        "noise": lambda content, clean: content[:-5],
    }.items():
        for path in (folder / "gray" / "_clips" / unit_of(folder, attack)).iterdir():
            path.write_bytes(change(path.read_bytes(), clean_clip(dataset, int(path.stem))))
    (first, *_) = asked(folder).reasons
    words = "12 of 12 kept clips are torn, leave their budget, or are not the measured ones (noise, PGD, PGD+exact)."
    assert first == f"gray: {words}"


def relabelled(folder: Path) -> None:
    """What is answered is called right, in every column."""
    for path in result_files(folder / "gray"):
        content = json.loads(path.read_text())
        for outcome in content["outcomes"]:
            outcome["label"] = (outcome["label"] + 1) % 3
            outcome["correct"] = outcome["prediction"] == outcome["label"]
        content["score"]["correct"] = sum(o["correct"] for o in content["outcomes"])
        path.write_text(json.dumps(content))


def cherry_picked(folder: Path) -> None:
    """The clips that fall are left out of every column."""
    for path in result_files(folder / "gray"):
        content = json.loads(path.read_text())
        content["outcomes"] = content["outcomes"][:7]
        content["score"] = {"correct": sum(bool(o.get("correct")) for o in content["outcomes"]), "clips": 7}
        path.write_text(json.dumps(content))


def column_left_out(folder: Path) -> None:
    (path,) = (p for p in result_files(folder / "gray") if "Soft" in p.name and "exact" in p.name)
    path.unlink()


def other_code(folder: Path) -> None:
    (folder / "beside.py").write_text(BESIDE.replace("/ 2", "/ 2.5"), encoding="utf-8")


def other_code_with_its_card(folder: Path) -> None:
    other_code(folder)
    from bench.records.submissions import file_digest

    card = read_card(folder / CARD_FILE)
    assert card.submission is not None
    card.submission.files["beside.py"] = file_digest(folder / "beside.py")
    write_card(folder / CARD_FILE, card)


def something_more(folder: Path) -> None:
    (folder / "answers.json").write_text("{}")


def grid_left_out(folder: Path) -> None:
    card = read_card(folder / CARD_FILE)
    assert card.submission is not None
    card.submission.grids.clear()
    card.submission.grids.append("demo")
    write_card(folder / CARD_FILE, card)


@pytest.mark.parametrize(
    ("fraud", "words"),
    [
        (relabelled, "the clips or labels of "),
        (cherry_picked, "the clips or labels of "),
        (column_left_out, "gray has no results of kit.gray:level_classifier · PGD+exact · linf 0.15, 4 steps"),
        (other_code, "beside.py is another file than the card says"),
        (other_code_with_its_card, "was measured with other code, weights, clips or settings"),
        (something_more, "answers.json belongs neither to its card nor to its grids"),
        (grid_left_out, "It was not run on gray"),
    ],
)
def test_frauds_are_refused(folder: Path, fraud: Callable[[Path], None], words: str) -> None:
    fraud(folder)
    found = asked(folder)
    assert any(words in reason for reason in found.reasons), found.reasons
    write_verification(folder, found)
    assert "it was refused" in str(refusal(folder))
    assert "Soft clips" not in make_leaderboard(folder.parents[1])


def test_a_defence_that_reads_labels_is_refused(
    home: Path, grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its results are what a run gave: only in a process of its own it has nothing to read."""
    (tmp_path / "gray.yaml").write_text(grid.read_text().replace("0.15", "0.12"))  # further off it reads nothing
    grid = tmp_path / "gray.yaml"
    monkeypatch.setattr("bench.grids.grid.shipped_grids", lambda: {"gray": grid})
    draft = Draft.of("planted:ReadingLabels", home / "card.yaml", grids=[str(grid)], results=tmp_path)
    for plan in draft.plans():
        draft.run(plan, minutes=0)
    folder = draft.finish()
    found = asked(folder, clips=CLIPS)
    assert any("measured clips are recorded as right, and are wrong" in reason for reason in found.reasons), found


def test_a_large_file_is_asked_for_by_its_digest(
    home: Path, grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.ready.submission._MOST_BYTES", 10)
    weights, text = home / "w.safetensors", f"{home / 'soft.py'}:Soft"
    draft = Draft.of(text, home / "card.yaml", grids=[str(grid)], weights=weights, results=tmp_path)
    with pytest.raises(BenchError, match="say in the card where others get it"):
        draft.place()
    (tmp_path / "card.yaml").write_text(f"{CARD}weights: https://example.org/w\n")
    draft = Draft.of(text, tmp_path / "card.yaml", grids=[str(grid)], weights=weights, results=tmp_path)
    draft.place()
    for plan in draft.plans():
        draft.run(plan, minutes=0)
    folder = draft.finish()
    assert not (folder / "files").exists()
    with pytest.raises(BenchError, match=r"w\.safetensors, which is not in .*https://example\.org/w"):
        asked(folder)
    with pytest.raises(BenchError, match="is no file of this submission"):
        asked(folder, weights=[grid])
    assert asked(folder, weights=[weights]).reasons == []


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ("name: none\nauthors: [A]\nsummary: s\nlicence: MIT\n", "'none' is the name of a row of gray"),
        ("name: x\nauthors: []\nsummary: s\nlicence: MIT\n", "authors"),
        ("name: x\nauthors: [A]\nsummary: s\n", "licence"),
        ("name: '!'\nauthors: [A]\nsummary: s\nlicence: MIT\n", "makes no folder's name"),
        ("name: [\n", "not YAML"),
    ],
)
def test_a_card_that_says_too_little_is_one_sentence(
    home: Path, grid: Path, tmp_path: Path, card: str, words: str
) -> None:
    (tmp_path / "c.yaml").write_text(card)
    with pytest.raises(BenchError, match=words):
        Draft.of("jpeg", tmp_path / "c.yaml", grids=[str(grid)], results=tmp_path)


def test_a_forged_verdict_on_other_files_counts_for_nothing(folder: Path) -> None:
    accept(folder)
    edit(folder, "PGD+exact", claims_right)
    assert "not those that were verified" in str(refusal(folder))
    (folder / VERIFIED_FILE).write_text("{}")
    with pytest.raises(BenchError, match="verify the submission again"):
        make_leaderboard(folder.parents[1])


def test_the_commands(bench: Bench, home: Path, tmp_path: Path) -> None:
    results, card = tmp_path / "results", tmp_path / "card.yaml"
    assert "fill it in" in bench("submit", "--new-card", card).out
    assert bench("submit", "--new-card", card).code == 2
    answer = bench("submit", f"{home / 'soft.py'}:Soft", "--card", card, "--results", results)
    assert (answer.code, "empty form" in answer.err) == (2, True)
    assert "FILE.py:Class --card card.yaml" in bench("submit", home / "soft.py").err
    arguments = ("submit", f"{home / 'soft.py'}:Soft", "--card", home / "card.yaml", "--results", results)
    weights = ("--weights", home / "w.safetensors")
    dry = bench(*arguments, *weights, "--dry-run")
    assert (dry.code, "gray: 12 clips, 8 cells" in dry.out, (results / "submissions").exists()) == (0, True, False)
    answer = bench(*arguments, *weights, "--minutes", 0)
    assert answer.code == 0, answer.err
    folder = results / "submissions" / "soft_clips"
    assert f"bench verify {folder}" in answer.out
    before = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    assert bench(*arguments, *weights, "--minutes", 0).code == 0
    again = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    # The audit says how long asking would take; all else is as it was.
    assert {p.name for p in before.keys() | again.keys() if before.get(p) != again.get(p)} <= {"_audit.json"}
    board = ("leaderboard", "--results", results, "--output", tmp_path / "board.md")
    assert "Left out: the submission soft_clips; nobody has verified it" in bench(*board).err
    answer = bench("verify", folder, "--clips", 3, "--minutes", 0)
    assert (answer.code, "Verified." in answer.out) == (0, True), answer.err
    assert bench(*board).err == ""
    edit(folder, "PGD+exact", claims_right)
    answer = bench("verify", folder, "--clips", 3, "--minutes", 0, "--json")
    assert answer.code == 1
    assert "recorded as right, and are wrong" in json.loads(answer.out)["reasons"][0]
    assert "it was refused" in bench(*board).err


def test_a_defence_that_breaks_its_contract_is_not_run(bench: Bench, home: Path, tmp_path: Path) -> None:
    arguments = ("--card", home / "card.yaml", "--results", tmp_path / "r")
    answer = bench("submit", "kit.breaches:Flat", *arguments)
    assert (answer.code, "Refused, " in answer.err, (tmp_path / "r" / "submissions").exists()) == (1, True, False)


def test_rows_of_a_grid_are_verified_with_the_clips_in_its_store(bench: Bench, grid: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    assert bench("run", "--grid", grid, "--results", results).code == 0
    row = ("--results", results, "--clips", 5, "--defense", "kit.gray:Identity")
    answer = bench("verify", "gray", *row, "--json")
    assert answer.code == 0, answer.err
    cells = {c["attack"]: c for c in json.loads(answer.out)["cells"]}
    assert all(c["exact"] == {"asked": 5, "lost": 0, "won": 0} for c in cells.values())
    assert {a: c["kept"]["asked"] for a, c in cells.items()} == {"noise": 5, "PGD": 5, "PGD+exact": 5, "clean": 0}
    (path,) = (results / "gray").glob("*Identity*exact*")
    content = json.loads(path.read_text())
    for outcome in content["outcomes"]:
        claims_right(outcome)
    content["score"]["correct"] = CLIPS
    path.write_text(json.dumps(content))
    answer = bench("verify", "gray", *row)
    assert (answer.code, "10 of 35 measured clips" in " ".join(answer.out.split())) == (1, True), answer.out
    assert bench("verify", "gray", "--results", results, "--defense", "nobody").code == 2
    assert bench("verify", tmp_path / "nothing").code == 2
