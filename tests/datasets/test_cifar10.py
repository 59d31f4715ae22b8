"""CIFAR-10 on small files in the format of the binary version: which images, and what is said when files lack."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import BenchError, ClipRef
from bench.data.base import MissingClip
from bench.datasets import cifar10
from bench.datasets.cifar10 import CIFAR10
from bench.registry import DATASETS

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCHES = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"]
PER_FILE = 200


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "_IMAGES", PER_FILE)


@cache
def content(name: str) -> bytes:
    """Labels unevenly spread over the files, but 100 of each class in training and 20 in the test; random pixels."""
    rng = np.random.default_rng(7)
    order = dict(zip(BATCHES, rng.permutation(np.repeat(np.arange(10), 100)).reshape(5, -1), strict=True))
    order["test_batch"] = np.arange(PER_FILE) % 10
    pixels = np.random.default_rng(len(name) + int(order[name][0])).integers(0, 256, (PER_FILE, 3072))
    return np.hstack([order[name][:, None], pixels]).astype(np.uint8).tobytes()


def write(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*BATCHES, "test_batch"):
        (folder / f"{name}.bin").write_bytes(content(name))
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cifar")
    write(root / "cifar-10-batches-bin")
    return root


def one_sentence(call: Callable[[], object]) -> str:
    with pytest.raises(BenchError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_published_size() -> None:
    """As the site says: 10,000 records of 3073 bytes, 30,730,000 in all."""
    assert cifar10._RECORD * 10_000 == 30_730_000
    assert list(CIFAR10.classes) == NAMES


def test_an_image_is_a_clip_of_one_frame(root: Path) -> None:
    dataset = CIFAR10(root)
    assert dataset.missing() == []
    refs = dataset.refs()
    assert [(ref.id, ref.label) for ref in refs] == [(f"test_batch/{n}", n % 10) for n in range(PER_FILE)]
    data = content("test_batch")
    for n in (0, 137):
        record = data[n * 3073 : (n + 1) * 3073]
        clip = dataset.load(refs[n])
        assert clip.shape == (3, 1, 32, 32)
        assert clip.dtype == torch.float32
        for channel in range(3):
            for row, column in ((0, 0), (0, 31), (5, 2), (31, 31)):
                value = record[1 + 1024 * channel + 32 * row + column]
                assert float(clip[channel, 0, row, column]) == pytest.approx(value / 255)
        assert 0 <= float(clip.min()) <= float(clip.max()) <= 1


def test_the_splits_share_no_image_and_a_tenth_of_each_class_is_held_out(root: Path) -> None:
    train, val = CIFAR10(root, "train"), CIFAR10(root, "val")
    kept, held = train.refs(), val.refs()
    assert Counter(ref.label for ref in kept) == dict.fromkeys(range(10), 90)
    assert Counter(ref.label for ref in held) == dict.fromkeys(range(10), 10)
    everything = {f"{name}/{n}": content(name)[n * 3073] for name in BATCHES for n in range(PER_FILE)}
    assert {ref.id: ref.label for ref in kept + held} == everything
    assert len({ref.id for ref in kept} | {ref.id for ref in held}) == 1000
    # In the order of the files, from all of them, and not just the last ones.
    order = {i: n for n, i in enumerate(everything)}
    for refs in (kept, held):
        places = [order[ref.id] for ref in refs]
        assert places == sorted(places)
        assert {ref.id.partition("/")[0] for ref in refs} == set(BATCHES)
    # Another choice, by a later version or a user's seed, would validate on images that were trained on.
    assert CIFAR10(root, "val", seed=5).refs() == held
    for label in range(10):
        ids = [i for i, found in everything.items() if found == label]
        first = sorted(ids, key=lambda i: hashlib.sha256(f"cifar10 val\x1f{i}".encode()).digest())[:10]
        assert {ref.id for ref in held if ref.label == label} == set(first)
    assert torch.equal(train.load(held[0]), val.load(held[0]))


def test_so_many_of_each_class(root: Path) -> None:
    few, more, other = (CIFAR10(root, clips_per_class=n, seed=s).refs() for n, s in ((2, 0), (5, 0), (5, 1)))
    assert Counter(ref.label for ref in few) == dict.fromkeys(range(10), 2)
    assert set(few) < set(more)
    assert set(more) != set(other)
    assert few == [ref for ref in CIFAR10(root).refs() if ref in few]
    assert len(CIFAR10(root, "val", clips_per_class=1000).refs()) == 100
    assert set(CIFAR10(root, "train", clips_per_class=3).refs()) < set(CIFAR10(root, "train").refs())


def test_files_right_under_the_root(root: Path, tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "batches.meta.txt").unlink()
    assert CIFAR10(str(tmp_path)).refs() == CIFAR10(root).refs()
    ref = ClipRef("data_batch_4/3", 0)
    assert torch.equal(CIFAR10(tmp_path).load(ref), CIFAR10(root).load(ref))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "cifar-10-batches-bin")
    file, data = folder / "test_batch.bin", content("test_batch")
    for cut in (data[:-1], data[:-3073], data + b"x", b""):
        file.write_bytes(cut)
        said = one_sentence(CIFAR10(tmp_path).refs)
        assert said.startswith(f"{file} has {len(cut)} bytes, not {PER_FILE * 3073}; get it again from https://www.cs.")
        assert "bytes, not" in one_sentence(lambda: CIFAR10(tmp_path).load(ClipRef("test_batch/0", 0)))
    broken = bytearray(data)
    broken[17 * 3073] = 10
    file.write_bytes(broken)
    assert f"{file}, image 17: the label 10 is not one of 0 to 9" in one_sentence(CIFAR10(tmp_path).refs)
    assert len(CIFAR10(tmp_path, "val").refs()) == 100  # the other files are well

    file.write_bytes(data)
    for text in (NAMES[::-1], NAMES[:9], [*NAMES, "lorry"]):
        (folder / "batches.meta.txt").write_text("\n".join(text))
        assert "does not list the ten classes" in one_sentence(CIFAR10(tmp_path).refs)
    (folder / "batches.meta.txt").write_bytes(b"\xff\xfe")
    assert "Cannot read" in one_sentence(CIFAR10(tmp_path).refs)


def test_other_images_under_the_same_names_are_other_data(tmp_path: Path) -> None:
    file = write(tmp_path) / "test_batch.bin"
    first = CIFAR10(tmp_path).fingerprint()
    assert first
    assert CIFAR10(tmp_path, "train").fingerprint() not in ("", first)
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    assert CIFAR10(tmp_path).fingerprint() != first
    file.unlink()
    assert CIFAR10(tmp_path).fingerprint() == ""


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"

    def words(dataset: CIFAR10) -> str:
        (missing,) = dataset.missing()
        assert missing.get == "cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html"
        assert missing.licence.startswith("none stated; cite Krizhevsky")
        assert str(missing.put) == f"{dataset.root or 'DATA_ROOT'}/cifar-10-batches-bin/*.bin"
        with pytest.raises(BenchError, match="CIFAR-10 needs files that are not here:\n  - the CIFAR-10 images"):
            dataset.refs()
        return missing.what

    assert "no data root is given" in words(CIFAR10())
    assert f"{tmp_path / 'nowhere'} does not exist" in words(CIFAR10(tmp_path / "nowhere"))
    assert "absent: test_batch.bin)" in words(CIFAR10(tmp_path))
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert "cifar-10-batches-py is not read, since pickles can run code" in words(CIFAR10(tmp_path))
    write(folder)
    (folder / "data_batch_2.bin").unlink()
    (folder / "data_batch_5.bin").rename(tmp_path / "file")
    assert CIFAR10(tmp_path).missing() == []
    for split in ("train", "val"):
        assert "absent: data_batch_2.bin, data_batch_5.bin;" in words(CIFAR10(tmp_path, split))
    assert "is not a folder" in words(CIFAR10(tmp_path / "file"))
    with pytest.raises(MissingClip, match=r"data_batch_2\.bin with image 3 does not exist"):
        CIFAR10(tmp_path).load(ClipRef("data_batch_2/3", 0))


def test_bad_parameters_and_ids(root: Path) -> None:
    assert "Unknown split 'valid'" in one_sentence(lambda: DATASETS.create("cifar10(split='valid')"))
    assert "clips_per_class must be" in one_sentence(lambda: DATASETS.create("cifar10(clips_per_class=0)"))
    assert "no data root" in one_sentence(lambda: CIFAR10().load(ClipRef("test_batch/0", 0)))
    for name in ("test_batch", "test_batch/200", "test_batch/-1", "data_batch_6/0", "../x/0"):
        assert f"no image {name!r}" in one_sentence(lambda name=name: CIFAR10(root).load(ClipRef(name, 0)))  # type: ignore[misc]


def test_registered_with_help_for_every_parameter() -> None:
    entry = DATASETS.get("cifar10")
    assert "2009" in entry.source
    assert [p.name for p in entry.parameters if not p.help] == []
