"""A few videos and lists in the layouts of the published data sets, rendered by the embedded benchmark."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from bench.data.procedural import render
from bench.errors import BenchError
from bench.registry import DATASETS

Picture = NDArray[np.uint8]


def write_data(dataset: str, folder: Path, count: int, frames: int) -> None:
    """Clips of the first class of a published data set, where they are looked for below a data root.

    Args:
        count: of videos.
        frames: of each, at least.

    Raises:
        BenchError: it is another data set.
    """
    if dataset not in _WRITERS:
        raise BenchError(f"A rehearsal has no layout of the data set {dataset!r}; known: {', '.join(_WRITERS)}.")
    folder.mkdir(parents=True, exist_ok=True)
    _WRITERS[dataset](folder, count, frames, DATASETS.create(dataset).classes)


def _pictures(number: int, frames: int, width: int, height: int) -> Iterator[Picture]:
    """Frames ``(height, width, 3)`` of a moving sprite."""
    from PIL import Image

    clip = render("test", number, frames=16, size=64).clip  # (3, 16, 64, 64)
    whole = (clip.clamp(0, 1) * 255).byte().permute(1, 2, 3, 0).numpy()
    for index in range(frames):
        picture = Image.fromarray(whole[index % len(whole)]).resize((width, height))
        yield np.asarray(picture, dtype=np.uint8)


def write_video(path: Path, pictures: Iterator[Picture], width: int, height: int, codec: str) -> None:
    """Writes a video of 25 pictures a second, in the container that its name asks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    opened: Any = av.open(str(path), "w")
    with opened as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _ucf101(folder: Path, count: int, frames: int, classes: Sequence[str]) -> None:
    names = [f"{classes[0]}/v_{classes[0]}_g{i + 1:02d}_c01.avi" for i in range(count)]
    for number, name in enumerate(names):
        write_video(folder / "UCF-101" / name, _pictures(number, frames, 320, 240), 320, 240, "mpeg4")
    _lines(folder / "ucfTrainTestlist" / "testlist01.txt", names)


def _hmdb51(folder: Path, count: int, frames: int, classes: Sequence[str]) -> None:
    names = [f"rehearsal_{i + 1}.avi" for i in range(count)]
    for number, name in enumerate(names):
        write_video(folder / "hmdb51_org" / classes[0] / name, _pictures(number, frames, 320, 240), 320, 240, "mpeg4")
    for kind in classes:  # every list has to mark a video; those of other classes are not there
        lines = [f"{name} 2" for name in names]
        _lines(folder / "testTrainMulti_7030_splits" / f"{kind}_test_split1.txt", lines)


def _kinetics400(folder: Path, count: int, frames: int, classes: Sequence[str]) -> None:
    place = folder / "val" / classes[0]
    for number in range(count):
        path = place / f"rehearsal{number:02d}_000000_000010.mp4"
        write_video(path, _pictures(number, frames, 340, 256), 340, 256, "mpeg4")


def _cifar10(folder: Path, count: int, frames: int, classes: Sequence[str]) -> None:
    """The test file as published: ten thousand records of a label and 32x32 colours; all labels are 0."""
    records = np.random.default_rng(0).integers(0, 256, (10_000, 3073), np.uint8)
    records[:, 0] = 0
    (folder / "cifar-10-batches-bin").mkdir(parents=True, exist_ok=True)
    records.tofile(folder / "cifar-10-batches-bin" / "test_batch.bin")


def _lines(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


_WRITERS: dict[str, Callable[[Path, int, int, Sequence[str]], None]] = {
    "ucf101": _ucf101,
    "hmdb51": _hmdb51,
    "kinetics400": _kinetics400,
    "cifar10": _cifar10,
}
