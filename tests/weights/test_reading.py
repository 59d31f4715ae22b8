"""Files that are, or are not, weights: what is found is named, with what to do."""

from __future__ import annotations

import argparse
import gzip
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bench import BenchError
from bench.models.nl import nl_r50
from bench.weights.files import load_checkpoint, load_strictly, rows_of
from bench.weights.zoo import zoo_file


def state() -> dict[str, Tensor]:
    return {"0.weight": torch.arange(6.0).view(2, 3), "0.bias": torch.tensor([7.0, 8.0])}


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2))


def averaged(weights: dict[str, Tensor]) -> nn.Module:
    """PyTorch's own average of a network with these weights."""
    one = network()
    one.load_state_dict(weights)
    return torch.optim.swa_utils.AveragedModel(one)


def refusal(path: Path) -> str:
    with pytest.raises(BenchError) as caught:
        load_strictly(network(), load_checkpoint(path), path)
    said = str(caught.value)
    assert not set("\n\x1b") & set(said)
    return said


def loads(path: Path) -> bool:
    made = network()
    load_strictly(made, load_checkpoint(path), path)
    return all(torch.equal(made.state_dict()[k], v) for k, v in state().items())


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAGES = [b"\n<!DOCTYPE html><html><head>", b'<?xml version="1.0"?><Error>', b"<html>\xc3\xa9"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (LFS, "a Git LFS pointer and not the file that it stands for: run git lfs pull"),
        *((page, "a web page: the download led to a page") for page in PAGES),
        (b'{"message": "Not Found"}', """text that begins with '{"message": "Not Found"}'"""),
        (b"", "empty"),
        (gzip.compress(b"weights", mtime=0), "a gzip archive: unpack it"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file"),
        (b"\x80\x02garbage", "damaged, or not of a format that is known"),
    ],
)
@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_what_is_no_weights_file_is_named(content: bytes, says: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert says in refusal(tmp_path / name)


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (argparse.Namespace(lr=0.1), "an object of argparse.Namespace beside or instead of weights"),
        (np.float64(0.5), "NumPy values (numpy."),
        (np.arange(3), "NumPy values (numpy."),
        (nn.Linear(2, 2), "a whole network (torch.nn.modules.linear.Linear)"),
    ],
)
@pytest.mark.parametrize("archive", [True, False])
def test_what_stands_beside_the_weights_is_named(extra: Any, says: str, archive: bool, tmp_path: Path) -> None:
    content = {"state_dict": state(), "more": extra}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=archive)
    said = refusal(tmp_path / "a.pth")
    assert says in said
    assert "torch.save(model.state_dict(), 'weights.pth')" in said


