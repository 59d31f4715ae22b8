"""Downloads against a server on this machine that breaks off, refuses, or sends something else."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from kit.commands import Answer
from pipelines import save_modelscope

from bench import BenchError
from bench.data.base import Missing
from bench.diffusion.backbones import PUBLISHED as BACKBONES
from bench.ready.fetch import fetch
from bench.weights.places import pipeline_place
from bench.weights.sources import HUBS, Source, sources

ANOTHER_PROCESS = """
import sys
from pathlib import Path
from bench.data.base import Missing
from bench.ready.fetch import fetch
from bench.weights.sources import Source
fetch(Source("mine", "my weights", "MIT", Missing("", "", "", Path(sys.argv[1])), url=sys.argv[2]))
"""


def weights() -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": torch.arange(300_000.0)}, buffer)
    return buffer.getvalue()


@dataclass
class Server:
    """What it sends, how it behaves, and what it was asked."""

    content: bytes
    breaks: int = 0  # how often it closes the connection half way
    ranges: bool = True
    status: int = 200
    tag: str = ""
    url: str = ""
    asked: list[str | None] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server(weights())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.asked.append(asked)
            if state.status != 200:
                self.send_error(state.status)
                return
            goes_on = state.ranges and self.headers.get("If-Range", state.tag) == state.tag
            begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and goes_on else 0
            part = state.content[begin:]
            if begin >= len(state.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(state.content)}")
                self.end_headers()
                return
            self.send_response(206 if begin else 200)
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(state.content) - 1}/{len(state.content)}")
            self.send_header("Content-Length", str(len(part)))
            if state.tag:
                self.send_header("ETag", state.tag)
            self.end_headers()
            if state.breaks:
                state.breaks -= 1
                part = part[: len(part) // 2]
            self.wfile.write(part)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http.server_port}/weights.pth"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield state
    http.shutdown()
    http.server_close()


def source_of(server: Server, path: Path, **changes: Any) -> Source:
    place = Missing("weights", "nowhere", "MIT", path)
    return Source("mine", "my weights", "MIT", place, **{"url": server.url, **changes})


def test_a_download_that_breaks_off_goes_on_where_it_was(server: Server, tmp_path: Path) -> None:
    server.breaks = 2
    path = tmp_path / "deep" / "weights.pth"
    digest = hashlib.sha256(server.content).hexdigest()
    seen: list[tuple[int, int]] = []
    fetch(source_of(server, path, sha256=digest[:8]), lambda here, total: seen.append((here, total)))
    assert path.read_bytes() == server.content
    half = len(server.content) // 2
    assert server.asked == [None, f"bytes={half}-", f"bytes={half + (len(server.content) - half) // 2}-"]
    assert seen[-1] == (len(server.content), len(server.content))
    assert [p.name for p in path.parent.iterdir()] == ["weights.pth"]


def test_what_a_killed_process_left_is_used(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.pth.part").write_bytes(server.content[:1000])
    fetch(source_of(server, tmp_path / "weights.pth"))
    assert server.asked == ["bytes=1000-"]
    (tmp_path / "weights.pth").rename(tmp_path / "weights.pth.part")  # whole, but killed before the name was given
    fetch(source_of(server, tmp_path / "weights.pth"))
    assert (tmp_path / "weights.pth").read_bytes() == server.content


def test_a_server_that_cannot_go_on_sends_all_again(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    (tmp_path / "weights.pth.part").write_bytes(b"x" * 1000)
    fetch(source_of(server, tmp_path / "weights.pth"))
    assert (tmp_path / "weights.pth").read_bytes() == server.content


def test_a_file_that_was_replaced_between_two_tries_is_not_put_together(server: Server, tmp_path: Path) -> None:
    server.breaks, server.tag, path = 5, '"first"', tmp_path / "weights.pth"
    with pytest.raises(BenchError, match="breaks off"):
        fetch(source_of(server, path))
    buffer = io.BytesIO()
    torch.save({"w": -torch.arange(300_000.0)}, buffer)  # as long as the first
    server.content, server.tag, server.breaks = buffer.getvalue(), '"second"', 0
    fetch(source_of(server, path))
    assert path.read_bytes() == server.content
    assert [p.name for p in tmp_path.iterdir()] == ["weights.pth"]


def test_one_process_downloads_a_file_at_a_time(server: Server, tmp_path: Path) -> None:
    """Another one begins while the first is at it."""
    path, refused = tmp_path / "weights.pth", list[str]()

    def other(here: int, total: int) -> None:
        if not refused:
            command = [sys.executable, "-c", ANOTHER_PROCESS, str(path), server.url]
            refused.append(subprocess.run(command, capture_output=True, text=True, check=False).stderr)

    fetch(source_of(server, path), other)
    assert "Another process is downloading" in refused[0]
    assert server.asked == [None]
    assert path.read_bytes() == server.content


def test_guided_diffusion_goes_where_purifiers_look_for_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a folder that is named, too, and from whatever folder the command is given."""
    monkeypatch.delenv("BENCH_WEIGHTS", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    found = fetch(replace(sources()["guided_diffusion"], url=server.url))
    assert found == tmp_path / "hub" / "checkpoints" / "256x256_diffusion_uncond.pt"
    assert pipeline_place("guided_diffusion", "256x256_diffusion_uncond.pt") == found
    assert sources()["guided_diffusion"].place == found


@pytest.mark.parametrize(
    ("changes", "content", "says"),
    [
        ({"sha256": "00000000"}, None, "its sha256 begins with .*, not 00000000"),
        ({"size": 5}, None, "bytes, not 5"),
        ({}, b"<!doctype html><html>sign in</html>", "a web page"),
        ({}, b"cos\nsystem\n(S'true'\ntR.", "Cannot read the checkpoint"),
    ],
)
def test_another_file_is_refused_and_removed(
    changes: dict[str, Any], content: bytes | None, says: str, server: Server, tmp_path: Path
) -> None:
    server.content = content or server.content
    with pytest.raises(BenchError, match=says):
        fetch(source_of(server, tmp_path / "weights.pth", **changes))
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_and_a_connection_that_never_holds(server: Server, tmp_path: Path) -> None:
    server.breaks = 100
    with pytest.raises(BenchError, match=r"breaks off.*weights.pth.part, and the same command goes on"):
        fetch(source_of(server, tmp_path / "weights.pth"))
    assert 0 < (tmp_path / "weights.pth.part").stat().st_size < len(server.content)
    server.status = 404
    with pytest.raises(BenchError, match="answers 404"):
        fetch(source_of(server, tmp_path / "other.pth"))


def test_without_a_connection_the_message_says_what_to_copy_where(tmp_path: Path) -> None:
    nowhere = Server(b"", url="http://127.0.0.1:9/weights.pth")  # the port of a service that nobody runs
    with pytest.raises(BenchError, match=r"get that address on another machine and copy the file to .*/weights\.pth"):
        fetch(source_of(nowhere, tmp_path / "weights.pth"))


def test_the_command_shows_the_licence_and_wants_it_accepted(
    server: Server, tmp_path: Path, bench: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"mine": source_of(server, tmp_path / "weights.pth")}
    monkeypatch.setattr("bench.weights.sources.sources", lambda root: known)
    refused = bench("fetch", "mine")
    assert refused.code == 2
    assert "licence: MIT" in refused.out
    assert "--accept-licence" in refused.err
    assert server.asked == []
    done = bench("fetch", "mine", "--accept-licence")
    assert done.code == 0, done.err
    assert hashlib.sha256(server.content).hexdigest() in done.out.replace("\n", "")
    assert (tmp_path / "weights.pth").read_bytes() == server.content
    assert "did you mean 'mine'" in bench("fetch", "mien").err


def test_the_list_knows_what_is_here(
    bench: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_WEIGHTS", str(tmp_path))
    (tmp_path / "raft_small_C_T_V2-01064c6d.pth").touch()
    (tmp_path / "NL_res50.pth").touch()
    lines = {line.split()[0]: line.split()[1] for line in bench("fetch").out.splitlines() if line.strip()}
    assert lines["raft_small-C_T_V2"] == lines["nl_r50-ucf101"] == "here"
    assert lines["raft_large-C_T_V1"] == lines["modelscope"] == lines["guided_diffusion"] == "fetch"
    assert lines["ucf101"] == lines["slowfast_r50-ucf101"] == "by"
    by_hand = bench("fetch", "ucf101", "--data-root", tmp_path)
    assert by_hand.code == 2
    assert "get it by hand" in by_hand.err
    assert "UCF101.rar" in by_hand.err
    assert "is here" in bench("fetch", "nl_r50-ucf101").out


def test_checksums_are_those_that_torchvision_states() -> None:
    """Eight digits of the sha256 stand in the names of its files."""
    known = sources()
    assert known["raft_large-C_T_V1"].sha256 == "22a6c225"
    assert known["raft_small-C_T_V2"].url.endswith("raft_small_C_T_V2-01064c6d.pth")
    assert {name: BACKBONES[name] for name in HUBS} == HUBS


def test_a_pipeline_comes_from_the_hub_without_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_WEIGHTS", str(tmp_path))
    asked: dict[str, Any] = {}

    def snapshot(hub: str, local_files_only: bool = False, **options: Any) -> str:
        if local_files_only:
            raise OSError("not cached")
        asked.update(options, hub=hub)
        folder: Path = options["local_dir"]
        return str(folder if folder.exists() else save_modelscope(folder))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    found = fetch(sources()["modelscope"])
    assert found == tmp_path / "damo-vilab--text-to-video-ms-1.7b"
    assert not [pattern for pattern in asked["allow_patterns"] if "bin" in pattern or pattern.endswith("/*")]
    for file in (found / "vae").glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))
    missing = Missing("m", "g", "l", "p")
    again = Source("modelscope", "ModelScope", "CC", missing, hub="damo-vilab/text-to-video-ms-1.7b")
    with pytest.raises(BenchError, match="no safetensors of vae, and pickles are not fetched"):
        fetch(again)


def test_without_the_hub_the_message_says_what_to_copy_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_WEIGHTS", str(tmp_path))

    def offline(*_: object, **__: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(BenchError, match=r"no route to host.*copy them to .*/damo-vilab--text-to-video-ms-1\.7b"):
        fetch(sources()["modelscope"])
