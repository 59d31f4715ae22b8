"""Two ways to read the frames of a video in order: decord, and PyAV where decord is absent or cannot open a file.

Both stand on FFmpeg and give the same bytes: PyAV's frames go through the filters through which decord sends its own,
``scale`` with bilinear interpolation and ``format=rgb24``. They are used in the process that decodes alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

ORDER = ("decord", "av")
"""The decoders, by the names of their packages; the first that is installed and opens a file reads it."""


class Reader(Protocol):
    """The frames of one file, from the first on.

    Attributes:
        length: how many there are, by the packets of the file, hidden ones among them.
    """

    length: int

    def next(self) -> NDArray[np.uint8]:
        """The next frame ``(H, W, 3)``, RGB; raises whatever the library raises."""


class DecordReader:
    """Frames by decord.

    Args:
        path: of the file.
        size: width and height to which frames are scaled; their own if not given.
    """

    def __init__(self, path: str, size: tuple[int, int] | None) -> None:
        import decord

        decord.logging.set_level(decord.logging.ERROR)
        width, height = size or (-1, -1)
        # fault_tol: a frame that is another one's copy is an error.
        self._reader: Any = decord.VideoReader(
            path, ctx=decord.cpu(0), width=width, height=height, num_threads=1, fault_tol=1e-9
        )
        self.length = len(self._reader)

    def next(self) -> NDArray[np.uint8]:
        return _unpadded(self._reader.next().asnumpy())


class PyAVReader:
    """Frames by PyAV; arguments as of :class:`DecordReader`."""

    def __init__(self, path: str, size: tuple[int, int] | None) -> None:
        import av

        av.logging.set_level(av.logging.ERROR)
        av.logging.restore_default_callback()  # to the terminal, in whose place the words are collected
        with av.open(path) as counted:
            video = counted.streams.best("video")
            if video is None:
                raise ValueError("it holds no video")
            self.length = sum(packet.size > 0 for packet in counted.demux(video))
        self._container: Any = av.open(path)
        stream: Any = self._container.streams.best("video")
        self._stream = stream
        self._stream.codec_context.thread_count = 1
        self._size = size
        self._filters: tuple[tuple[Any, ...], Any] | None = None
        self._frames: Iterator[Any] = self._container.decode(self._stream)

    def next(self) -> NDArray[np.uint8]:
        frame = next(self._frames, None)
        if frame is None:
            raise ValueError("it ends before its last frame")
        if frame.is_corrupt:
            raise ValueError("a frame is damaged")
        graph = self._graph(frame)
        graph.push(frame)
        picture: NDArray[np.uint8] = graph.pull().to_ndarray()
        return np.ascontiguousarray(picture)

    def _graph(self, frame: Any) -> Any:
        """The filters; made anew where frames change their shape."""
        import av

        shape = (frame.width, frame.height, frame.format.name, int(frame.colorspace), int(frame.color_range))
        if self._filters is None or self._filters[0] != shape:
            width, height = self._size or shape[:2]
            given = "video_size={}x{}:pix_fmt={}:colorspace={}:range={}:time_base=1/25".format(*shape)
            graph = av.filter.Graph()
            chain = [
                graph.add("buffer", given),
                graph.add("scale", f"{width}:{height}:flags=bilinear"),
                graph.add("format", "rgb24"),
                graph.add("buffersink"),
            ]
            for before, after in pairwise(chain):
                before.link_to(after)
            graph.configure()
            self._filters = shape, graph
        return self._filters[1]


READERS: dict[str, type[DecordReader] | type[PyAVReader]] = {"decord": DecordReader, "av": PyAVReader}


def _unpadded(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A frame ``(H, W, 3)``. Of narrow ones decord takes the bytes that fill up the rows for more channels."""
    height, width, _ = picture.shape
    return np.ascontiguousarray(picture.reshape(height, -1)[:, : 3 * width]).reshape(height, width, 3)
