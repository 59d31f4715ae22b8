"""Downloading what is known by name: resumed where it stopped, its checksum compared, and never a pickle that runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import requests
from filelock import FileLock, Timeout

from bench.data.base import Missing
from bench.errors import BenchError
from bench.weights.places import PIPELINES, folder_name, pipeline_place, weights_folder
from bench.weights.reading import read_plain
from bench.weights.sources import Source

_CHUNK = 1 << 20
_TRIES = 5
_SECONDS = 30  # without a byte

Watch = Callable[[int, int], None]
"""Is told how many of how many bytes are here; 0 in all if nobody knows."""


def put_of(source: Source) -> Path:
    """Where a file is put that a source is downloaded to."""
    assert isinstance(source.place, Missing)
    return Path(source.place.put)


def fetch(source: Source, watch: Watch | None = None) -> Path:
    """Downloads a source to where it is looked for.

    Returns:
        The file or folder.

    Raises:
        BenchError: it can only be had by hand, cannot be reached, or is not what it should be. What has been downloaded
            stays, and the next call goes on from there.
    """
    if isinstance(source.place, Path):
        return source.place
    if source.by_hand:
        raise BenchError(f"No program can get this; get it by hand:\n  - {source.place}")
    if source.hub:
        return _from_hub(source)
    path = put_of(source)
    partial = path.with_name(f"{path.name}.part")
    with _alone(path):
        if not path.is_file():  # by a process that has just ended
            download(source.url, partial, path, watch)
            check(source, partial)
            partial.replace(path)
            _tag(partial).unlink(missing_ok=True)
    return path


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Inside, no other process downloads that file.

    Raises:
        BenchError: one is at it, or the folder cannot be written.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=0):
            try:
                yield
            finally:
                with suppress(OSError):  # where open files cannot be removed
                    lock.unlink(missing_ok=True)
    except Timeout as error:
        raise BenchError(f"Another process is downloading {path} at the moment: wait until it is done.") from error
    except OSError as error:
        raise BenchError(f"Cannot write to {path.parent}: {error}.") from error


def _tag(partial: Path) -> Path:
    """Where is written which version of a file a download belongs to, in the server's words."""
    return partial.with_name(f"{partial.name}.etag")


def download(url: str, partial: Path, path: Path, watch: Watch | None = None) -> None:
    """Downloads a file, going on where an earlier try has stopped.

    Args:
        partial: where it is written.
        path: where it is to go, for messages.

    Raises:
        BenchError: the server cannot be reached, refuses, or breaks off again and again.
    """
    reason = ""
    for _ in range(_TRIES):
        before = _size(partial)
        try:
            if _attempt(url, partial, watch):
                return
            reason = "the connection breaks off"
        except requests.exceptions.RequestException as error:
            reason = str(error).splitlines()[0][:200]
            if _size(partial) == before == 0:
                break  # there is no way there at all
    raise BenchError(
        f"Cannot download {url} ({reason}). What is here is kept in {partial}, and the same command goes on. Without a "
        f"connection: get that address on another machine and copy the file to {path}."
    )


def _attempt(url: str, partial: Path, watch: Watch | None) -> bool:
    """One request for what is lacking; whether all is here now.

    Raises:
        BenchError: the server refuses.
    """
    begun = _size(partial)
    headers = {"Accept-Encoding": "identity"}
    if begun:
        headers["Range"] = f"bytes={begun}-"
        if _tag(partial).is_file():  # of another version all is sent
            headers["If-Range"] = _tag(partial).read_text(encoding="utf-8")
    with requests.get(url, headers=headers, stream=True, timeout=_SECONDS) as answer:
        if answer.status_code == 416:  # nothing is left, or the file is another one
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            if total == str(begun):
                return True
            partial.unlink()
            return False
        if answer.status_code not in (200, 206):
            raise BenchError(f"The server of {url} answers {answer.status_code} {answer.reason}: has the file moved?")
        goes_on = answer.status_code == 206
        if not goes_on:
            begun = 0
            _keep_tag(answer.headers.get("ETag", ""), partial)
        length = int(answer.headers.get("Content-Length", 0))
        total_size = begun + length if length else 0
        with partial.open("ab" if goes_on else "wb") as file:
            here = begun
            for chunk in answer.iter_content(_CHUNK):
                file.write(chunk)
                here += len(chunk)
                if watch is not None:
                    watch(here, total_size)
    return not total_size or here == total_size


def _keep_tag(tag: str, partial: Path) -> None:
    """Weak validators do not tell bytes apart (RFC 9110, 13.1.5)."""
    if tag and not tag.startswith("W/") and tag.isascii():
        _tag(partial).write_text(tag, encoding="utf-8")
    else:
        _tag(partial).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def check(source: Source, path: Path) -> None:
    """Compares a file with what is stated of it, and looks whether it holds plain tensors.

    Raises:
        BenchError: it is another file, or would run code when it is read; it is removed.
    """
    digest = sha256(path)
    wrong = ""
    if source.size is not None and _size(path) != source.size:
        wrong = f"it has {_size(path)} bytes, not {source.size}"
    elif source.sha256 is not None and not digest.startswith(source.sha256):
        wrong = f"its sha256 begins with {digest[: len(source.sha256)]}, not {source.sha256}"
    else:
        try:
            read_plain(path)
        except BenchError as error:
            wrong = str(error)
    if wrong:
        path.unlink()
        _tag(path).unlink(missing_ok=True)
        raise BenchError(f"What was downloaded from {source.url} is not {source.what}: {wrong}. It was removed.")


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_hub(source: Source) -> Path:
    """A pipeline from the Hugging Face hub, by its library, which resumes and compares sizes; safetensors alone."""
    from huggingface_hub import snapshot_download

    folder, parts = weights_folder(), PIPELINES[source.name][2]
    kinds = ("*.json", "*.txt", "*.safetensors")
    place: dict[str, Any] = {"local_dir": folder / folder_name(source.hub)} if folder is not None else {}
    try:
        snapshot_download(
            source.hub,
            allow_patterns=[f"{part}/{kind}" for part in parts for kind in kinds],
            ignore_patterns=["*.fp16.*", "*non_ema*"],
            **place,
        )
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        target = place.get("local_dir", f"a folder {folder_name(source.hub)} in the folder that BENCH_WEIGHTS names")
        raise BenchError(
            f"Cannot download {source.hub} from the Hugging Face hub ({reason}). What is here is kept, and the same "
            f"command goes on. Without a connection: get the folders {', '.join(parts)} of "
            f"https://huggingface.co/{source.hub} on another machine and copy them to {target}."
        ) from error
    found = pipeline_place(source.name, source.hub)
    if isinstance(found, Missing):
        raise BenchError(f"The hub's copy is not whole: {found}")
    unsafe = [p for p in ("unet", "vae", "text_encoder") if p in parts and not list((found / p).glob("*.safetensors"))]
    if unsafe:
        raise BenchError(
            f"{source.hub} has no safetensors of {', '.join(unsafe)}, and pickles are not fetched: convert them "
            f"elsewhere and put them into {found}."
        )
    return found
