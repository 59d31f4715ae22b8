"""A GPU that is not there: tensors on the CPU that say they are on ``cuda:0``, raise where CUDA raises, and count.

What must be true on a GPU is proved without one: no operation mixes devices, and how often the processor waits for the
device. PyTorch's rules: operations of tensors of two devices raise, but a number alone (0-dim) on the CPU joins
elementwise ones, an index on the CPU may index a tensor of the device, and copies go anywhere. Reading values, as by
``item``, ``bool`` or ``cpu``, and shapes that depend on values (``nonzero``, a mask as an index) wait for all that was
queued. What is computed, and how, stays that of the CPU.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from types import FrameType
from typing import Any, Self
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

DEVICE = torch.device("cuda:0")
_OURS = "bench."
_SISTERS = ("attacks", "datasets", "defenses")

aten = torch.ops.aten
# A shape or an answer that depends on values.
_WAITING = {
    aten._local_scalar_dense: "item",
    aten.is_nonzero: "item",
    aten.nonzero: "nonzero",
    aten.masked_select: "masked_select",
    aten._unique2: "unique",
    aten.unique_dim: "unique",
    aten.unique_consecutive: "unique",
    aten.equal: "equal",
    aten.allclose: "allclose",
    aten.bincount: "bincount",
}
_INDEXING = {aten.index, aten._unsafe_index, aten.index_put, aten.index_put_, aten._index_put_impl_}
_PUTTING = {aten.index_put, aten.index_put_, aten._index_put_impl_}
_COPYING = {aten.copy_, aten.copy}
# Here not even a number alone may be on the CPU.
_STRICT = {aten.cat, aten.stack, aten.index_select, aten.gather, aten.scatter, aten.scatter_add, aten.embedding}
# These read a 0-dim tensor of the device to fill with it.
_FILLING = {aten.masked_fill, aten.masked_fill_, aten.index_fill, aten.index_fill_}


class DeviceMix(RuntimeError):
    """What CUDA would raise: tensors of two devices in one operation."""


class Transfers:
    """Copies between the devices, by kind and by the lines of our own source that asked for them.

    Attributes:
        blocking: reads that wait for the device.
        uploads: copies to the device. Without ``non_blocking=True`` PyTorch waits in these, too.
        unwaited: copies of either direction with ``non_blocking=True``.
    """

    def __init__(self) -> None:
        self.blocking: Counter[str] = Counter()
        self.uploads: Counter[str] = Counter()
        self.unwaited: Counter[str] = Counter()

    def clear(self) -> None:
        for counted in (self.blocking, self.uploads, self.unwaited):
            counted.clear()

    def per_step(self, longer: Transfers, steps: int) -> Transfers:
        """What ``longer``, a run of ``steps`` more, has more than this one, per step."""
        found = Transfers()
        for name in ("blocking", "uploads", "unwaited"):
            before, after, each = getattr(self, name), getattr(longer, name), getattr(found, name)
            for key in after:
                if more := (after[key] - before[key]) / steps:
                    each[key] = more
        return found


_counting: list[Transfers] = []


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if str(frame.f_globals.get("__name__", "")).startswith(_OURS):
            yield frame
        frame = frame.f_back


def _place(frame: FrameType) -> str:
    parts = str(frame.f_globals["__name__"]).split(".")
    return "/".join(parts[1:] if parts[1] in _SISTERS else parts) + f".py:{frame.f_lineno}"


def _note(counter: str, kind: str) -> None:
    """Counts one transfer for the innermost two lines of our source."""
    places = [_place(frame) for frame, _ in zip(_frames(), range(2), strict=False)]
    if _counting:
        getattr(_counting[-1], counter)[f"{kind} at {' < '.join(places) or 'no line of ours'}"] += 1


class OnDevice(Tensor):
    """A tensor that says it is on the device; ``held`` is what it is on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        made: OnDevice = Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device="cpu",
        )
        made.held = held
        return made

    @property
    def device(self) -> torch.device:
        return DEVICE

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def is_cpu(self) -> bool:
        return False

    def get_device(self) -> int:
        return 0

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        return _to(self, *args, **kwargs)

    def type_as(self, other: Tensor) -> Tensor:
        return _to(self, other)

    def cuda(self, *args: Any, **kwargs: Any) -> Tensor:
        return self

    def cpu(self, *args: Any, **kwargs: Any) -> Tensor:
        return _moved(self, torch.device("cpu"))

    def new_tensor(self, data: Any, **kwargs: Any) -> Tensor:
        return torch.tensor(data, **{"device": DEVICE, "dtype": self.dtype, **kwargs})

    def _read(self) -> Tensor:
        _note("blocking", "read")
        return self.held.detach()

    def tolist(self) -> Any:
        return self._read().tolist()

    def __repr__(self) -> str:
        return repr(self._read())

    def __format__(self, spec: str) -> str:
        return self._read().__format__(spec)

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = __dlpack__ = numpy

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._read().__reduce_ex__(protocol)  # a file of it is read on the CPU

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            made = self.detach().clone()
            is_parameter = isinstance(self, torch.nn.Parameter)
            wanted = self.requires_grad
            memo[id(self)] = torch.nn.Parameter(made, wanted) if is_parameter else made.requires_grad_(wanted)
        return memo[id(self)]

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        pass_on = super().__torch_function__
        return _function(lambda f, a, k: pass_on(f, types, a, k), func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = list(_tensors((*args, *kwargs.values())))
        _refuse(func, args, kwargs, tensors)
        _count(func, args, kwargs)
        given = {id(_held(t)): t for t in tensors}
        with torch._C.DisableTorchFunction():
            found = func(*_each(_held, args), **{name: _each(_held, value) for name, value in kwargs.items()})

        def wrapped(value: Any) -> Any:
            if not isinstance(value, Tensor) or value.device.type == "meta":  # by which PyTorch finds out shapes
                return value
            return given[id(value)] if func._schema.is_mutable and id(value) in given else OnDevice(value)

        return _each(wrapped, found)


def _each(function: Callable[[Any], Any], value: Any) -> Any:
    """A function of everything in lists and tuples, which is all that holds the tensors of an operation."""
    if isinstance(value, list | tuple):
        return type(value)([_each(function, inner) for inner in value])
    return function(value)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors(inner)


def _held(value: Any) -> Any:
    return value.held if isinstance(value, OnDevice) else value


def _here(*values: Any) -> bool:
    return all(isinstance(value, OnDevice) for value in values)


def _in_autograd() -> bool:
    """Whether PyTorch's own way back is at work: where no gradient comes from, it puts zeros of the device, made unseen
    and so on the CPU here."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    return frame is not None and frame.f_code is torch.autograd.graph._engine_run_backward.__code__


def _refuse(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor]) -> None:
    """Raises where CUDA would.

    Raises:
        DeviceMix: it would.
    """
    packet = func.overloadpacket
    if kwargs.get("generator") is not None:
        raise DeviceMix(f"Expected a 'cuda' device type for generator but found 'cpu': {func}")
    away = [t for t in tensors if not _here(t)]
    if not away or packet in _COPYING or _in_autograd():
        return
    if packet in _INDEXING:
        values = args[2] if packet in _PUTTING else args[0]
        allowed = _here(args[0], values) or (packet in _PUTTING and values.dim() == 0)
        allowed = allowed and (_here(args[0]) or not any(_here(i) for i in args[1]))
    elif packet in (aten.fill, aten.fill_):
        allowed = True
    else:
        allowed = all(t.dim() == 0 for t in away) and packet not in _STRICT and not _written(func, args, kwargs)
    if not allowed:
        shapes = [(tuple(t.shape), "cuda:0" if _here(t) else "cpu") for t in tensors]
        raise DeviceMix(f"Expected all tensors to be on the same device: {func} of {shapes}")


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operation writes to a tensor on the CPU."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            if isinstance(value, Tensor) and not _here(value):
                return True
    return False


def _count(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    packet = func.overloadpacket
    if packet in _WAITING:
        _note("blocking", _WAITING[packet])
    elif packet in _INDEXING:
        _count_index(packet, *args[:3])
    elif packet in _COPYING and not _here(*args[:2]):
        unwaited = kwargs.get("non_blocking", len(args) > 2 and args[2])
        kind = "upload" if _here(args[0]) else "download"
        _note("unwaited" if unwaited else "uploads" if kind == "upload" else "blocking", f"{kind} (copy_)")
    elif packet is aten.repeat_interleave and "Tensor" in func._overloadname and kwargs.get("output_size") is None:
        _note("blocking", "repeat_interleave")
    elif (packet in _FILLING and _here(args[-1])) or (packet is aten.fill_ and not _here(args[0])):
        _note("blocking", "fill with a number of the device")


def _count_index(packet: Any, base: Tensor, indices: Any, values: Tensor | None = None) -> None:
    """A mask becomes a list of places, whose length must be known; a number put into one is filled in, without."""
    known = [index for index in indices if index is not None]
    filled = packet in _PUTTING and values is not None and not _here(values) and values.numel() == 1
    for index in known:
        if _here(index) and index.dtype in (torch.bool, torch.uint8):
            if not (filled and len(known) == 1):
                _note("blocking", "index by a mask")
        elif _here(base) and not _here(index):
            _note("uploads", "index from the CPU")
    masked = len(known) == 1 and known[0].dtype == torch.bool
    if filled and _here(base) and not masked:
        _note("uploads", "number put by an index")
    if packet in _PUTTING and not _here(base):
        _note("blocking", "download (number put by an index)")


class _Down(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, clips: Tensor, held: list[Tensor]) -> Tensor:
        return held[0].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _moved(grads[0], DEVICE), None


class _Up(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, clips: Tensor) -> Tensor:
        return OnDevice(clips.detach().clone())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _moved(grads[0], torch.device("cpu"))


def _moved(x: Tensor, device: torch.device, unwaited: bool = False) -> Tensor:
    """The tensor on another device, its gradient too; the tensor itself if it is there."""
    down = device.type == "cpu"
    if _here(x) != down:
        return x
    kind = "download" if down else "upload"
    _note("unwaited" if unwaited else "blocking" if down else "uploads", kind)
    if torch.is_grad_enabled() and x.requires_grad:
        return _Down.apply(x, [x.held.detach()]) if isinstance(x, OnDevice) else _Up.apply(x)
    return x.held.detach().clone() if isinstance(x, OnDevice) else OnDevice(x.detach().clone())


def _to(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``Tensor.to`` in all its forms: another dtype and layout where it is, then another device."""
    for other in (a for a in (*args, kwargs.pop("other", None)) if isinstance(a, Tensor)):
        kwargs |= {"device": other.device, "dtype": other.dtype}
    kwargs |= {"dtype": a for a in args if isinstance(a, torch.dtype)}  # noqa: B035 - one at most
    kwargs |= {"device": a for a in args if isinstance(a, str | torch.device)}  # noqa: B035
    kwargs |= dict(zip(("non_blocking", "copy"), (a for a in args if isinstance(a, bool)), strict=False))
    device, unwaited = kwargs.pop("device", None), kwargs.pop("non_blocking", False)
    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    if kwargs:
        x = Tensor.to(x, **{"dtype": x.dtype, **kwargs})
    if device is None or torch.device(device).type in ("cpu", "cuda"):
        return x if device is None else _moved(x, torch.device(device), unwaited)
    with torch._C.DisableTorchFunction():  # such as meta, where a tensor has a shape alone
        return _held(x).to(device)


_MADE_OF_DATA = (torch.tensor, torch.as_tensor, torch.asarray)
Run = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


def _function(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What depends on a device before it is an operation."""
    first = args[0] if args else None
    if isinstance(first, Tensor):
        named = any(isinstance(a, Tensor | str | torch.device) for a in args[1:]) or {"device", "other"} & set(kwargs)
        if func in (Tensor.type_as, torch.as_tensor) or (func is Tensor.to and named):
            return _to(first, *args[1:], **kwargs)
        if func is Tensor.cuda:
            return _moved(first, DEVICE)
        if func is F.one_hot and isinstance(first, OnDevice):  # on the CPU it looks at the classes in any case
            if len(args) + len(kwargs) == 1:
                _note("blocking", "one_hot without a number of classes")
            return OnDevice(func(first.held, *args[1:], **kwargs))
        if func is Tensor.is_pinned:
            return getattr(first, "pinned", False)
    if kwargs.get("pin_memory"):
        found = run(func, args, {name: value for name, value in kwargs.items() if name != "pin_memory"})
        found.pinned = True
        return found
    return _made(run, func, args, kwargs) if kwargs.get("device") is not None else run(func, args, kwargs)


def _made(run: Run, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A new tensor on a named device."""
    device = torch.device(kwargs["device"])
    if device.type != "cuda":
        return run(func, _each(_held, args), kwargs)
    if kwargs.get("generator") is not None:
        raise DeviceMix("Expected a 'cuda' device type for generator but found 'cpu'")
    if func in _MADE_OF_DATA:
        _note("uploads", "upload")
    found = run(func, args, {name: value for name, value in kwargs.items() if name != "device"})
    return found if _here(found) else OnDevice(found)


class _Mode(TorchFunctionMode):
    """Sees functions that are given no tensor of the device, such as those that make one."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.autograd.grad:
            with self:  # functions of the way back are seen too
                return _grad(*args, **kwargs)
        if func is Tensor.backward:
            with self:
                return torch.autograd.backward(*args, kwargs.pop("gradient", None), **kwargs)
        return _function(lambda f, a, k: f(*a, **k), func, args, kwargs)


def _grad(
    outputs: Any,
    inputs: Any,
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    **more: Any,
) -> tuple[Tensor, ...]:
    """``torch.autograd.grad``, which would hide what happens on the way back from a mode."""
    ends, starts, given = (
        (value,) if isinstance(value, Tensor) or value is None else tuple(value)
        for value in (outputs, inputs, grad_outputs)
    )
    given = given if len(given) == len(ends) else (None,) * len(ends)
    slopes = tuple(torch.ones_like(e) if g is None else g for e, g in zip(ends, given, strict=True))
    keep = create_graph if retain_graph is None else retain_graph
    return torch.autograd.graph._engine_run_backward(
        ends, slopes, keep, create_graph, starts, bool(allow_unused), accumulate_grad=False
    )


class PretendDevice:
    """While it is open, ``cuda`` is a device that this machine has, and ``auto`` chooses it; in this thread alone.

    Networks that were moved stay what they have become: move fresh ones.

    Attributes:
        device: ``cuda:0``.
        transfers: what was copied since it was opened.
    """

    device = DEVICE

    def __init__(self) -> None:
        self.transfers = Transfers()
        self._open = ExitStack()

    def __enter__(self) -> Self:
        answers: dict[str, Any] = {
            "is_available": True,
            "is_bf16_supported": True,
            "device_count": 1,
            "reset_peak_memory_stats": None,
            "memory_allocated": 0,
            "max_memory_allocated": 1 << 30,
            "mem_get_info": (8 << 30, 8 << 30),
            "empty_cache": None,
            "get_device_name": "pretended",
            "get_rng_state": torch.empty(0, dtype=torch.uint8),
            "set_rng_state": None,
        }
        for name, answer in answers.items():
            self._open.enter_context(mock.patch.object(torch.cuda, name, mock.Mock(return_value=answer)))
        if hasattr(torch, "accelerator"):  # optimisers ask it for the state of a stream
            nothing = mock.Mock(return_value=None)
            self._open.enter_context(mock.patch.object(torch.accelerator, "current_accelerator", nothing))
        overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        self._open.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrites)
        _counting.append(self.transfers)
        self._open.callback(_counting.pop)
        self._open.enter_context(_Mode())
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()


def transfers_per_step(run: Callable[[int], object], steps: int = 3) -> Transfers:
    """Transfers of one step of a run on the pretended device: those of twice as many steps, less those of ``steps``.

    Args:
        run: of a number of steps, each of which it takes; what happens before and after them drops out.
    """
    counted = []
    for count in (steps, 2 * steps):
        with PretendDevice() as gpu:
            run(count)
        counted.append(gpu.transfers)
    return counted[0].per_step(counted[1], steps)


def on_both(run: Callable[[torch.device], Sequence[Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """What a run gives on the CPU and on the pretended device, where it has to be in the end; both on the CPU."""
    plain = list(run(torch.device("cpu")))
    with PretendDevice():
        found = list(run(DEVICE))
        assert all(value.device == DEVICE for value in found)
        return plain, [value.cpu() for value in found]


def assert_same(run: Callable[[torch.device], Sequence[Tensor]]) -> None:
    """Checks that a run gives the same on the CPU and on the pretended device, up to rounding, and anything at all."""
    plain, found = on_both(run)
    assert plain
    for one, other in zip(plain, found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6, equal_nan=True)
