"""Weights and training states that are damaged or odd: refused in one sentence, or loaded as what they mean.

``BENCH_FUZZ=20`` tries twenty times as many.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kit.fuzz import cases
from safetensors.torch import save
from torch import Tensor, nn

from bench import BenchError, ClipRef, Dataset
from bench.training import loop, recipes
from bench.training.objective import Objective
from bench.training.recipes import Recipe
from bench.weights.files import load_checkpoint, load_strictly

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*half precision"),
    pytest.mark.filterwarnings("ignore:.*(Sparse|TypedStorage|quantiz|nested)"),
]


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def weights() -> dict[str, Tensor]:
    """Another network's: whole numbers that every precision holds, all of them different."""
    own = network().state_dict()
    return {k: torch.arange(v.numel()).view(v.shape).to(v) + 8 * i for i, (k, v) in enumerate(own.items())}


def loaded(path: Path) -> dict[str, Tensor] | None:
    """The weights that a file gives the network; nothing if it is refused, in one line without colours."""
    made = network()
    said = ""
    try:
        load_strictly(made, load_checkpoint(path), path)
    except BenchError as error:
        said = str(error)
    assert not set("\n\x1b") & set(said)
    assert len(said) < 1000
    return None if said else made.state_dict()


def same(found: Mapping[str, Tensor] | None, wanted: Mapping[str, Tensor]) -> bool:
    return found is None or all(torch.equal(found[k], v) for k, v in wanted.items())


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bench-") as made:
        yield Path(made)


# --- bytes --------------------------------------------------------------------------------------------------------

Edit = Callable[[bytes], bytes]


def _flip(place: float, value: int) -> Edit:
    def edit(data: bytes) -> bytes:
        at = int(place * len(data))
        return data[:at] + bytes([data[at] ^ value]) + data[at + 1 :]

    return edit


def _blank(place: float, count: int, value: int) -> Edit:
    def edit(data: bytes) -> bytes:
        at = int(place * len(data))
        return data[:at] + bytes([value]) * len(data[at : at + count]) + data[at + count :]

    return edit


def _cut(place: float) -> Edit:
    return lambda data: data[: int(place * len(data))]


def _drop(place: float, count: int) -> Edit:
    return lambda data: data[: int(place * len(data))] + data[int(place * len(data)) + count :]


def _insert(place: float, more: bytes) -> Edit:
    return lambda data: data[: int(place * len(data))] + more + data[int(place * len(data)) :]


places = st.floats(0, 1, exclude_max=True)
edits = st.lists(
    st.one_of(
        st.builds(_flip, places, st.integers(1, 255)),
        st.builds(_flip, places, st.integers(0, 7).map(lambda bit: 1 << bit)),
        st.builds(_blank, places, st.integers(1, 64), st.sampled_from([0, 255])),
        st.builds(_cut, places),
        st.builds(_drop, places, st.integers(1, 16)),
        st.builds(_insert, places, st.binary(min_size=1, max_size=16)),
    ),
    min_size=1,
    max_size=3,
)


@lru_cache
def written(kind: str) -> bytes:
    """A file of the weights."""
    if kind == "safetensors":
        return save(weights())
    file = io.BytesIO()
    content = {"epoch": 3, "arch": "net", "state_dict": weights()}
    torch.save(content, file, _use_new_zipfile_serialization=kind == "zip")
    return file.getvalue()


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@cases(200)
@given(edits)
def test_damaged_bytes(kind: str, folder: Path, changes: Sequence[Edit]) -> None:
    """Only an archive has checksums of its values: of the others, a flipped bit of a weight is another weight."""
    path = folder / ("a.safetensors" if kind == "safetensors" else "a.pth")
    data = whole = written(kind)
    for change in changes:
        data = change(data) if data else data
    path.write_bytes(data)
    found = loaded(path)
    if not same(found, weights()):
        assert kind != "zip"
        assert found is not None
        assert len(data) == len(whole)
        at = [i for i, (old, new) in enumerate(zip(whole, data, strict=True)) if old != new]
        starts = {whole.find(t.numpy().tobytes()): t.numel() * t.element_size() for t in weights().values()}
        assert any(start <= i < start + size for i in at for start, size in starts.items()), "no weight was touched"


# --- contents -----------------------------------------------------------------------------------------------------

Content = dict[str, Any]


def _prefixed(prefix: str) -> Callable[[Content], Content]:
    return lambda state: {prefix + k: v for k, v in state.items()}


def _half(dtype: torch.dtype) -> Callable[[Content], Content]:
    return lambda state: {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}