def test_other_archives_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", w=np.zeros(2))
    assert "an archive of other files (w.npy)" in refusal(tmp_path / "a.npz")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(network()).save(str(tmp_path / "b.pt"))
    assert "a TorchScript program" in refusal(tmp_path / "b.pt")
    with zipfile.ZipFile(tmp_path / "c.pth", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("c/data.pkl", bytes(1 << 20))
    assert "compressed" in refusal(tmp_path / "c.pth")


def test_a_flipped_bit_of_a_weight_is_noticed(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "a.pth")
    data = bytearray((tmp_path / "a.pth").read_bytes())
    data[data.find(torch.arange(6.0).numpy().tobytes()) + 6] ^= 1
    (tmp_path / "a.pth").write_bytes(data)
    assert "the checksum of a/data/0 is wrong" in refusal(tmp_path / "a.pth")


def test_the_content_counts_and_not_the_name(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "a.pth")
    torch.save(state(), tmp_path / "b.safetensors")
    assert loads(tmp_path / "a.pth")
    assert loads(tmp_path / "b.safetensors")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"model": s, "optimizer": {"state": {}}},
        lambda s: {"model_state_dict": s, "epoch": 3},
        lambda s: {"epoch": 3, "state_dict": {"model": s}},
        lambda s: {"state_dict": s, "best_acc1": torch.tensor(0.5)},
        lambda s: {"model_state": s, "epoch": 3, "cfg": "a text"},  # PyTorchVideo's hub
        *(
            lambda s, name=name: {name: s, "epoch": 3}
            for name in ("ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict")
        ),
        lambda s: {"model_ema": {f"module.{k}": v for k, v in s.items()}, "epoch": 3},  # timm
        lambda s: averaged(s).state_dict(),
        lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
        lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
        lambda s: {f"_orig_mod.module.{k}": v for k, v in s.items()},
        lambda s: {k.replace("0.", "0._orig_mod."): v for k, v in s.items()},
    ],
)
def test_wrappers_and_prefixes_are_taken_off(wrap: Callable[[dict[str, Tensor]], Any], tmp_path: Path) -> None:
    torch.save(wrap(state()), tmp_path / "a.pth")
    assert loads(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"teacher": state(), "epoch": 3}, "of its 2 entries these are no named tensors: epoch, teacher"),
        ({"state_dict": state(), "state_dict_ema": state()}, "several state dicts (state_dict, state_dict_ema)"),
        ({"n_averaged": torch.tensor(2), **state()}, "unexpected keys: n_averaged"),
        ({"model": state(), "state_dict": state()}, "several state dicts (state_dict, model)"),
        ({"model": {}}, "it is empty"),
        ([state()], "it holds a list"),
        ({f"backbone.{k}": v for k, v in state().items()}, "All its names begin with 'backbone.'"),
        ({**state(), "_orig_mod.0.bias": torch.zeros(2)}, "holds some weights twice"),
    ],
)
def test_what_cannot_be_unwrapped_is_named(content: Any, says: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    assert says in refusal(tmp_path / "a.pth")


@pytest.mark.filterwarnings("ignore:.*(Sparse|quantiz)")
@pytest.mark.parametrize(
    ("weight", "says"),
    [
        (torch.zeros(()).expand(1 << 20, 1 << 20), "claims gigabytes"),
        (torch.arange(4.0).as_strided((2, 3), (1, 1)), "overlapping strides"),
        (torch.zeros(2, 3).to_sparse(), "sparse"),
        (torch.zeros(2, 3, device="meta"), "has no values"),
        (torch.zeros(2, 3, dtype=torch.complex64), "is complex"),
        (torch.full((2, 3), float("nan")), "holds NaN"),
        (torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.qint8), "is quantised (torch.qint8)"),
        (torch.ones(2, 3, dtype=torch.int8), "loaded unscaled or rounded: 0.weight (file torch.int8, network"),
        (torch.ones(2, 3).double() * 1e200, "loaded unscaled or rounded: 0.weight (file torch.float64, network"),
    ],
)
def test_tensors_that_are_no_weights_are_named(weight: Tensor, says: str, tmp_path: Path) -> None:
    torch.save({**state(), "0.weight": weight}, tmp_path / "a.pth")
    said = refusal(tmp_path / "a.pth")
    assert "0.weight" in said
    assert says in said


def test_expanded_buffers_and_masks_of_infinities_are_taken(tmp_path: Path) -> None:
    made = nn.Module()
    made.register_buffer("mean", torch.zeros(1, 3, 4, 4))
    made.register_buffer("mask", torch.zeros(3))
    mean = torch.arange(3.0).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    mask = torch.tensor([0.0, float("-inf"), 0.0])
    torch.save({"mean": mean, "mask": mask}, tmp_path / "a.pth")
    load_strictly(made, load_checkpoint(tmp_path / "a.pth"), tmp_path / "a.pth")
    assert torch.equal(made.mean, mean)
    assert torch.equal(made.mask, mask)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_converted_and_said(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.save({k: v.to(dtype) for k, v in state().items()}, tmp_path / "a.pth")
    with pytest.warns(UserWarning, match=r"a\.pth holds weights of half precision .*converted"):
        assert loads(tmp_path / "a.pth")


def test_nothing_is_said_of_the_shipped_weights() -> None:
    file = zoo_file("nl_tiny", "motion12")
    assert file is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_checkpoint(file)["fc.weight"].dtype == torch.float16


def test_no_file_makes_a_network_of_any_size(tmp_path: Path) -> None:
    """The number of classes is read from the file before the network is made."""
    for weight in (torch.zeros(()), torch.zeros(10**6, 1), torch.zeros(0, 2048)):
        torch.save({"fc.weight": weight}, tmp_path / "a.pth")
        with pytest.raises(BenchError, match=r"of no classifier: its fc\.weight has the shape"):
            nl_r50(tmp_path / "a.pth")
    assert rows_of({"fc.weight": torch.zeros(101, 4)}, "fc.weight", 400, tmp_path) == 101
    assert rows_of({}, "fc.weight", 400, tmp_path) == 400


def test_the_default_device_does_not_matter(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "a.pth")
    with torch.device("meta"):
        found = load_checkpoint(tmp_path / "a.pth")
    assert all(torch.equal(found[k], v) for k, v in state().items())
