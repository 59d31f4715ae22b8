"""Whose fault an exception is."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.faults import Failure, machine_fault


def raised_from(cause: BaseException) -> Exception:
    try:
        try:
            raise cause
        except BaseException as error:
            raise ValueError("cannot be read") from error
    except ValueError as error:
        return error


# Messages as the libraries word them.
MACHINE = {
    "disk full": OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    "disk broken": OSError(errno.EIO, os.strerror(errno.EIO)),
    "too many files": OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
    "lock": sqlite3.OperationalError("database is locked"),
    "memory": MemoryError(),
    "memory of a GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    "memory of torch": RuntimeError("[enforce fail at alloc_cpu.cpp:128] DefaultCPUAllocator: can't allocate memory"),
    "memory of cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "a lost GPU": RuntimeError("CUDA error: unspecified launch failure"),
    "safetensors": RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    "torch.save": RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
    "behind another": raised_from(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
}
COMPONENT = (
    ZeroDivisionError("division by zero"),
    FileNotFoundError(errno.ENOENT, "No such file or directory"),
    PermissionError(errno.EACCES, "Permission denied"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
    RuntimeError("element 0 of tensors does not require grad and does not have a grad_fn"),
    ValueError("not enough values to unpack"),
    RecursionError("maximum recursion depth exceeded"),
)


@pytest.mark.parametrize("name", MACHINE)
def test_the_machine_is_told(name: str) -> None:
    assert machine_fault(MACHINE[name])


@pytest.mark.parametrize("error", COMPONENT, ids=lambda e: type(e).__name__)
def test_a_component_is_charged(error: Exception) -> None:
    assert machine_fault(error) == ""


def test_memory_is_told_from_the_rest() -> None:
    assert {name for name, error in MACHINE.items() if Failure.of(error).memory} == {
        name for name in MACHINE if name.startswith("memory")
    }


def test_a_real_lack_of_memory_is_one() -> None:
    with pytest.raises((RuntimeError, MemoryError)) as raised:
        torch.empty(1 << 50)
    assert Failure.of(raised.value).memory
    with pytest.raises(MemoryError) as raised_by_numpy:
        np.empty(1 << 50)
    assert Failure.of(raised_by_numpy.value).memory


def test_a_failure_names_the_line_of_the_component_and_not_of_the_library_that_it_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_of_faults.py").write_text(
        "import torch\n\n\ndef f():\n    return torch.ones(2, 3) @ torch.ones(2, 3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import mine_of_faults  # type: ignore[import-not-found]

    with pytest.raises(RuntimeError) as raised:
        mine_of_faults.f()
    failure = Failure.of(raised.value)
    assert "mat1 and mat2 shapes" in failure.message
    assert failure.message.endswith("(mine_of_faults.py:5)")
    assert 'File "mine_of_faults.py", line 5, in f\n    return torch.ones(2, 3) @ torch.ones(2, 3)' in failure.traceback
    assert str(tmp_path) not in failure.traceback  # nothing of this machine goes into a result


def test_a_message_of_many_lines_is_its_first_and_one_of_none_says_so() -> None:
    assert Failure.of(ValueError("one\ntwo")).message == "ValueError: one"
    assert Failure.of(ValueError()).message == "ValueError: no message"
    assert "two" in Failure.of(ValueError("one\ntwo")).traceback


def test_a_failure_holds_on_to_no_tensor() -> None:
    class Watched:
        gone = False

        def __del__(self) -> None:
            type(self).gone = True

    def fails() -> None:
        held = Watched()
        raise ValueError(repr(held))

    try:
        fails()
    except ValueError as error:
        failure = Failure.of(error)
    assert Watched.gone
    assert failure.message.startswith("ValueError")
