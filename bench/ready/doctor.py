"""What works on this machine and what does not: versions, devices, decoders, disk, and what each grid lacks."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import torch

from bench.data.base import Missing
from bench.data.frames import decode
from bench.data.readers import ORDER
from bench.errors import BenchError
from bench.grids.grid import read_grid, shipped_grids
from bench.plan.components import missing_files

_PACKAGES = (
    *("torch", "torchvision", "diffusers", "transformers", "huggingface_hub", "safetensors", "decord", "av"),
    *("pytorchvideo", "kornia", "numpy"),
)
# Shipped videos of four gray pictures each: MPEG-4 in AVI, as UCF-101 and HMDB-51, and H.264 in MP4, as Kinetics.
_PROBES = {"probe.avi": "MPEG-4 in AVI", "probe.mp4": "H.264 in MP4"}
_LEVELS = (40, 100, 160, 220)
_TOLERANCE = 4
_LEAST_FREE = 2 << 30


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        what: it is.
        found: in words.
        ok: whether it is as it must be.
    """

    what: str
    found: str
    ok: bool = True


def checks(results: Path) -> Iterator[Check]:
    """Looks at the machine.

    Args:
        results: where results are to be written.
    """
    yield Check("Python", platform.python_version())
    for package in _PACKAGES:
        yield Check(package, _version(package))
    used = [name for name in ORDER if find_spec(name) is not None]
    yield Check("videos are read by", ", or else ".join(used) or "nothing: there is no decord and no av", ok=bool(used))
    yield from _devices()
    for name, words in _PROBES.items():
        yield decoder(Path(str(resources.files("bench.ready").joinpath(name))), words)
    yield from _disk(results)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _devices() -> Iterator[Check]:
    yield Check("CPU", f"{os.cpu_count()} cores, of which PyTorch takes {torch.get_num_threads()}")
    if not torch.cuda.is_available():
        yield Check("GPU", "none that PyTorch finds")
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        yield Check(f"GPU {index}", f"{about.name}, {about.total_memory / 2**30:.0f} GiB")


def decoder(path: Path, words: str) -> Check:
    """Decodes a video of known pictures."""
    what = f"decoder of {words}"
    try:
        pictures = decode(path, lambda length: range(length))
    except BenchError as error:
        return Check(what, str(error), ok=False)
    found = [float(picture.mean()) for picture in pictures]
    right = len(found) == len(_LEVELS) and all(abs(a - b) <= _TOLERANCE for a, b in zip(found, _LEVELS, strict=True))
    if right:
        return Check(what, "works")
    return Check(what, f"gives {len(found)} pictures of gray {', '.join(f'{g:.0f}' for g in found)}", ok=False)


def _disk(results: Path) -> Iterator[Check]:
    """Whether results can be written, and how much room there is."""
    place = results
    while not place.exists():
        place = place.parent
    try:
        with tempfile.NamedTemporaryFile(dir=place):
            pass
        yield Check(f"results in {results}", "can be written")
    except OSError as error:
        yield Check(f"results in {results}", f"cannot be written ({error.strerror or error})", ok=False)
    free = shutil.disk_usage(place).free
    yield Check("room on the disk", f"{free / 2**30:.1f} GiB", ok=free >= _LEAST_FREE)


def lacking(data_root: Path | None) -> dict[str, list[Missing] | str]:
    """What each shipped grid lacks, by its name; or why that cannot be said."""
    found: dict[str, list[Missing] | str] = {}
    for name, path in shipped_grids().items():
        try:
            found[name] = missing_files(read_grid(path), data_root)
        except BenchError as error:
            found[name] = str(error)
    return found
