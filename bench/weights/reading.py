"""What is in a weights file, read without running any code; and what a file is that holds none."""

from __future__ import annotations

import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from bench.errors import BenchError

RESAVE = "torch.save(model.state_dict(), 'weights.pth')"

# Names under which training scripts keep the state dict beside an optimiser and other things.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net")
# Names of a moving average of the weights; taken where it stands alone, as nothing says which is meant otherwise.
_AVERAGES = ("ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict")
# What torch.optim.swa_utils.AveragedModel keeps among the weights.
_AVERAGED = "n_averaged"
# More levels than any script writes; a dictionary that holds itself has no end.
_DEEPEST = 4
_HEAD = 512
# Bytes of a zip archive's records for each byte of the file: torch.save compresses nothing.
_COMPRESSED = 2

# Bytes that repetitions of the stored values (`expand`) may add: buffers are saved so; giants are made so.
_REPEATED = 1 << 30

_KINDS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer and not the file that it stands for: run git lfs pull"),
    (b"\x1f\x8b", "a gzip archive: unpack it"),
    (b"\x89HDF", "an HDF5 file (Keras, TensorFlow): convert it to PyTorch, or give a PyTorch file"),
    (b"\x93NUMPY", "a NumPy array: give a PyTorch file"),
    (b"GGUF", "a GGUF file: give a PyTorch file"),
)
# The number that begins files of PyTorch before 1.6, pickled.
_OLD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head")


def read_plain(path: Path) -> Any:
    """Content of a ``.safetensors`` or PyTorch file of tensors, numbers, texts, lists and dictionaries.

    The content says which of the two it is, not the name. No code is run, and the checksums inside a PyTorch file must
    be right.

    Raises:
        BenchError: the file is absent, something else, damaged, or holds other objects.
    """
    if not path.is_file():
        raise BenchError(f"There is no checkpoint at {path}; check the path given with --checkpoint.")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise _unreadable(path, error.strerror or "the system refuses") from error
    reason = _no_weights(head)
    if reason:
        raise _unreadable(path, f"it is {reason}")
    try:
        if head[8:9] == b"{":
            return load_file(path)
        if head.startswith(b"PK"):
            _check_archive(path)
        # On the CPU, whatever the default device is; by the content, and not by the name that torch.load may look at.
        with path.open("rb") as file, torch.device("cpu"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of storages in old files
            content = torch.load(file, map_location="cpu", weights_only=True)
            if head.startswith(_OLD) and file.read(1):  # there are no checksums, but an end
                raise _unreadable(path, "it is damaged (it goes on after its end): make or download it again")
            return content
    except BenchError:
        raise
    except OSError as error:
        raise _unreadable(path, error.strerror or "the system refuses") from error
    except MemoryError as error:
        raise _unreadable(path, "there is not enough memory") from error
    except Exception as error:  # the unpickler trips over garbage in more ways than can be listed
        raise _unreadable(path, _why(str(error))) from error


def _unreadable(path: Path, reason: str) -> BenchError:
    return BenchError(
        f"Cannot read the checkpoint {path}: {reason} (only safetensors files and PyTorch files of plain tensors are "
        "loaded)."
    )


def _no_weights(head: bytes) -> str:
    """What a file that begins like this is, if it cannot hold weights; else nothing."""
    if not head:
        return "empty: make or download it again"
    for magic, words in _KINDS:
        if head.startswith(magic):
            return words
    text = head.lstrip().lower()
    if text.startswith(_PAGES):
        return "a web page: the download led to a page and not to the file; open its address in a browser"
    if head[8:9] != b"{" and all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head):
        first = head.decode("ascii").strip().partition("\n")[0][:40]
        return f"text that begins with {first!r}: download or save the weights again"
    return ""


def _check_archive(path: Path) -> None:
    """Refuses a zip archive that is no PyTorch file, or a damaged one: PyTorch itself compares no checksum.

    Raises:
        BenchError: with what it is.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            names = [record.filename.partition("/")[2] for record in records]
            if "constants.pkl" in names:
                raise _unreadable(
                    path,
                    "it is a TorchScript program: save its weights by "
                    f"torch.save(torch.jit.load('{path.name}').state_dict(), 'weights.pth')",
                )
            if "data.pkl" not in names:
                shown = ", ".join(record.filename for record in records[:3]) or "nothing"
                raise _unreadable(path, f"it is an archive of other files ({shown}): give a PyTorch file")
            if sum(record.file_size for record in records) > _COMPRESSED * path.stat().st_size:
                raise _unreadable(path, "it is compressed, which torch.save does not do: save it again")
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise _unreadable(path, "it is damaged or cut short: make or download it again") from error
    if damaged is not None:
        raise _unreadable(path, f"it is damaged (the checksum of {damaged} is wrong): make or download it again")


def _why(message: str) -> str:
    """What PyTorch's loader did not like, in one clause and without its advice to trust the file."""
    found = re.search(r"(?:GLOBAL|class|function) ([A-Za-z_][\w.]*\.\w+)", message)
    if found is None:
        return "it is damaged, or not of a format that is known: make or download it again"
    name = found.group(1)
    if name.startswith("numpy."):
        return f"it holds NumPy values ({name}), which are no plain tensors: save the weights alone, {RESAVE}"
    if name.startswith("torch.nn.modules.") or name.endswith(("Module", "Net")):
        return f"it holds a whole network ({name}) and not its weights: save the weights alone, {RESAVE}"
    return f"it holds an object of {name} beside or instead of weights: save the weights alone, {RESAVE}"


