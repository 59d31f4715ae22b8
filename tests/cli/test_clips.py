"""``bench show CLIP --of ROW``: a clip as it is, attacked and purified, and what the attack changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from kit.commands import Answer
from kit.running import exported
from PIL import Image

Write = Callable[..., Path]
SIDE, GAP, WORDS = 160, 4, 14  # of a panel: 8 pixels, 20 times; between them, and for a line of words
ALL = "[clean, noise, PGD, PGD+BPDA, PGD+exact]"
BEYOND = """[clean, {attack: "kit.gray:Cheater(how='budget')", gradient: exact, label: Beyond}]"""


@pytest.fixture
def lightened(gray_grid: Write, tmp_path: Path) -> Path:
    """Results of an attack that adds 0.25 to every value, before nothing and a defence that adds 0.05."""
    grid = gray_grid((ALL, BEYOND), ('"kit.gray:Identity"', '"kit.gray:Lighten(by=0.05)", "kit.gray:Doubled"'))
    exported(grid, tmp_path / "results", control=0, keep="all")
    return tmp_path / "results"


def panels(file: Path) -> list[list[list[int]]]:
    """The middle of each panel, in each frame."""
    with Image.open(file) as picture:
        found = []
        for t in range(getattr(picture, "n_frames", 1)):
            picture.seek(t)
            whole = np.asarray(picture.convert("RGB"))
            found.append(whole[-GAP - SIDE // 2, GAP + SIDE // 2 :: SIDE + GAP].tolist())
        return found


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_the_four_panels_have_the_values_that_follow_by_hand(
    suffix: str, bench: Callable[..., Answer], lightened: Path, tmp_path: Path
) -> None:
    """The medium clip is 0.5 throughout: attacked 0.75, purified 0.8, and ten times the change is white."""
    done = bench(
        *("show", "gray/1", "--of", "gray:kit.gray:Lighten(by=0.05)", "--results", lightened),
        *("--output", tmp_path / f"a.{suffix}"),
    )
    assert done.code == 0, done.err
    assert done.err.split() == ["wrote", *str(tmp_path / f"a.{suffix}").split()]
    for frame in panels(tmp_path / f"a.{suffix}"):
        assert frame == [[128] * 3, [191] * 3, [204] * 3, [255] * 3]


def test_a_row_that_purifies_nothing_has_three_panels_and_a_file_of_the_clips_name(
    bench: Callable[..., Answer], lightened: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for row in ("gray:none", "gray:kit.gray:Doubled"):
        done = bench("show", "gray/1", "--of", row, "--attack", "beyond", "--results", lightened)
        assert done.code == 0, done.err
        (file,) = tmp_path.glob("*.gif")
        assert panels(file)[0] == [[128] * 3, [191] * 3, [255] * 3]
        file.unlink()
    done = bench("show", "gray/1", "--of", "gray:none", "--results", lightened, "--output", tmp_path / "a.png")
    assert done.code == 0, done.err
    with Image.open(tmp_path / "a.png") as strip:  # eight frames of each, the clips below one another
        pixels = np.asarray(strip)
    assert pixels.shape[1] == GAP + 8 * (SIDE + GAP)
    for row, level in enumerate((255, 191, 128)):
        middles = pixels[-GAP - SIDE // 2 - row * (SIDE + GAP + WORDS), GAP + SIDE // 2 :: SIDE + GAP]
        assert (middles == level).all()


def test_an_attack_that_breaks_the_defence_is_shown_before_others(
    bench: Callable[..., Answer], gray_grid: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise never breaks a gray clip, and PGD always does; of the latter the adaptive one goes first."""
    exported(gray_grid(), tmp_path / "results", keep="all")
    said: list[str] = []
    monkeypatch.setattr("bench.data.pictures.write_side_by_side", lambda panels, caption, file: said.append(caption))
    for more in ((), ("--attack", "PGD"), ("--attack", "noise")):
        done = bench("show", "gray/0", "--of", "gray:kit.gray:Identity", *more, "--results", tmp_path / "results")
        assert done.code == 0, done.err
    assert [caption.partition("@")[2].split(", ")[1] for caption in said] == ["PGD+BPDA", "PGD", "noise"]
    assert said[0].endswith("True class: dark; answer before: dark; after: medium.")
    assert said[2].endswith("True class: dark; answer before: dark; after: dark.")


def test_clips_that_are_not_kept_name_the_option(
    bench: Callable[..., Answer], gray_grid: Write, tmp_path: Path
) -> None:
    exported(gray_grid(), tmp_path / "results", keep="shared")
    here = ("--results", tmp_path / "results")
    refused = bench("show", "gray/0", "--of", "gray:kit.gray:Identity", "--attack", "PGD+exact", *here)
    assert refused.code == 2
    assert "No adversarial clip 'gray/0'" in refused.err
    assert "under PGD+exact" in refused.err
    assert "--keep all" in refused.err
    assert bench("show", "gray/0", "--of", "gray:none", "--output", tmp_path / "a.gif", *here).code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("gray/9", "--of", "gray:none"), "has no clip 'gray/9'"),
        (("gray/1", "--of", "grey:none"), "no results of 'grey'"),
        (("gray/1", "--of", "gray"), "has 3 rows; name one of them"),
        (("gray/1", "--of", "gray:none", "--attack", "Beyon"), "'Beyon' (did you mean 'Beyond'?); it has Beyond."),
        (("gray/1", "--of", "gray:none", "--output", "a.mp4"), "ends in .gif, .webp or .png"),
        (("gray:none", "--attack", "Beyond"), "'bench show CLIP --of GRID:DEFENCE'"),
        (("jpeg", "--output", "a.gif"), "'bench show CLIP --of GRID:DEFENCE'"),
    ],
)
def test_what_is_not_there_is_said(
    bench: Callable[..., Answer], lightened: Path, arguments: tuple[str, ...], says: str
) -> None:
    refused = bench("show", *arguments, "--results", lightened)
    assert refused.code == 2
    assert says in refused.err


def test_a_defence_that_is_gone_leaves_its_panel_out(
    bench: Callable[..., Answer], lightened: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("kit.gray.Lighten")
    row = "gray:kit.gray:Lighten(by=0.05)"
    done = bench("show", "gray/1", "--of", row, "--results", lightened, "--output", tmp_path / "a.gif")
    assert done.code == 0, done.err
    assert "The purified clip is not shown: " in done.err
    assert panels(tmp_path / "a.gif")[0] == [[128] * 3, [191] * 3, [255] * 3]