# What changes nothing of what a state dict of small whole numbers means.
HARMLESS: dict[str, Callable[[Content], Content]] = {
    "module.": _prefixed("module."),
    "_orig_mod.": _prefixed("_orig_mod."),
    "half": _half(torch.float16),
    "bfloat16": _half(torch.bfloat16),
    "double": _half(torch.float64),
    "counter as float": lambda s: {k: v.float() if v.ndim == 0 else v for k, v in s.items()},
    "counter left out": lambda s: {k: v for k, v in s.items() if "num_batches" not in k},
    "parameters": lambda s: {k: nn.Parameter(v) if v.is_floating_point() else v for k, v in s.items()},
    "a view": lambda s: {k: torch.cat([v.flatten(), v.flatten()])[: v.numel()].view(v.shape) for k, v in s.items()},
    "transposed": lambda s: {k: v.t().contiguous().t() if v.ndim == 2 else v for k, v in s.items()},
}
WRAPPED: dict[str, Callable[[Content], Content]] = {
    "state_dict": lambda s: {"state_dict": s, "epoch": 3, "arch": None},
    "model": lambda s: {"model": s, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
    "model_state_dict": lambda s: {"epoch": 1, "model_state_dict": s, "best": torch.tensor(0.5)},
    "network": lambda s: {"args": {"lr": 0.1}, "network": s},
}


def _first(change: Callable[[Tensor], Any], name: str = "0.weight") -> Callable[[Content], Content]:
    return lambda state: {k: change(v) if k.endswith(name) else v for k, v in state.items()}


def _quantised(tensor: Tensor) -> Tensor:
    return torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8)


def _nan(tensor: Tensor) -> Tensor:
    return tensor.double().index_fill(0, torch.tensor([1]), float("nan"))


# What is nobody's weights, or not these.
FOUL: dict[str, Callable[[Content], Content]] = {
    "a giant": _first(lambda v: torch.zeros(()).expand(1 << 20, 1 << 12)),
    "giants": lambda s: s | {f"a{i}": torch.zeros(()).expand(1 << 14, 1 << 12) for i in range(8)},
    "overlapping": _first(lambda v: torch.arange(4.0).as_strided((2, 3), (1, 1))),
    "sparse": _first(lambda v: v.float().to_sparse()),
    "csr": _first(lambda v: v.float().to_sparse_csr()),
    "meta": _first(lambda v: v.to("meta")),
    "complex": _first(lambda v: v.to(torch.complex64)),
    "nan": _first(_nan),
    "int8": _first(lambda v: v.to(torch.int8)),
    "int64": _first(lambda v: v.long()),
    "bool": _first(lambda v: v.bool()),
    "quantised": _first(_quantised),
    "float8": _first(lambda v: v.to(torch.float8_e4m3fn)),
    "beyond float32": _first(lambda v: v.double() * 1e300),
    "broken counter": _first(lambda v: torch.tensor(2.5), "num_batches_tracked"),
    "counter of bools": _first(lambda v: torch.tensor(float("inf")), "num_batches_tracked"),
    "a number": _first(lambda v: 3.0),
    "a list": _first(lambda v: v.tolist()),
    "nothing": _first(lambda v: None),
    "another shape": _first(lambda v: v.t()),
    "no dimension": _first(lambda v: v.flatten()[0]),
    "no values": _first(lambda v: v[:0]),
    "one left out": lambda s: {k: v for k, v in s.items() if not k.endswith("0.bias")},
    "one too many": lambda s: s | {"head.weight": torch.zeros(1)},
    "numbers as names": lambda s: dict(enumerate(s.values())),  # type: ignore[arg-type]
    "other prefix": _prefixed("backbone."),
    "some prefixed": lambda s: {("" if i else "module.") + k: v for i, (k, v) in enumerate(s.items())},
    "twice": lambda s: s | {f"_orig_mod.{k}": v + 1 for k, v in s.items()},
    "two wrappers": lambda s: {"model": s, "state_dict": {k: v + 1 for k, v in s.items()}},
    "unknown wrapper": lambda s: {"elsewhere": s, "epoch": 3},
    "wrapped in a list": lambda s: {"model": [s]},
    "empty": lambda s: {},
    "empty wrapper": lambda s: {"state_dict": {}},
    "a namespace": lambda s: {"state_dict": s, "args": argparse.Namespace(lr=0.1)},
    "a NumPy scalar": lambda s: {"state_dict": s, "best": np.float64(0.5)},
    "a NumPy array": _first(lambda v: v.numpy()),
    "a whole network": lambda s: {"model": network()},
}


def _endless(state: Content) -> Content:
    state["model"] = state
    return state


FOUL["endless"] = _endless

changes = st.lists(st.sampled_from(sorted(HARMLESS)), max_size=3, unique=True)
wrappers = st.lists(st.sampled_from(sorted(WRAPPED)), max_size=3)


def wrapped(state: Content, around: Sequence[str]) -> Content:
    for name in around:
        state = WRAPPED[name](state)
    return state


def changed(names: Sequence[str]) -> Content:
    state: Content = weights()
    for name in names:
        state = HARMLESS[name](state)
    return state


@cases(150)
@given(changes, wrappers, st.booleans())
def test_what_means_the_same_is_taken(folder: Path, names: list[str], around: list[str], archive: bool) -> None:
    path = folder / "a.pth"
    torch.save(wrapped(changed(names), around), path, _use_new_zipfile_serialization=archive)
    found = loaded(path)
    assert found is not None
    wanted = weights()
    if "counter left out" in names:
        del wanted["1.num_batches_tracked"]
    assert same(found, wanted)


