"""The process that decodes may hang, crash or be ended: each is one sentence, and the next video is read."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from kit.videos import moving, write_video

from bench import BenchError
from bench.data import decoder
from bench.data.decoder import DECODER, Decoder, plain


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "a.avi", moving(12))


def frames(made: Decoder, video: Path) -> int:
    return len(made.decode(video, None, range).frames)


def test_all_frames_or_those_that_are_wanted(video: Path) -> None:
    made = Decoder()
    everything = made.decode(video, None, range)
    assert (everything.length, sorted(everything.frames), everything.why) == (12, list(range(12)), "")
    some = made.decode(video, (32, 20), lambda length: [length - 1, 3, 3])
    assert {i: frame.shape for i, frame in some.frames.items()} == {3: (20, 32, 3), 11: (20, 32, 3)}
    assert len(some.checks) == 12
    made.close()


CODECS = [
    ("a.avi", "mpeg4", "yuv420p", {}),
    ("a.avi", "mpeg4", "yuv420p", {"bf": "2"}),  # shown in another order than they are coded
    ("a.mp4", "libx264", "yuv420p", {"x264-params": "threads=1:bframes=2"}),
    ("a.mp4", "libx264", "yuv444p", {}),
    ("a.mkv", "libx264", "yuvj420p", {}),
    ("a.webm", "libvpx-vp9", "yuv420p", {}),
]


@pytest.mark.parametrize(("name", "codec", "pixels", "options"), CODECS)
@pytest.mark.parametrize("size", [None, (112, 112), (40, 30), (85, 64)])
def test_both_libraries_give_the_same_bytes(
    name: str,
    codec: str,
    pixels: str,
    options: dict[str, str],
    size: tuple[int, int] | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    video = write_video(tmp_path / name, moving(9), 64, 48, codec, pixels, options=options)
    found = {}
    for library in ("decord", "av"):
        monkeypatch.setattr(decoder, "ORDER", (library,))
        found[library] = DECODER.decode(video, size, range)
    one, other = found["decord"], found["av"]
    assert (one.length, one.why, one.checks) == (other.length, other.why, other.checks) == (9, "", one.checks)
    assert all(np.array_equal(one.frames[i], other.frames[i]) for i in range(9))


def test_the_next_library_takes_over_where_one_is_absent_or_cannot_open_a_file(
    video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Decoder()
    monkeypatch.setattr(decoder, "ORDER", ("not_installed", "av"))
    assert frames(made, video) == 12
    monkeypatch.setattr(decoder, "ORDER", ("not_installed",))
    with pytest.raises(BenchError, match=r"needs decord or av, and there is neither: not_installed \(No module"):
        frames(made, video)
    # decord's FFmpeg knows no AV1, or not how to decode it.
    monkeypatch.setattr(decoder, "ORDER", ("decord", "av"))
    new = write_video(tmp_path / "new.mp4", moving(4), 64, 48, "libsvtav1", options={"preset": "12"})
    assert frames(made, new) == 4
    made.close()


def test_a_decoder_that_hangs_is_ended(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Decoder()
    monkeypatch.setattr(decoder, "PATIENCE", 1e-6)
    with pytest.raises(BenchError, match=r"Cannot decode .*a\.avi: one frame takes more than 1e-06 s"):
        frames(made, video)
    monkeypatch.setattr(decoder, "PATIENCE", 60)
    assert frames(made, video) == 12
    made.close()


@pytest.mark.parametrize(
    ("number", "error", "said"),
    [(signal.SIGSEGV, BenchError, "the decoder crashes"), (signal.SIGKILL, MemoryError, "ended from outside")],
)
def test_a_decoder_that_ends_is_started_again(
    video: Path, number: signal.Signals, error: type[Exception], said: str
) -> None:
    """Systems end with SIGKILL what takes too much memory: that is no fault of the video."""
    made = Decoder()
    assert frames(made, video) == 12
    assert made._process is not None
    os.kill(made._process.pid, number)
    with pytest.raises(error, match=said):
        frames(made, video)
    assert frames(made, video) == 12
    made.close()


def test_a_process_that_does_not_start_is_no_fault_of_the_video(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder.sys, "executable", "/bin/false")
    made = Decoder()
    with pytest.raises(OSError, match="does not start"):
        frames(made, video)
    monkeypatch.undo()
    assert frames(made, video) == 12
    made.close()


def test_an_error_of_whoever_chooses_leaves_no_answer_behind(video: Path) -> None:
    made = Decoder()

    def choose(length: int) -> list[int]:
        raise KeyError(length)

    with pytest.raises(KeyError, match="12"):
        made.decode(video, None, choose)
    assert frames(made, video) == 12
    made.close()


def test_a_fork_has_a_process_of_its_own(video: Path) -> None:
    made = Decoder()
    assert frames(made, video) == 12
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if frames(made, video) == 12 else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert frames(made, video) == 12
    made.close()


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (
            "[17:00:29] /github/workspace/src/video/ffmpeg/threaded_decoder.cc:292: [17:00:29] /github/workspace/src/"
            "video/ffmpeg/threaded_decoder.cc:218: Check failed: avcodec_send_packet(dec_ctx_.get(), pkt.get()) >= 0 "
            "(-1094995529 vs. 0) Thread worker: Error sending packet.",
            "Thread worker: Error sending packet",
        ),
        ("[h264 @ 0x5639961c3940] Invalid NAL unit size (-1 > 551).\nmore", "h264: Invalid NAL unit size (-1 > 551)"),
        ("[12:00:00] /a/b.cc:1: [/data/a.ts]Unable to handle EOF", "Unable to handle EOF"),
        ("ERROR cannot find video stream with wanted index: -1", "it holds no video"),
        ("\n", "no reason is given"),
    ],
)
def test_messages_without_clock_place_and_address(message: str, words: str) -> None:
    assert plain(message) == words
