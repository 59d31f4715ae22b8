"""Decoding videos in a process of its own, which may crash, hang or complain without harm.

decord reads on where a file is damaged: it leaves out frames, shows others in their place, never returns, or takes the
interpreter down, and what FFmpeg says of it goes to the terminal. PyAV takes its place where it is absent or cannot
open a file (:mod:`bench.data.readers`). So a process, started once, does nothing but decode. It reads frame by frame
from the first to the last, without seeking, so that none is missed unnoticed; it keeps what
FFmpeg says apart; and where one frame takes too long, it ends itself.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bench.data.readers import ORDER, READERS, Reader
from bench.errors import BenchError

PATIENCE = 20.0
"""Seconds that one frame may take."""
MOST_PIXELS = 1 << 25
"""Of one picture: four times 4K. A larger one is no frame of a video, and would fill the memory."""

# Where frames are lost, decord seeks for others to show in their place, and often never ends.
_NO_REWIND = {"DECORD_REWIND_RETRY_MAX": "-1"}
# What FFmpeg calls an error, and what files that play well say too.
_HARMLESS = ("unref short failure", "co located POCs unavailable", "exceeds max (", "deprecated pixel format used")


@dataclass(frozen=True)
class Decoded:
    """What came of decoding a video.

    Attributes:
        length: how many frames the decoder finds.
        frames: those that were wanted, by number: ``uint8 (H, W, 3)``, RGB.
        why: the first thing that the decoder complained of, anywhere in the video; empty if all is well. It decodes
            ahead, so that there is no telling which frame it means.
        checks: checksum of each frame, as far as they could be decoded.
    """

    length: int
    frames: dict[int, NDArray[np.uint8]]
    why: str
    checks: list[int]


class Decoder:
    """The process. One question at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._lock = threading.Lock()

    def decode(
        self,
        path: Path,
        size: tuple[int, int] | None,
        choose: Callable[[int], Iterable[int]],
        most: int | None = None,
    ) -> Decoded:
        """Decodes a whole video, and hands over some of its frames.

        Args:
            path: of a regular file.
            size: width and height to which the decoder scales; the video's own if not given.
            choose: the numbers of the wanted frames, by the number of frames that the decoder finds.
            most: how many frames there are at most, if the container says so: decord counts hidden ones too.

        Raises:
            BenchError: the video cannot be opened, or the decoder crashed or hung.
            OSError: the process does not start.
            MemoryError: something ended the process from outside, as systems do that run out of memory.
        """
        with self._lock:
            try:
                self._send(
                    {"path": os.fspath(path.absolute()), "size": size, "patience": PATIENCE, "order": list(ORDER)}
                )
                opened = self._receive(path)
                if "error" in opened:
                    raise BenchError(f"Cannot decode {path}: {opened['error']}.")
                length = min(int(opened["length"]), most or int(opened["length"]))
                self._send({"wanted": sorted(set(choose(length))), "length": length})
                frames: dict[int, NDArray[np.uint8]] = {}
                while "done" not in (head := self._receive(path)):
                    frames[head["frame"]] = self._picture(path, head["shape"])
                return Decoded(length, frames, head["why"], head["checks"])
            except BaseException:
                # Whatever is still on its way belongs to nobody.
                self.close()
                raise

    def close(self) -> None:
        """Ends the process; the next question starts another."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # what was not written yet has no reader any more
                    continue

    def _running(self) -> subprocess.Popen[bytes]:
        # A forked process must not share the pipes.
        if self._process is None or self._owner != os.getpid():
            places = dict.fromkeys(str(Path(place or ".").resolve()) for place in sys.path)
            self._owner = os.getpid()
            self._process = subprocess.Popen(
                # -P: the working folder is no place of modules.
                [sys.executable, "-P", "-m", "bench.data.decoder"],
                env={**os.environ, **_NO_REWIND, "PYTHONPATH": os.pathsep.join(places)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # an interrupt is for the run, which then closes the pipe
            )
            assert self._process.stdout is not None
            if self._process.stdout.readline() != _READY:
                raise OSError(f"The process that decodes videos does not start ({self._process.wait()}).")
        return self._process

    def _send(self, question: dict[str, Any]) -> None:
        pipe = self._running().stdin
        assert pipe is not None
        try:
            pipe.write(json.dumps(question).encode() + b"\n")
            pipe.flush()
        except BrokenPipeError:  # the answer says why
            return

    def _receive(self, path: Path) -> dict[str, Any]:
        pipe = self._running().stdout
        assert pipe is not None
        line = pipe.readline()
        if not line.endswith(b"\n"):
            raise self._ended(path)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _picture(self, path: Path, shape: Sequence[int]) -> NDArray[np.uint8]:
        pipe = self._running().stdout
        assert pipe is not None
        data = pipe.read(math.prod(shape))
        if len(data) < math.prod(shape):
            raise self._ended(path)
        return np.frombuffer(data, np.uint8).reshape(shape)

    def _ended(self, path: Path) -> Exception:
        code = self._running().wait()
        if code == -9:
            return MemoryError(f"The process that decodes {path} was ended from outside, as if memory had run out.")
        if code in _TOO_LATE:
            return BenchError(f"Cannot decode {path}: one frame takes more than {PATIENCE:g} s; the file is damaged.")
        return BenchError(f"Cannot decode {path}: the decoder crashes ({code}); the file is damaged.")


DECODER = Decoder()
"""The one of this process."""
atexit.register(DECODER.close)


def plain(message: str) -> str:
    """The first sentence of what decord or FFmpeg says, without clock, places in their source, addresses and paths."""
    text = re.sub(r"\[\d\d:\d\d:\d\d\] \S+?:\d+: ", "", message.strip())
    text = next((line.strip() for line in text.splitlines() if line.strip()), "")
    if "cannot find video stream" in text:
        return "it holds no video"
    text = re.sub(r"^Check failed: .*?\(-?[\w.]+ vs\. -?[\w.]+\)\s*", "", text) or text
    text = re.sub(r"^\[[^\]]*\](?=\w)", "", text)
    return re.sub(r"\[(\S+) @ 0x[0-9a-f]+\]", r"\1:", text).rstrip(".") or "no reason is given"


# --- in the process ---

_READY = b"ready\n"
_BUG = 70  # the code with which the process ends after an error of ours
_ALARM = getattr(signal, "SIGALRM", None)  # not on Windows
_TOO_LATE = (1,) if _ALARM is None else (-int(_ALARM),)  # faulthandler's code, and what a signal leaves


def _serve(questions: BinaryIO, answers: BinaryIO, said: FileIO) -> None:
    """Answers until there are no more questions.

    Args:
        said: the file in which the words of FFmpeg arrive, in place of the terminal.
    """

    def answer(head: dict[str, Any], picture: NDArray[np.uint8] | None = None) -> None:
        answers.write(json.dumps(head).encode() + b"\n")
        if picture is not None:
            answers.write(picture.tobytes())
        answers.flush()

    for line in questions:
        video = json.loads(line)
        reader, why = _opened(video, said)
        if reader is None:
            answer({"error": why})
            continue
        length = reader.length
        if length < 1:
            answer({"error": "it holds no frame"})
            continue
        # What is said until here may be about the sound, which FFmpeg looks at while it opens a file.
        opened = _words(said)
        answer({"length": length})
        asked = json.loads(questions.readline())
        wanted = set(asked["wanted"])
        checks: list[int] = []
        why = ""
        for number in range(asked["length"]):
            with _watched(video["patience"]):
                try:
                    picture = reader.next()
                except Exception as error:  # noqa: BLE001 - whatever a library says of a broken file
                    why = plain(str(error) or type(error).__name__)
                    break
            if picture.shape[0] * picture.shape[1] > MOST_PIXELS:
                why = f"its frames have {picture.shape[1]}x{picture.shape[0]} pixels, and {MOST_PIXELS} are the most"
                break
            checks.append(zlib.crc32(picture.data))
            if number in wanted:
                answer({"frame": number, "shape": picture.shape}, picture)
        # It ends the thread that decodes ahead, whose words would be taken for those about the next video.
        del reader
        answer({"done": True, "why": _complaint(said, opened) or why, "checks": checks})


def _opened(video: dict[str, Any], said: FileIO) -> tuple[Reader | None, str]:
    """A file, opened by the first decoder that can; or none, and what the first one that is installed says of it."""
    reason, absent = "", []
    for name in video["order"]:
        try:
            importlib.import_module(name)  # takes its time once, which is no fault of the file
        except (ImportError, OSError) as error:
            absent.append(f"{name} ({plain(str(error))})")
            continue
        said.seek(0)
        said.truncate()
        with _watched(video["patience"]):
            try:
                return READERS[name](video["path"], tuple(video["size"]) if video["size"] else None), ""
            except Exception as error:  # noqa: BLE001 - whatever a library says of a broken file
                reason = reason or _complaint(said, 0) or plain(str(error) or type(error).__name__)
    return None, reason or f"that needs decord or av, and there is neither: {', '.join(absent)}"


@contextlib.contextmanager
def _watched(patience: float) -> Iterator[None]:
    """Ends the process if the block takes longer, whatever hangs in it and whatever lock it holds.

    The system does it, without a word of Python: a thread that first writes down where the other one is, as
    faulthandler's does, reads what that one is changing, and where it was not hanging but slow, crashes now and then.
    """
    if sys.platform == "win32":
        import faulthandler

        faulthandler.dump_traceback_later(patience, exit=True)
    else:
        signal.setitimer(signal.ITIMER_REAL, patience)
    try:
        yield
    finally:
        if sys.platform == "win32":
            faulthandler.cancel_dump_traceback_later()
        else:
            signal.setitimer(signal.ITIMER_REAL, 0)


def _words(said: FileIO) -> int:
    return os.fstat(said.fileno()).st_size


def _complaint(said: FileIO, start: int) -> str:
    """The first error that FFmpeg told of since, if there is one."""
    said.seek(start)
    lines = said.read().decode("utf-8", "replace").splitlines()
    return next((plain(line) for line in lines if line.strip() and not any(word in line for word in _HARMLESS)), "")


def _main() -> None:
    if sys.platform != "win32":
        # Whoever started this process may have kept the alarm from it.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    with tempfile.TemporaryFile(buffering=0) as said, os.fdopen(os.dup(1), "wb") as answers:
        # Whatever is printed goes to the file.
        os.dup2(said.fileno(), 2)
        os.dup2(said.fileno(), 1)
        answers.write(_READY)
        answers.flush()
        try:
            _serve(sys.stdin.buffer, answers, said)
        except Exception:  # noqa: BLE001 - whoever asked is told; and this is not the code of being too late
            os._exit(_BUG)


if __name__ == "__main__":
    _main()
