"""Frames of videos and folders: odd ones are read right, damaged ones are refused or padded, never read as others."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from kit.videos import moving, write_video
from PIL import Image

from bench import BenchError
from bench.data.frames import decode, find_file, number_of, numbered, read_frames, read_image

Damage = Callable[[bytes], bytes]


def solid(level: int, width: int = 64, height: int = 48) -> np.ndarray[Any, Any]:
    return np.full((height, width, 3), level, np.uint8)


def means(frames: list[np.ndarray[Any, Any]]) -> list[float]:
    return [float(frame.mean()) for frame in frames]


def zero_tail(data: bytes) -> bytes:
    return data[: len(data) * 6 // 10] + bytes(len(data) - len(data) * 6 // 10)


def garbage(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + np.random.default_rng(1).bytes(2000) + data[middle + 2000 :]


def zeros(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes(2000) + data[len(data) // 2 + 2000 :]


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


# --- damaged videos ---


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same 40 frames in three containers; the one with frames that are coded out of order too."""
    folder = tmp_path_factory.mktemp("videos")
    made = {kind: write_video(folder / f"a.{kind}", moving(40)) for kind in ("avi", "mp4", "mkv")}
    made["b-frames"] = write_video(folder / "b.mkv", moving(40), codec="mpeg4", options={"bf": "2", "qmax": "2"})
    return made


@pytest.mark.parametrize("kind", ["avi", "mp4", "mkv", "b-frames"])
@pytest.mark.parametrize("damage", [zero_tail, garbage, zeros, cut])
def test_a_damaged_video_is_refused_and_padded_on_request(
    videos: dict[str, Path], tmp_path: Path, kind: str, damage: Damage
) -> None:
    whole = decode(videos[kind], range(40))
    broken = tmp_path / f"broken{videos[kind].suffix}"
    broken.write_bytes(damage(videos[kind].read_bytes()))
    with pytest.raises(BenchError, match=r"^Cannot decode .*damaged.*; copy the file again") as refused:
        decode(broken, range(3))  # wherever the damage is
    assert "\n" not in str(refused.value)
    if kind == "mp4" and damage in (zero_tail, cut):  # its table of contents is at the end
        with pytest.raises(BenchError, match="copy the file again"):
            decode(broken, range(40), on_damage="pad")
        return
    first = re.search(r"frame (\d+) of", str(refused.value))
    assert first is not None
    padded = decode(broken, range(40), on_damage="pad")
    # Frames before the damage are those of the whole video; then the last one stands still, wherever the video ends.
    kept = next((i for i in range(40) if not np.array_equal(padded[i], whole[i])), 40)
    assert 10 < kept <= int(first[1]) <= 32
    assert kept >= int(first[1]) - 2
    length = 40 if kind in ("avi", "mp4") else kept
    assert all(np.array_equal(frame, whole[kept - 1]) for frame in padded[kept:length])


def test_an_error_is_the_same_each_time(videos: dict[str, Path], tmp_path: Path) -> None:
    """decord's own messages hold the time of day, and FFmpeg's an address."""
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(garbage(videos["mp4"].read_bytes()))
    said = []
    for _ in range(4):
        with pytest.raises(BenchError) as caught:
            decode(broken, range(3))
        said.append(str(caught.value))
    assert len(set(said)) == 1
    assert not re.search(r"\d\d:\d\d:\d\d|0x[0-9a-f]|/src/", said[0])


