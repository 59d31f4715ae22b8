"""What a page shows of a clip."""

from __future__ import annotations

import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from kit.gray import GRAY_GRID
from kit.running import exported
from PIL import Image

from bench.board.asked import Networks
from bench.board.clips import Kept, Shown
from bench.board.entries import measured
from bench.board.video import as_frames, flows, wheel, write_strip, write_video
from bench.report.grids import all_grids


@pytest.fixture
def frames() -> np.ndarray:
    """A ramp that moves to the right, ``(6, 24, 32, 3)``."""
    x = torch.arange(32)[None, :] + torch.arange(6)[:, None]
    clip = (x[:, None, :, None] / 40).expand(6, 24, 32, 3)
    return as_frames(clip.permute(3, 0, 1, 2).float())


def test_videos_are_h264_that_can_be_jumped_in(frames: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, frames)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        decoded = list(container.decode(stream))
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
    assert len(decoded) == len(frames)
    assert all(frame.key_frame for frame in decoded)
    assert [float(frame.time or 0) for frame in decoded] == pytest.approx([i / 8 for i in range(6)])
    for frame, written in zip(decoded, frames, strict=True):
        shown = frame.to_ndarray(format="rgb24")
        times = shown.shape[0] // written.shape[0]
        small = shown[times // 2 :: times, times // 2 :: times]
        assert np.abs(small.astype(int) - written.astype(int)).mean() < 4
    again = tmp_path / "b.mp4"
    write_video(again, frames)
    assert again.read_bytes() == path.read_bytes()


def test_strips_lose_nothing(frames: np.ndarray, tmp_path: Path) -> None:
    write_strip(tmp_path / "a.png", frames)
    with Image.open(tmp_path / "a.png") as picture:
        strip = np.asarray(picture)
    assert np.array_equal(np.stack(np.split(strip, 6, axis=1)), frames)


def test_frames_in_numbers() -> None:
    clip = torch.tensor([0.0, 0.5, 1.0, 2.0, -1.0, float("nan")]).reshape(1, 1, 1, 6).expand(3, 1, 1, 6)
    assert as_frames(clip)[0, 0, :, 0].tolist() == [0, 128, 255, 255, 0, 0]


def test_motion_has_the_colours_of_the_wheel() -> None:
    """What moves right is red, and what moves left is cyan, as Baker et al. colour it."""
    (disc,) = wheel(65)
    right, left = disc[32, 60].astype(int), disc[32, 4].astype(int)
    assert right[0] > right[1:].max()
    assert left[0] < left[1:].min()
    assert disc[0, 0].tolist() == [255, 255, 255]
    torch.manual_seed(0)
    background = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 24), size=(32, 96), mode="bicubic")[0].clamp(0, 1)
    clip = torch.stack([background[..., 24 - 2 * t : 56 - 2 * t] for t in range(5)], dim=1)  # to the right
    to_right, to_left = flows(torch.stack([clip, clip.flip(-1)]))
    assert to_right.shape == to_left.shape == (5, 32, 32, 3)
    inner = np.s_[:4, 8:24, 8:24]
    assert to_right[inner][..., 0].mean() > to_right[inner][..., 2].mean() + 20
    assert to_left[inner][..., 2].mean() > to_left[inner][..., 0].mean() + 20
    assert flows(torch.rand(1, 3, 1, 16, 16)) == []


def kept(results: Path, *, patience: float = 60.0, most: int = 9) -> dict[str, list[Shown]]:
    """What is shown of every row."""
    there = Kept(results, Networks(patience))
    try:
        return {e.defense: there.of(e, most) for e in measured(all_grids(results))}
    finally:
        there.close()


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a grid, every adversarial clip kept."""
    folder = tmp_path_factory.mktemp("kept")
    text = GRAY_GRID.replace('"kit.gray:Identity"', '"kit.gray:Lighten", "kit.gray:Coin", "kit.gray:Doubled"')
    (folder / "gray.yaml").write_text(text, encoding="utf-8")
    exported(folder / "gray.yaml", folder / "results", keep="all")
    return folder / "results"


def test_networks_answer_as_they_did_when_they_were_judged(looked_at: Path) -> None:
    shown = kept(looked_at)
    assert all(len(clips) == 6 for clips in shown.values())
    for clip in (c for clips in shown.values() for c in clips):
        asked = clip.answered
        assert asked.why_not == ""
        # The last bars are those of the defended classifier on the adversarial clip, with the draws of the judge.
        assert asked.bars[-1].classes[0][0] == clip.outcome.prediction
        assert sum(share for _, share in asked.bars[-1].classes) == pytest.approx(1, abs=1e-5)
        assert torch.allclose(clip.adversarial, clip.clean, atol=0.15 + 1e-6)
    for clip in shown["kit.gray:Lighten"]:
        (purified,) = clip.answered.candidates
        assert torch.equal(purified, (clip.adversarial + 0.2).clamp(0, 1))
        assert [b.words for b in clip.answered.bars] == ["Clean, no defence", "Attacked, no defence", "Purified"]
        assert {name for name, _, _ in clip.videos()} == {
            *("clean", "adversarial", "purified1", "difference", "flow-clean", "flow-adversarial")
        }
    assert shown["none"][0].answered.candidates == []
    for clip in shown["kit.gray:Coin"]:  # kept or blackened, and the answer is the nearest of three levels
        (purified,) = clip.answered.candidates
        assert torch.equal(purified, clip.adversarial) or not purified.any()
        nearest = min(range(3), key=lambda level: abs(float(purified.mean()) - (0.3, 0.5, 0.7)[level]))
        assert nearest == clip.outcome.prediction


def test_rows_that_are_dear_or_were_changed_are_not_asked(
    looked_at: Path,
) -> None:
    (entry,) = [e for e in measured(all_grids(looked_at)) if e.defense == "kit.gray:Lighten"]
    settings, clip = entry.cells[1].settings, torch.full((3, 4, 8, 8), 0.3)
    assert "takes 9 s, and --patience is 2 s" in Networks(2).ask(settings, 9.0, "c", clip, clip).why_not
    other = settings.model_copy(update={"defense": settings.defense.model_copy(update={"code": "x"})})
    assert "was changed since" in Networks(2).ask(other, None, "c", clip, clip).why_not
    gone = settings.model_copy(update={"defense": settings.defense.model_copy(update={"name": "not_there"})})
    assert "not_there" in Networks(2).ask(gone, None, "c", clip, clip).why_not
    other = settings.model_copy(update={"model": settings.model.model_copy(update={"weights": "x"})})
    assert "not those that were measured" in Networks(2).ask(other, None, "c", clip, clip).why_not


def test_clips_that_are_not_kept_are_not_shown(looked_at: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(looked_at, results)
    assert not any(kept(results, most=0).values())
    assert [len(clips) for clips in kept(results, most=2).values()] == [2, 2, 2, 2]
    for file in (results / ".store" / "bank").rglob("*.adv"):
        file.write_bytes(b"torn")
    assert not any(kept(results).values())
