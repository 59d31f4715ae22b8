"""Seconds that loading takes when 19 cells ask for the same clips, with and without the cache of decoded clips.

Run: ``python benchmarks/loading.py``, which writes videos of moving noise as ``ucf101`` reads them, with PyAV
(``pip install -e .[test]``), or ``--data-root FOLDER`` for real ones. Memory holds no clip: a data set that fits into
it needs no cache. Each way runs in turn, in one process; the last figure is how often the data set was asked.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bench import ClipRef, Dataset
from bench.registry import DATASETS
from bench.run.loading import Frames, Loader

CELLS = 19


class Counted(Dataset):
    """A data set that counts how often it is asked."""

    def __init__(self, inner: Dataset, root: Path) -> None:
        self.inner, self.root, self.classes = inner, root, inner.classes
        self.asked = 0

    def refs(self) -> list[ClipRef]:
        return self.inner.refs()

    def load(self, ref: ClipRef) -> Tensor:
        self.asked += 1
        return self.inner.load(ref)


def write_videos(root: Path, count: int) -> None:
    """Videos of 320 x 240 pixels and 60 frames, coded as the official ones, and their list."""
    import av

    rng = np.random.default_rng(0)
    names = [f"Archery/v_Archery_g{i + 1:02d}_c01.avi" for i in range(count)]
    (root / "UCF-101" / "Archery").mkdir(parents=True)
    (root / "ucfTrainTestlist").mkdir()
    (root / "ucfTrainTestlist" / "testlist01.txt").write_text("\n".join(names), encoding="utf-8")
    for name in names:
        texture = rng.integers(0, 256, (30, 40, 3)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
        with av.open(str(root / "UCF-101" / name), "w") as file:
            stream = file.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            for step in range(60):
                frame = av.VideoFrame.from_ndarray(np.roll(texture, 3 * step, 1), format="rgb24")
                file.mux(stream.encode(frame))
            file.mux(stream.encode())


@contextmanager
def videos(root: Path | None, count: int) -> Iterator[Path]:
    if root is not None:
        yield root
        return
    with tempfile.TemporaryDirectory() as folder:
        write_videos(Path(folder), count)
        yield Path(folder)


def seconds(loader: Loader, refs: Sequence[ClipRef], work: float) -> tuple[float, Tensor]:
    """To load all clips once for each cell, and a sum of them; the device is at work as long as is said on each."""
    begun, total = time.perf_counter(), torch.zeros(())
    for _ in range(CELLS):
        loader.expect(refs)
        for ref in refs:
            total = total + loader.load(ref).sum()
            time.sleep(work)
    loader.close()
    return time.perf_counter() - begun - work * CELLS * len(refs), total


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--work", type=float, default=0.0, help="seconds that the device works on a clip")
    chosen = parser.parse_args(arguments)
    with videos(chosen.data_root, chosen.clips) as root, tempfile.TemporaryDirectory() as folder:
        inner = DATASETS.create({"name": "ucf101", "root": root, "clips_per_class": None})
        refs = inner.refs()[: chosen.clips]
        rows = {}
        for name, frames, ahead in (
            ("decoded for each cell", None, 0),
            ("decoded ahead", None, 1 << 28),
            ("decoded once", Frames(Path(folder) / "a"), 0),
            ("decoded once, and ahead", Frames(Path(folder) / "b"), 1 << 28),
        ):
            data = Counted(inner, root)
            rows[name] = seconds(Loader(data, "", frames, memory=0, ahead=ahead), refs, chosen.work)
            taken, total = rows[name]
            ratio = rows["decoded for each cell"][0] / taken
            print(f"{name:<26} {taken:>8.2f} s  {ratio:>6.1f} times as fast  {data.asked:>4} decoded", flush=True)
            assert torch.equal(total, rows["decoded for each cell"][1])


if __name__ == "__main__":
    main()