def state_dict_of(content: Any, path: Path) -> tuple[dict[str, Tensor], str]:
    """The flat state dict in what a file holds, and the ``arch`` that stands beside it: the network's name, or empty.

    A wrapper such as ``{'state_dict': ...}``, ``{'model_state': ...}`` (PyTorchVideo) or one in another is taken off, a
    moving average (``{'state_dict_ema': ...}``) where nothing else is there, and so are the names
    that torch.compile (``_orig_mod.``) and data-parallel training (``module.``) put before those of parameters.

    Raises:
        BenchError: there is none, or more than one that could be meant, or a tensor that is no plain one.
    """
    arch = ""
    for _ in range(_DEEPEST):
        wrapper = _wrapper(content, path)
        if wrapper is None:
            break
        stated = content.get("arch")
        arch = stated if isinstance(stated, str) else arch
        content = content[wrapper]
    if not isinstance(content, Mapping):
        raise _no_state(path, f"it holds a {type(content).__name__}")
    if not content:
        raise _no_state(path, "it is empty")
    others = [str(key) for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if others:
        raise _no_state(path, f"of its {len(content)} entries these are no named tensors: {some(others)}")
    repeated = 0
    for key, tensor in content.items():
        flaw = _flaw(tensor)
        if not flaw:
            repeated += (tensor.numel() - _stored(tensor).numel()) * tensor.element_size()
            if repeated > _REPEATED:
                flaw = f"of shape {tuple(tensor.shape)} claims gigabytes that the file does not hold: save a clone"
        if flaw:
            raise BenchError(f"The checkpoint {path} cannot be used: {key} {flaw}.")
    return _plain_names(content, path), arch


def _no_state(path: Path, why: str) -> BenchError:
    return BenchError(
        f"The checkpoint {path} holds no state dict: expected parameter names and tensors, alone or under "
        f"{', '.join((*_WRAPPERS, *_AVERAGES))}, but {why}. Save the weights alone: {RESAVE}."
    )


def _wrapper(content: Any, path: Path) -> str | None:
    """The key under which the state dict stands, if it stands under one."""
    if not isinstance(content, Mapping):
        return None
    found = [key for key in (*_WRAPPERS, *_AVERAGES) if isinstance(content.get(key), Mapping)]
    if len(found) > 1:
        raise BenchError(
            f"The checkpoint {path} holds several state dicts ({', '.join(found)}), and nothing says which is meant: "
            "save the one that is meant alone."
        )
    return found[0] if found else None


def _flaw(tensor: Tensor) -> str:
    """Why a tensor can be nobody's weights, in words; nothing if it can."""
    if tensor.is_meta:
        return "has no values (it was on the meta device when it was saved)"
    if tensor.layout != torch.strided or tensor.is_nested:
        return "is sparse or nested: save it dense, by to_dense()"
    if tensor.is_quantized or (tensor.is_floating_point() and tensor.element_size() < 2):
        return f"is quantised ({tensor.dtype}), and without its scales means nothing: save the float weights"
    if tensor.is_complex():
        return f"is complex ({tensor.dtype}), where weights are real"
    if _overlaps(tensor):
        return f"has the shape {tuple(tensor.shape)} and overlapping strides {tensor.stride()}: save a clone of it"
    if tensor.is_floating_point() and bool(_stored(tensor).isnan().any()):
        return "holds NaN: the training has diverged, or the file is damaged"
    return ""


def _stored(tensor: Tensor) -> Tensor:
    """A tensor without the repetitions that ``Tensor.expand`` makes: once, what stands in memory once."""
    for dimension, stride in enumerate(tensor.stride()):
        if stride == 0 and tensor.shape[dimension] > 1:
            tensor = tensor.narrow(dimension, 0, 1)
    return tensor


def _overlaps(tensor: Tensor) -> bool:
    """Whether values that are not plain repetitions share memory."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride > 0:
            if stride <= reach:
                return tensor.numel() > 0
            reach += (size - 1) * stride
    return False


def _plain_names(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    others = [key for key in state if key != _AVERAGED]
    if len(others) < len(state) and all(key.startswith("module.") for key in others):
        state = {key: state[key] for key in others}
    names = [key.replace("_orig_mod.", "") for key in state]
    while all(name.startswith("module.") for name in names):
        names = [name.removeprefix("module.") for name in names]
    if len(set(names)) < len(names):
        twice = {name for name in names if names.count(name) > 1}
        raise BenchError(
            f"The checkpoint {path} holds some weights twice, with and without _orig_mod. before their names "
            f"({some(twice)}): save it again."
        )
    return dict(zip(names, state.values(), strict=True))


def some(keys: Any, limit: int = 5) -> str:
    """The first of some names, sorted, and how many more there are."""
    listed = sorted(keys)
    return ", ".join(listed[:limit]) + (f" and {len(listed) - limit} more" if len(listed) > limit else "")