def test_a_video_that_was_damaged_is_no_burden_for_the_next(videos: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.avi"
    broken.write_bytes(garbage(videos["avi"].read_bytes()))
    for _ in range(3):
        with pytest.raises(BenchError):
            decode(broken, range(40))
        assert len(decode(videos["avi"], range(40))) == 40


def test_a_header_that_promises_more_frames_is_believed(tmp_path: Path) -> None:
    """As after a recording that broke off: the container is in order, and holds half of the frames."""
    path = write_video(tmp_path / "a.avi", moving(20))
    data = path.read_bytes()
    at = data.index(b"strh") + 8 + 32
    path.write_bytes(data[:at] + struct.pack("<I", 40) + data[at + 4 :])
    with pytest.raises(BenchError, match="its header says 40 frames, and it holds 20"):
        decode(path, range(3))
    path.write_bytes(data[:at] + struct.pack("<I", 21) + data[at + 4 :])  # some writers count one more
    assert len(decode(path, range(3))) == 3


def test_what_holds_no_frame(tmp_path: Path) -> None:
    empty, silent, sound = (tmp_path / name for name in ("empty.avi", "none.avi", "sound.avi"))
    empty.touch()
    with pytest.raises(BenchError, match="the file is empty"):
        decode(empty, range(2))
    with av.open(str(silent), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    with pytest.raises(BenchError, match="it holds no frame"):
        decode(silent, range(2))
    with av.open(str(sound), "w") as container:
        audio = container.add_stream("mp2", rate=44100)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
        samples.rate = 44100
        container.mux([*audio.encode(samples), *audio.encode(None)])
    with pytest.raises(BenchError, match="it holds no video"):
        decode(sound, range(2))
    with pytest.raises(BenchError, match="not a regular file"):
        decode(tmp_path, range(2))


def test_a_fifo_is_no_video_and_no_frame(tmp_path: Path) -> None:
    """Opening one waits for a writer that never comes."""
    os.mkfifo(tmp_path / "1.png")
    os.mkfifo(tmp_path / "a.mp4")
    (tmp_path / "2.png").symlink_to(tmp_path / "1.png")
    assert numbered(tmp_path) == {}
    for read in (read_image, lambda path: decode(path, range(2))):
        with pytest.raises(BenchError, match="not a regular file"):
            read(tmp_path / "1.png")
    assert find_file([tmp_path], "a.mp4") is None


# --- odd videos, read right ---


@pytest.mark.parametrize(("width", "height"), [(2, 2), (16, 16), (48, 48), (50, 38), (65, 49), (33, 17), (48, 2)])
def test_narrow_and_odd_sizes(tmp_path: Path, width: int, height: int) -> None:
    path = write_video(tmp_path / "a.mp4", (solid(40 * i, width, height) for i in range(4)), width, height)
    frames = decode(path, range(4))
    assert [frame.shape for frame in frames] == [(height, width, 3)] * 4
    assert means(frames) == pytest.approx([0, 40, 80, 120], abs=1.5)
    assert max(frame.std() for frame in frames) < 1.5


def test_one_frame(tmp_path: Path) -> None:
    assert means(decode(write_video(tmp_path / "a.avi", [solid(80)]), range(3))) == pytest.approx([80] * 3, abs=1.5)


def test_variable_frame_rate_is_frame_after_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", (solid(40 * i) for i in range(5)), times=[0, 40, 50, 400, 2000])
    assert means(decode(path, range(5))) == pytest.approx([0, 40, 80, 120, 160], abs=1.5)


@pytest.mark.parametrize("size", [None, (340, 256)])
def test_rotation_is_obeyed(tmp_path: Path, size: tuple[int, int] | None) -> None:
    """A bar at the top of a picture that is to be turned clockwise by 90 degrees is at the right."""
    picture = np.zeros((96, 64, 3), np.uint8)
    picture[:24] = 240
    path = write_video(tmp_path / "a.mp4", [picture] * 2, 64, 96)
    data = path.read_bytes()
    upright = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    at = data.index(upright, data.index(b"tkhd"))
    turned = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data[:at] + turned + data[at + len(turned) :])
    frame = decode(path, range(1), size)[0]
    height, width = frame.shape[:2]
    assert (width, height) == (size or (96, 64))
    assert frame[:, -width // 8 :].mean() > 230
    assert frame[:, : width // 2].mean() < 5


@pytest.mark.parametrize("options", [{"qp": "10", "bf": "0"}, {"qp": "10", "bf": "2"}])
@pytest.mark.parametrize("skipped", [0, 5, 25])
def test_a_video_that_was_trimmed_shows_what_is_left(tmp_path: Path, options: dict[str, str], skipped: int) -> None:
    """As by ``ffmpeg -ss -c copy``: the frames since the last key frame are in the file, and hidden by an edit list."""
    path = write_video(tmp_path / "a.mp4", moving(40), codec="libx264", options={"g": "20", **options})
    whole = decode(path, range(40))
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12
    per_frame = int.from_bytes(data[data.index(b"mdhd") + 16 :][:4], "big") // 25
    length, begin = struct.unpack(">II", data[at : at + 8])
    data[at : at + 8] = struct.pack(">II", length - 40 * skipped, begin + per_frame * skipped)
    path.write_bytes(data)
    lengths = []
    frames = decode(path, lambda found: [*range(40 - skipped), lengths.append(found) or 0])
    assert lengths == [40 - skipped]
    assert all(np.array_equal(a, b) for a, b in zip(frames, [*whole[skipped:], whole[skipped]], strict=True))


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.mkv", "libx264", "yuv420p10le"),
        ("a.mov", "mpeg4", "yuv420p"),
        ("a.avi", "mjpeg", "yuvj420p"),
        ("a.mkv", "ffv1", "gray"),
        ("a.mp4", "libx264", "yuv420p"),
    ],
)
def test_codecs_and_containers(tmp_path: Path, name: str, codec: str, pixels: str) -> None:
    made = (solid(20 + 10 * i) for i in range(20))
    path = write_video(tmp_path / name, made, codec=codec, pixels=pixels, options={})
    assert means(decode(path, range(20))) == pytest.approx([20 + 10 * i for i in range(20)], abs=4)


@pytest.mark.parametrize("name", ["it's (a) clip.avi", "Füße 日本.mp4", "100% #1 & [x];.avi", "-i.mkv"])
def test_names(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / "x'y (z) é" / name, [solid(80)] * 2)
    assert means(decode(path, range(2))) == pytest.approx([80] * 2, abs=1.5)


# --- images ---


def test_sixteen_bits_of_gray_are_scaled(tmp_path: Path) -> None:
    ramp = np.array([[0, 255, 256, 40000, 65535]], np.uint16)
    Image.fromarray(ramp).save(tmp_path / "1.png")
    assert read_image(tmp_path / "1.png").tolist() == [[[v >> 8] * 3 for v in ramp[0].tolist()]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    Image.new("L", (16, 16), 255).convert(mode).save(tmp_path / "1.png")
    assert (read_image(tmp_path / "1.png") == np.full((16, 16, 3), 255)).all()


@pytest.mark.parametrize("side", [12_000, 20_000])
def test_an_enormous_picture_is_refused_before_it_is_read(tmp_path: Path, side: int) -> None:
    small = tmp_path / "small.png"
    Image.new("L", (8, 8)).save(small)
    data = small.read_bytes()
    header = b"IHDR" + struct.pack(">II", side, side) + data[24:29]
    from zlib import crc32

    (tmp_path / "1.png").write_bytes(data[:12] + header + struct.pack(">I", crc32(header)) + data[33:])
    with pytest.raises(BenchError, match=r"1\.png: it has .* pixels, and frames have 33554432 at most"):
        read_image(tmp_path / "1.png")


def test_a_changed_byte_of_a_png_is_noticed(tmp_path: Path) -> None:
    """Decoders look at no checksum: without it, most changes give another picture."""
    path = tmp_path / "1.png"
    Image.fromarray(moving(1)[0]).save(path, compress_level=0)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BenchError, match=r"Cannot read the frame .*1\.png"):
        read_image(path)


def test_other_formats_are_no_frames(tmp_path: Path) -> None:
    """Pillow goes by the content: what calls itself PNG could be run as PostScript."""
    (tmp_path / "1.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    with pytest.raises(BenchError, match="it is neither PNG nor JPEG"):
        read_image(tmp_path / "1.png")


# --- folders of frames ---


def write_frames(folder: Path, names: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    for level, name in enumerate(names):
        Image.fromarray(solid(10 * level, 16, 16)).save(folder / name)


def levels(frames: list[np.ndarray[Any, Any]]) -> list[int]:
    return [int(frame[0, 0, 0]) // 10 for frame in frames]


@pytest.mark.parametrize("prefix", ["", "image_", "img_", "frame_", "frame", "Frame-"])
def test_numbers_after_a_word(tmp_path: Path, prefix: str) -> None:
    write_frames(tmp_path, [f"{prefix}{n:05d}.png" for n in (1, 2, 3, 10, 11)[:3]])
    Image.new("L", (8, 8)).save(tmp_path / "cover.png")
    Image.new("L", (8, 8)).save(tmp_path / f"._{prefix}00004.png")
    assert levels(read_frames(tmp_path, 5)) == [0, 1, 2, 0, 1]


def test_two_kinds_of_frames_are_not_mixed(tmp_path: Path) -> None:
    write_frames(tmp_path, ["image_1.png", "img_2.png"])
    with pytest.raises(BenchError, match=r"two kinds, such as image_1\.png and img_2\.png"):
        read_frames(tmp_path, 2)


@pytest.mark.parametrize(
    ("numbers", "lost", "padded"),
    [
        ([0, 1, 2, 4], "frame 3 between", [0, 1, 2, 2, 3, 0]),
        ([7, 8, 12], "frame 9 and others between", [0, 1, 1, 1, 1, 2]),
        ([0, 5, 10, 20], "frame 15 between", [0, 1, 2, 2, 3, 0]),
    ],
)
def test_a_gap_is_said_and_padded_on_request(tmp_path: Path, numbers: list[int], lost: str, padded: list[int]) -> None:
    write_frames(tmp_path, [f"{n}.png" for n in numbers])
    with pytest.raises(BenchError, match=f"holds no {lost}"):
        read_frames(tmp_path, 2)
    assert levels(read_frames(tmp_path, 6, "pad")) == padded


@pytest.mark.parametrize("numbers", [[3], [8, 9, 10], [0, 5, 10, 15], [0, 3, 6, 10, 13, 16], [10**15, 10**15 + 1]])
def test_regular_distances_are_no_gaps(tmp_path: Path, numbers: list[int]) -> None:
    write_frames(tmp_path, [f"{n}.png" for n in numbers])
    assert levels(read_frames(tmp_path, len(numbers))) == list(range(len(numbers)))


def test_a_broken_frame_is_padded_on_request(tmp_path: Path) -> None:
    write_frames(tmp_path, ["0.png", "1.png", "2.png"])
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:50])
    with pytest.raises(BenchError, match=r"1\.png"):
        read_frames(tmp_path, 3)
    assert levels(read_frames(tmp_path, 4, "pad")) == [0, 0, 2, 0]
    (tmp_path / "0.png").write_bytes(b"")
    with pytest.raises(BenchError, match=r"0\.png"):
        read_frames(tmp_path, 3, "pad")


# --- names ---


def test_files_are_found_however_they_are_spelled(tmp_path: Path) -> None:
    place = tmp_path / "Videos" / "HandstandPushups"
    place.mkdir(parents=True)
    (place / "v_HandStandPushups.avi").touch()
    for name in ("HandstandPushups/v_HandStandPushups.avi", "HandStandPushups/V_handstandpushups.AVI"):
        assert find_file([tmp_path, tmp_path / "Videos"], name) == place / "v_HandStandPushups.avi"
    (place / "V_HANDSTANDPUSHUPS.avi").touch()
    exact = find_file([tmp_path / "Videos"], "HandstandPushups/V_HANDSTANDPUSHUPS.avi")
    assert exact == place / "V_HANDSTANDPUSHUPS.avi"
    assert find_file([tmp_path], "HandstandPushups/other.avi") is None
    assert find_file([tmp_path / "nowhere"], "a/b.avi") is None


def test_links_are_followed_where_they_lead_to_files(tmp_path: Path) -> None:
    """Data often lie on another disk."""
    elsewhere, root = tmp_path / "elsewhere", tmp_path / "root"
    elsewhere.mkdir()
    root.mkdir()
    Image.fromarray(solid(80, 16, 16)).save(elsewhere / "x.png")
    (root / "1.png").symlink_to(elsewhere / "x.png")
    (root / "2.png").symlink_to(elsewhere / "gone.png")
    (root / "3.png").symlink_to(root / "3.png")
    (root / "4.png").symlink_to("/dev/zero")
    assert list(numbered(root)) == [1]
    assert levels(read_frames(root, 1)) == [8]


def test_a_number_of_thousands_of_digits_is_none() -> None:
    assert number_of("9" * 5000) is None
    assert [number_of(name) for name in ("17", "007", "1.5", "-1", "٣", "")] == [17, 7, None, None, None, None]
