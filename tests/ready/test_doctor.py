"""What the doctor sees of this machine, and the comparison of a device with the CPU, tried on the CPU itself."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gpu import main
from kit.commands import Answer
from kit.videos import write_video

from bench.grids.grid import shipped_grids
from bench.ready import doctor
from bench.ready.device import DeviceReport, Finding, check_device
from bench.ready.doctor import Check, checks, decoder

CPU = torch.device("cpu")


def test_what_is_installed_and_what_works(tmp_path: Path) -> None:
    found = {check.what: check for check in checks(tmp_path / "deep" / "results")}
    assert found["torch"].found == importlib.metadata.version("torch")
    assert found["decoder of MPEG-4 in AVI"].found == found["decoder of H.264 in MP4"].found == "works"
    assert found[f"results in {tmp_path / 'deep' / 'results'}"].ok
    assert not (tmp_path / "deep").exists()
    assert list(tmp_path.iterdir()) == []


def test_it_says_what_reads_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reads() -> Check:
        return {check.what: check for check in checks(tmp_path)}["videos are read by"]

    assert reads().found == "decord, or else av"
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "decord" else name)
    assert reads().found == "av"
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    assert not reads().ok


def test_a_decoder_that_gives_other_pictures_does_not_work(tmp_path: Path) -> None:
    dark = write_video(tmp_path / "dark.avi", [np.full((48, 64, 3), 40, np.uint8)] * 4)
    seen = decoder(dark, "MPEG-4")
    assert not seen.ok
    assert "gives 4 pictures of gray" in seen.found
    (tmp_path / "torn.avi").write_bytes(dark.read_bytes()[:100])
    assert not decoder(tmp_path / "torn.avi", "MPEG-4").ok


def test_the_command_lists_what_grids_lack(
    bench: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_WEIGHTS", str(tmp_path))
    chosen = {name: shipped_grids()[name] for name in ("demo", "ucf101_nl_simple")}
    monkeypatch.setattr("bench.ready.doctor.shipped_grids", lambda: chosen)
    answer = bench("doctor", "--results", tmp_path)
    assert answer.code == 0, answer.err
    assert "Grids that lack nothing: demo." in answer.out
    assert "ucf101_nl_simple lacks:" in answer.out
    assert "NL_res50.pth" in answer.out
    (tmp_path / "file").touch()
    refused = bench("doctor", "--results", tmp_path / "file")
    assert refused.code == 1
    assert "cannot be written" in refused.out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_there_is_one_sentence(bench: Callable[..., Answer]) -> None:
    answer = bench("doctor", "--gpu")
    assert answer.code == 2
    assert answer.err.count("\n") == 1
    assert "PyTorch finds no GPU" in answer.err


PARTS = (
    *("defence gaussian_noise", "defence diffpure_ddim", "defence oudefend", "precision fp32"),
    *("memory 4 clips", "time answer", "attack pgd", "attack roa"),
    *("time channels_last_3d", "time bf16", "time upload"),
)


def test_the_cpu_differs_in_nothing_from_itself() -> None:
    report = check_device(CPU, 5, parts=PARTS)
    by_name = {f"{f.part} {f.name}": f for f in report.findings}
    assert set(by_name) == set(PARTS)
    assert [f.note for f in report.findings if f.note.startswith("left out")] == []
    for name in PARTS:
        if not name.startswith(("memory", "time")):
            assert (by_name[name].largest, by_name[name].agree) == (0, 1), name
    changed = by_name["time channels_last_3d"].largest, by_name["time bf16"].largest
    assert changed[0] is not None
    assert changed[1] is not None
    assert changed[0] < 1e-4 < changed[1] < 1  # another order of sums, and another precision
    counted, true = by_name["memory 4 clips"].here, by_name["memory 4 clips"].there
    assert counted is not None
    assert true is not None
    assert counted == pytest.approx(true, rel=0.25)
    assert report.wrong == report.left_out == []


def test_another_answer_of_the_device_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device is played whose clips all turn black: the second of the two sides."""
    from bench.defenses.jpeg import JPEG

    real, calls = JPEG.purify, [0]

    def purify(self: JPEG, clips: torch.Tensor, rng: object) -> torch.Tensor:
        calls[0] += 1
        return real(self, clips, rng) if calls[0] == 1 else torch.zeros_like(clips)  # type: ignore[arg-type]

    monkeypatch.setattr(JPEG, "purify", purify)
    (found,) = check_device(CPU, 5, parts=["defence jpeg"]).findings
    assert found.largest is not None
    assert found.agree is not None
    assert found.largest > 0.3
    assert found.agree < 1


def test_when_the_time_is_over_nothing_begins() -> None:
    report = check_device(CPU, 0, parts=["defence jpeg", "attack pgd"])
    assert report.findings == []
    assert report.left_out == ["defence jpeg", "attack pgd"]


def test_a_report_says_what_is_wrong() -> None:
    bad = Finding("defence", "x", largest=0.5, agree=0.75, note="n")
    report = DeviceReport("card", [bad, Finding("attack", "y", agree=0.5)], ["z"], 3.0)
    assert report.wrong == [bad]  # attacks may end elsewhere
    assert json.loads(report.to_json())["findings"][0]["agree"] == 0.75
    assert "| defence | x | 0.5 | 0.75 | - | - | n |" in report.to_markdown()
    assert "Left out, as the time was over: z." in report.to_markdown()


def test_the_script_writes_both_reports(tmp_path: Path) -> None:
    arguments = ["--device", "cpu", "--minutes", "0", "--output", str(tmp_path / "deep" / "gpu")]
    assert main(arguments) == 0
    assert {p.name for p in (tmp_path / "deep").iterdir()} == {"gpu.md", "gpu.json"}
