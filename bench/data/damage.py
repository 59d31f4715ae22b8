"""Where the damage of a video begins: the longest beginning of the file that decodes without a complaint."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable
from pathlib import Path

from bench.data.containers import Container
from bench.data.decoder import DECODER, Decoded
from bench.errors import BenchError

# Frames are not always coded in the order in which they are shown; so far is looked back for one that waits for others.
_LOOK_BACK = 8


class Beginnings:
    """A damaged video, cut off after some of its frames.

    Args:
        container: what it says of itself.
        size: width and height to which the decoder scales; the video's own if not given.
        path: of the video.
    """

    def __init__(self, path: Path, container: Container, size: tuple[int, int] | None) -> None:
        self._path, self._container, self._size = path, container, size

    def sound(self) -> int | None:
        """How many frames, in the order in which they are coded, are certainly intact; ``None`` if it cannot be found
        out, as the container does not say where a frame ends.

        They decode without a complaint, all but the last one that does: damage that begins near the end of a frame
        shows in the next.
        """
        ends, frames = self._container.ends, self._container.frames
        high = len(ends) if self._container.count_at is None else frames or 0
        if not high:
            return None
        if self._container.damage and self._is_sound(high):
            return high - 1
        low = 0
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._is_sound(middle) else (low, middle)
        return max(low - 1, 0)

    def shown(self, sound: int) -> int:
        """How many frames, in the order in which they are shown, are certainly there if so many decode.

        The last ones may wait for others that are coded later. How many do is seen where fewer are decoded.
        """
        checks = self.decode(sound).checks
        behind = 0
        for count in range(max(sound - _LOOK_BACK, 1), sound):
            fewer = self.decode(count).checks
            same = next((i for i, (a, b) in enumerate(zip(fewer, checks, strict=False)) if a != b), len(fewer))
            behind = max(behind, len(fewer) - same)
        return max(len(checks) - behind, 0)

    def decode(self, count: int, wanted: Iterable[int] = ()) -> Decoded:
        """Decodes the beginning of so many frames.

        Raises:
            BenchError: it cannot be decoded at all.
        """
        with tempfile.NamedTemporaryFile(prefix="bench-", suffix=self._path.suffix) as file:
            file.write(self._container.beginning(self._path, count))
            file.flush()
            try:
                return DECODER.decode(Path(file.name), self._size, lambda _: wanted)
            except BenchError as error:
                raise BenchError(str(error).replace(file.name, str(self._path))) from error

    def _is_sound(self, count: int) -> bool:
        with contextlib.suppress(BenchError):
            found = self.decode(count)
            # The table of an MP4 may list frames that lie behind the end of the file.
            return not found.why and (self._container.count_at is None or found.length == count)
        return False