@cases(300)
@given(st.sampled_from(sorted(FOUL)), changes, wrappers)
def test_what_means_something_else_is_refused(folder: Path, name: str, names: list[str], around: list[str]) -> None:
    names = [n for n in names if n not in ("counter left out", "parameters", "bfloat16")]
    path = folder / "a.pth"
    torch.save(wrapped(FOUL[name](changed(names)), around), path)
    assert loaded(path) is None


def test_every_foul_content_is_refused_by_itself(folder: Path) -> None:
    for name, spoil in FOUL.items():
        torch.save(spoil(weights()), folder / "a.pth")
        assert loaded(folder / "a.pth") is None, name


# --- states of a training -----------------------------------------------------------------------------------------


class Levels(Dataset):
    """Gray clips of twelve levels."""

    classes = tuple(str(i) for i in range(12))

    def __init__(self, split: str = "test", length: int = 12) -> None:
        self.length = length

    def refs(self) -> list[ClipRef]:
        return [ClipRef(str(i), i % 12) for i in range(self.length)]

    def load(self, ref: ClipRef) -> Tensor:
        return torch.full((3, 1, 2, 2), ref.label / 12)


class Fit(Objective):
    """Regression of the level."""

    kind = "regressor"

    def build(self, model: str, dataset: str, seed: int = 0) -> nn.Module:
        return nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).train()

    def batch(self, data: Dataset, refs: Sequence[ClipRef]) -> tuple[Tensor, ...]:
        return torch.stack([data.load(r) for r in refs]), torch.tensor([r.label / 12 for r in refs])

    def loss(
        self, net: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, float]]:
        error = net(batch[0].mean(dim=(1, 2, 3, 4))[:, None])[:, 0] - batch[1]
        return error.square().mean(), {"error": float(error.detach().abs().mean())}

    def measure(self, net: nn.Module, dataset: str, device: torch.device) -> dict[str, Any]:
        return {}


RECIPE = Recipe("r", "fit", steps=3, batch=4, warmup=1, ema=0.9)


class Stop(Exception):
    """The training is interrupted."""


def trained(work: Path, stop: int | None = None) -> dict[str, Tensor]:
    def report(state: loop.TrainingState) -> None:
        if state.step == stop:
            raise Stop

    made = loop.train(
        "net", f"{__name__}:Levels", RECIPE, seed=0, work=work, device=torch.device("cpu"), report=report, save_every=2
    )
    return made.state_dict()


@pytest.fixture(scope="module")
def begun() -> Iterator[tuple[Path, bytes, dict[str, Tensor]]]:
    """A folder, the state after two of three steps in it, and the weights that the training ends with."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="bench-") as made:
        patch.setitem(recipes.OBJECTIVES, "fit", f"{__name__}:Fit")
        patch.setattr("bench.training.curve.Curve.draw", lambda *_: None)
        work = Path(made)
        whole = trained(work / "whole")
        with pytest.raises(Stop):
            trained(work / "parts", stop=3)
        yield work / "parts", (work / "parts" / "state.pt").read_bytes(), whole


Begun = tuple[Path, bytes, dict[str, Tensor]]


def resumed(begun: Begun) -> dict[str, Tensor] | None:
    found, said = None, "state.pt ... delete it"
    try:
        found = trained(begun[0])
    except BenchError as error:
        said = str(error)
    assert "state.pt" in said
    assert "delete it" in said
    return found


@cases(60)
@given(edits)
def test_damaged_bytes_of_a_training(begun: Begun, changes: Sequence[Edit]) -> None:
    data = begun[1]
    for change in changes:
        data = change(data) if data else data
    (begun[0] / "state.pt").write_bytes(data)
    assert same(resumed(begun), begun[2])


def entries(content: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to all that a state holds."""
    if isinstance(content, dict | list):
        for key in content if isinstance(content, dict) else range(len(content)):
            yield (*before, key)
            yield from entries(content[key], (*before, key))


def put(content: Any, path: Sequence[Any], value: Any) -> None:
    for key in path[:-1]:
        content = content[key]
    content[path[-1]] = value


ODD: list[Any] = [None, -1, 1e9, "text", [], {}, True, torch.zeros(7), torch.zeros(4).to(torch.int8), {"a": 1}]


@cases(100)
@given(st.data())
def test_odd_contents_of_a_training(begun: Begun, data: st.DataObject) -> None:
    """Whatever stands where: the training ends as it would have, or is refused. Left out is what nothing else tells:
    the clock, running means of what is shown, and whether a parameter ever had a gradient."""
    file = begun[0] / "state.pt"
    file.write_bytes(begun[1])
    state = torch.load(file, weights_only=True)
    places = [p for p in entries(state) if p[0] not in ("seconds", "figures")]
    places.remove(("optimiser", "state"))
    put(state, data.draw(st.sampled_from(places)), data.draw(st.sampled_from(ODD)))
    torch.save(state, file)
    assert same(resumed(begun), begun[2])


def test_the_training_goes_on_from_its_state(begun: Begun) -> None:
    (begun[0] / "state.pt").write_bytes(begun[1])
    found = resumed(begun)
    assert found is not None
    assert same(found, begun[2])
