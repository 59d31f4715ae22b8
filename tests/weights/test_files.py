"""Weights in files: what fits, what does not, checksums and fingerprints."""

from __future__ import annotations

import copy
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bench import BenchError
from bench.weights.files import fingerprint, load_checkpoint, load_strictly, sha256_of

HERE = Path("weights.pth")


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def other_weights() -> dict[str, torch.Tensor]:
    return {k: v + 1 for k, v in network().state_dict().items()}


class Payload:
    """Runs code when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(Payload.trap),)

    trap: Path


# --- loading --------------------------------------------------------------------------------------------------


def test_strict_load_replaces_every_value() -> None:
    model = network()
    load_strictly(model, other_weights(), HERE)
    for key, value in model.state_dict().items():
        assert torch.equal(value, other_weights()[key]), key


def test_counters_of_batch_norm_may_be_absent() -> None:
    model, state = network(), other_weights()
    del state["1.num_batches_tracked"]
    load_strictly(model, state, HERE)
    assert torch.equal(model[0].weight, state["0.weight"])


def test_half_precision_weights_are_widened() -> None:
    model = network()
    state = {k: v.half() if v.is_floating_point() else v for k, v in other_weights().items()}
    load_strictly(model, state, HERE)
    assert model[0].weight.dtype == torch.float32
    assert torch.equal(model[0].weight, state["0.weight"].float())


def test_everything_that_does_not_fit_is_named_at_once() -> None:
    model, state = network(), other_weights()
    before = copy.deepcopy(model.state_dict())
    del state["0.bias"]
    state["head.weight"] = torch.zeros(1)
    state["0.weight"] = torch.zeros(5, 3)
    with pytest.raises(BenchError) as caught:
        load_strictly(model, state, HERE)
    message = str(caught.value)
    for part in (
        "weights.pth is not for Sequential",
        "missing keys: 0.bias",
        "unexpected keys: head.weight",
        "other shapes: 0.weight (file (5, 3), network (2, 3))",
    ):
        assert part in message
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_long_lists_of_keys_are_cut() -> None:
    model = nn.Sequential(*[nn.Linear(1, 1) for _ in range(8)])
    with pytest.raises(BenchError, match=r"missing keys: 0\.bias, 0\.weight, .* and 11 more"):
        load_strictly(model, {}, HERE)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_files_are_read(tmp_path: Path, suffix: str) -> None:
    state, path = other_weights(), tmp_path / f"net{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    found = load_checkpoint(path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[k], state[k]) for k in state)


def test_wrapper_and_prefix_are_removed(tmp_path: Path) -> None:
    state = other_weights()
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "a.pth")
    found = load_checkpoint(tmp_path / "a.pth")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[k], state[k]) for k in state)


def test_pickled_code_is_refused_and_not_run(tmp_path: Path) -> None:
    Payload.trap = tmp_path / "trap"
    torch.save({"state_dict": {"w": Payload()}}, tmp_path / "a.pth")
    with pytest.raises(BenchError, match=r"Cannot read the checkpoint .*a\.pth"):
        load_checkpoint(tmp_path / "a.pth")
    assert not Payload.trap.exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.pth", b""),
        ("text.pth", b"this is not a checkpoint\n"),
        ("zeros.pth", bytes(64)),
        ("zip.pth", b"PK\x03\x04 cut short"),
        ("empty.safetensors", b""),
        ("text.safetensors", b"this is not a checkpoint\n"),
    ],
)
def test_unreadable_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BenchError, match=f"Cannot read the checkpoint .*{name}: "):
        load_checkpoint(tmp_path / name)


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"epoch": 3}, torch.zeros(2), {"state_dict": {"lr": 0.1}}])
def test_files_without_weights_are_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(BenchError, match="holds no state dict"):
        load_checkpoint(tmp_path / "a.pth")


def test_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"no checkpoint at .*nowhere.pth; .*--checkpoint"):
        load_checkpoint(tmp_path / "nowhere.pth")


# --- the zoo --------------------------------------------------------------------------------------------------


def test_checksum_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


# --- building -------------------------------------------------------------------------------------------------


def test_fingerprint_follows_every_value() -> None:
    model = network()
    first = fingerprint(model)
    assert fingerprint(copy.deepcopy(model)) == first
    assert fingerprint(network().eval().requires_grad_(False)) == first
    seen = {first}
    for key in model.state_dict():
        changed = network()
        state = changed.state_dict()
        state[key].view(-1)[-1] += 1
        seen.add(fingerprint(changed))
    assert len(seen) == 1 + len(model.state_dict())


def test_fingerprint_follows_names() -> None:
    one, other = nn.Module(), nn.Module()
    one.register_buffer("a", torch.ones(2))
    other.register_buffer("b", torch.ones(2))
    assert fingerprint(one) != fingerprint(other)
