"""The pretended device raises, waits and differentiates as CUDA does; where there is CUDA, the cases are put to it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kit.pretend import DEVICE, PretendDevice, transfers_per_step
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bench import Target, fetch
from bench.run.engine import pick_device

Case = Callable[[Tensor, Tensor], Any]
"""Of a tensor ``float32 (4, 3)`` of the device and one of the CPU."""


def ints(*values: int) -> Tensor:
    return torch.tensor(values)


def put(x: Tensor, place: Any, value: Any) -> None:
    x[place] = value


RAISES: dict[str, Case] = {
    "sum": lambda x, y: x + y,
    "sum, the other way": lambda x, y: y + x,
    "a number of the device on the CPU": lambda x, y: y + x.sum(),
    "in place on the CPU": lambda x, y: y.add_(x),
    "a number of the CPU, in place": lambda x, y: y.sum().add_(x.sum()),
    "out": lambda x, y: torch.add(x, x, out=y),
    "matmul": lambda x, y: x @ y.T,
    "cat": lambda x, y: torch.cat([x, y]),
    "stack": lambda x, y: torch.stack([x, y]),
    "stack of numbers": lambda x, y: torch.stack([x.sum(), y.sum()]),
    "where by a mask of the CPU": lambda x, y: torch.where(y > 0, x, 0.0),
    "where, another value": lambda x, y: torch.where(x > 0, x, y),
    "maximum": lambda x, y: torch.maximum(x, y),
    "equal": lambda x, y: torch.equal(x, y),
    "gather": lambda x, y: x.gather(0, ints(0, 1)[None]),
    "scatter": lambda x, y: x.scatter(0, ints(0, 1)[None], 1.0),
    "index_select": lambda x, y: x.index_select(0, ints(0, 1)),
    "index_add": lambda x, y: torch.zeros(4).index_add_(0, torch.arange(4, device=DEVICE), torch.ones(4)),
    "the CPU's by an index of the device": lambda x, y: y[torch.arange(2, device=DEVICE)],
    "the CPU's by a mask of the device": lambda x, y: y[x > 0],
    "values of the CPU put by an index": lambda x, y: put(x, torch.arange(2, device=DEVICE), y[:2]),
    "values of the device put by an index": lambda x, y: put(y, ints(0, 1), x[:2]),
    "convolution": lambda x, y: F.conv1d(x[None], y[:, :, None].expand(4, 3, 1)[:, :1].repeat(1, 4, 1)),
    "linear": lambda x, y: nn.Linear(3, 2)(x),
    "cross-entropy": lambda x, y: F.cross_entropy(x, ints(0, 1, 2, 0)),
    "interpolate, then add": lambda x, y: F.interpolate(x[None], 6) + torch.ones(6),
    "einsum": lambda x, y: torch.einsum("ij,ij->i", x, y),
    "numpy": lambda x, y: x.numpy(),
    "asarray": lambda x, y: np.asarray(x),
    "a generator of the CPU": lambda x, y: torch.rand(3, device=DEVICE, generator=torch.Generator()),
    "a generator of the CPU, in place": lambda x, y: x.normal_(generator=torch.Generator()),
}
# Waits once.
WAITS: dict[str, Case] = {
    "item": lambda x, y: x.sum().item(),
    "float": lambda x, y: float(x.sum()),
    "int": lambda x, y: int(x.sum()),
    "bool": lambda x, y: bool(x.any()),
    "tolist": lambda x, y: x.tolist(),
    "cpu": lambda x, y: x.cpu(),
    "to the CPU": lambda x, y: x.to("cpu"),
    "to what is on the CPU": lambda x, y: x.to(y),
    "the type of what is on the CPU": lambda x, y: x.type_as(y),
    "copy_ to the CPU": lambda x, y: y.copy_(x),
    "put in the CPU's": lambda x, y: put(y, 0, x[0]),
    "nonzero": lambda x, y: x.nonzero(),
    "where alone": lambda x, y: torch.where(x > 0),
    "by a mask": lambda x, y: x[x > 0],
    "by a mask of rows": lambda x, y: x[x[:, 0] > 0],
    "values put by a mask": lambda x, y: put(x, x[:, 0] > -9, x + 1),
    "a number of the device put by a mask": lambda x, y: put(x, x > 0, x.sum()),
    "masked_select": lambda x, y: x.masked_select(x > 0),
    "masked_fill with a number of the device": lambda x, y: x.masked_fill(x > 0, x.sum()),
    "unique": lambda x, y: x.unique(),
    "equal, alone": lambda x, y: torch.equal(x, x + 1),
    "allclose": lambda x, y: torch.allclose(x, x + 1),
    "repeat_interleave by a tensor": lambda x, y: x.repeat_interleave(torch.arange(4, device=DEVICE), 0),
    "one_hot without a number of classes": lambda x, y: F.one_hot(torch.arange(4, device=DEVICE)),
    "an index of the CPU": lambda x, y: y[torch.arange(2, device=DEVICE).sum()],
    "format": lambda x, y: f"{x.sum():.3f}",
}
# Copies to the device, once.
UPLOADS: dict[str, Case] = {
    "to": lambda x, y: y.to(DEVICE),
    "to by name": lambda x, y: y.to("cuda"),
    "to with a dtype": lambda x, y: y.to(DEVICE, torch.float64),
    "to what is there": lambda x, y: y.to(x),
    "cuda": lambda x, y: y.cuda(),
    "tensor": lambda x, y: torch.tensor([1.0, 2.0], device=DEVICE),
    "as_tensor": lambda x, y: torch.as_tensor(y, dtype=torch.float64, device=DEVICE),
    "as_tensor of a list": lambda x, y: torch.as_tensor([1, 2], device=DEVICE),
    "new_tensor": lambda x, y: x.new_tensor([1.0, 2.0]),
    "an index": lambda x, y: x[ints(0, 2)],
    "an index in a list": lambda x, y: x[[0, 2]],
    "a mask": lambda x, y: x[y[:, 0] > 0],
    "values put by an index of the CPU": lambda x, y: put(x, ints(0, 1), x[2:] + 1),
    "a number put by two indices": lambda x, y: put(x, (torch.arange(2, device=DEVICE),) * 2, 0.5),
    "copy_": lambda x, y: x.copy_(y),
    "put": lambda x, y: put(x, 0, y[0]),
}
FREE: dict[str, Case] = {
    "arithmetic": lambda x, y: (x * 2 + 1).clamp(0, 1).sum(),
    "a number of the CPU": lambda x, y: x * y.sum() + torch.tensor(2.0),
    "a number where": lambda x, y: torch.where(x > 0, x, torch.tensor(0.0)),
    "made there": lambda x, y: torch.arange(4, device=DEVICE) + torch.zeros(4, device=DEVICE),
    "made like it": lambda x, y: torch.zeros_like(x) + x.new_ones(4, 3) + torch.full_like(x, 0.5),
    "to where it is": lambda x, y: x.to(DEVICE).to(x.device).cuda(),
    "another dtype": lambda x, y: x.double().to(torch.float32),
    "slices": lambda x, y: x[1:, None, :2],
    "an index of the device": lambda x, y: x[torch.arange(2, device=DEVICE)],
    "values put by an index of the device": lambda x, y: put(x, torch.arange(2, device=DEVICE), x[2:] + 1),
    "a number put by a mask": lambda x, y: put(x, x > 0, 0.5),
    "a number put in a slice": lambda x, y: put(x, slice(1), 0.5),
    "masked_fill": lambda x, y: x.masked_fill(x > 0, 0.5),
    "unbind": lambda x, y: [row * 2 for row in x],
    "one_hot": lambda x, y: F.one_hot(torch.arange(4, device=DEVICE), 5),
    "shapes": lambda x, y: (len(x), x.shape, x.ndim, x.device, x.is_cuda, x.get_device()),
    "repeat_interleave": lambda x, y: x.repeat_interleave(2, 0),
    "argmax": lambda x, y: x.argmax(1) == torch.zeros(4, device=DEVICE),
    "unwaited": lambda x, y: y.to(DEVICE, non_blocking=True),
    "the CPU's own": lambda x, y: (y[y > 0].tolist(), float(y.sum()), y.nonzero()),
}
COUNTED = {
    **{f"waits: {name}": (case, (1, 0)) for name, case in WAITS.items()},
    **{f"uploads: {name}": (case, (0, 1)) for name, case in UPLOADS.items()},
    **{f"free: {name}": (case, (0, 0)) for name, case in FREE.items()},
}


def made() -> tuple[Tensor, Tensor]:
    values = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)) - 0.4
    return values.to(DEVICE), values.clone()


@pytest.mark.parametrize("case", RAISES.values(), ids=RAISES)
def test_what_cuda_refuses_is_refused(case: Case) -> None:
    with PretendDevice():
        x, y = made()
        with pytest.raises((RuntimeError, TypeError), match=r"same device|generator|numpy"):
            case(x, y)


@pytest.mark.parametrize(("case", "expected"), COUNTED.values(), ids=COUNTED)
def test_each_transfer_is_counted_once(case: Case, expected: tuple[int, int]) -> None:
    with PretendDevice() as gpu:
        x, y = made()
        gpu.transfers.clear()
        case(x, y)
    assert (gpu.transfers.blocking.total(), gpu.transfers.uploads.total()) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="asks a GPU")
@pytest.mark.parametrize("case", RAISES.values(), ids=RAISES)
def test_a_gpu_refuses_it(case: Case) -> None:
    x, y = made()
    with pytest.raises((RuntimeError, TypeError)):
        case(x, y)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="asks a GPU")
@pytest.mark.parametrize(("case", "expected"), COUNTED.values(), ids=COUNTED)
def test_a_gpu_waits_for_it(case: Case, expected: tuple[int, int]) -> None:
    """PyTorch's own check: it finds copies to the device, too, unless they are not waited for."""
    x, y = made()
    case(*made())  # whatever is done once is done
    torch.cuda.set_sync_debug_mode("error")
    try:
        if any(expected):
            with pytest.raises(RuntimeError, match="synchronizing"):
                case(x, y)
        else:
            case(x, y)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_tensor_says_where_it_is() -> None:
    with PretendDevice():
        x, y = made()
        assert (x.device, x.is_cuda, x.is_cpu, x.get_device()) == (DEVICE, True, False, 0)
        assert (y.device, y.is_cuda, y.is_cpu, y.get_device()) == (torch.device("cpu"), False, True, -1)
        assert [(x * 2).device, x.cpu().device, torch.zeros_like(x, device="cpu").device] == [
            DEVICE,
            y.device,
            y.device,
        ]
        assert torch.equal(x.cpu(), y)
        assert x.double().to(y).dtype == torch.float32
        assert copy.deepcopy(x).device == DEVICE


def test_a_copy_on_the_device_is_another_tensor() -> None:
    with PretendDevice():
        x, y = made()
        x.mul_(2)
        x[0] = 1.0
        assert torch.equal(x.cpu()[1:], 2 * y[1:])
        assert torch.equal(x.cpu()[0], torch.ones(3))
        assert torch.equal(made()[1], y)


class Net(nn.Module):
    """A part of it is computed again on the way back, and another function goes its own way back."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.head = nn.Conv3d(3, 6, 3, padding=1), nn.Linear(6, 5)
        self.register_buffer("scale", torch.tensor([2.0]))

    def forward(self, clips: Tensor) -> Tensor:
        found = checkpoint(self.features, F.interpolate(clips, scale_factor=2), use_reentrant=False)
        return self.head(found) * self.get_buffer("scale").to(clips)

    def features(self, clips: Tensor) -> Tensor:
        assert clips.device == next(self.parameters()).device
        return torch.tanh(4 * self.conv(clips)).mean(dim=(2, 3, 4))


def slopes(device: str) -> list[Tensor]:
    """Of a clip, of the weights, and through a counting target."""
    net = Net().to(device)
    clips = torch.rand(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1)).to(device).requires_grad_(True)
    labels = torch.tensor([1, 3]).to(device)
    (first,) = torch.autograd.grad(F.cross_entropy(net(clips), labels), clips)
    F.cross_entropy(net(clips), labels).backward()
    climb = Target.of(net, 2).gradient(clips, None, labels, lambda logits, c: logits.gather(1, c[:, None])[:, 0])
    weights = [p.grad for p in net.parameters()]
    found = [first, clips.grad, climb.gradient, *weights]
    assert all(f is not None and f.device == clips.device for f in found)
    return [f.cpu() for f in found if f is not None]


def test_gradients_are_those_of_the_cpu() -> None:
    with PretendDevice() as gpu:
        found = slopes("cuda")
    assert gpu.transfers.uploads
    for one, other in zip(found, slopes("cpu"), strict=True):
        assert torch.equal(one, other)


def test_gradients_pass_from_device_to_device() -> None:
    with PretendDevice() as gpu:
        x = torch.tensor([1.0, 2.0]).requires_grad_(True)
        y = x.to(DEVICE).square().cpu() * 3
        gpu.transfers.clear()
        (slope,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(slope, torch.tensor([6.0, 12.0]))
        assert (gpu.transfers.blocking.total(), gpu.transfers.uploads.total()) == (1, 1)


def test_parts_without_a_gradient_are_no_mix() -> None:
    """Of all that is cut from a tensor, the loss sees one piece."""
    with PretendDevice():
        x = made()[0].requires_grad_(True)
        (of_rows,) = torch.autograd.grad(x.unbind(0)[1].sum(), x)
        (of_parts,) = torch.autograd.grad(x.split([1, 3])[1].sum(), x)
        assert of_rows.cpu().sum(1).tolist() == [0, 3, 0, 0]
        assert of_parts.cpu().sum(1).tolist() == [0, 3, 3, 3]


def test_second_derivatives_are_those_of_the_cpu() -> None:
    """That of a modulus is nothing, which PyTorch does not even write out."""

    def second(device: str) -> Tensor:
        x = made()[1].to(device).requires_grad_(True)
        value = (x.abs() + x**3).sum()
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        return torch.autograd.grad(slope.sum(), x)[0].cpu()

    with PretendDevice():
        found = second("cuda")
        torch.testing.assert_close(found, 6 * made()[1])


class CarelessWayBack(torch.autograd.Function):
    """Meets a tensor of the CPU on the way back alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * torch.full((4, 3), 2.0)


def test_a_mix_on_the_way_back_is_refused() -> None:
    with PretendDevice():
        x = made()[0].requires_grad_(True)
        with pytest.raises(RuntimeError, match="same device"):
            torch.autograd.grad(CarelessWayBack.apply(x).sum(), x)
        with pytest.raises(RuntimeError, match="same device"):
            CarelessWayBack.apply(x).sum().backward()


def test_an_optimiser_trains_there_as_on_the_cpu() -> None:
    def trained(device: str) -> list[Tensor]:
        net = Net().to(device)
        clips = torch.rand(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(1)).to(device)
        adam = torch.optim.AdamW(net.parameters(), lr=0.1)
        for _ in range(2):
            adam.zero_grad()
            F.cross_entropy(net(clips), torch.tensor([1, 3], device=device)).backward()
            adam.step()
        return [p.detach().cpu() for p in net.parameters()]

    with PretendDevice():
        found = trained("cuda")
    for one, other in zip(found, trained("cpu"), strict=True):
        assert torch.equal(one, other)


def test_transfers_are_named_by_the_line_that_asked() -> None:
    with PretendDevice() as gpu:
        x, _ = made()
        fetch(x.sum(1))
        float(x.sum())
    reads = [key for key in gpu.transfers.blocking if "bench/attack/survivors.py:" in key]
    assert reads
    assert all(key.startswith("download at ") for key in reads)
    assert "item at no line of ours" in gpu.transfers.blocking


def test_what_happens_once_is_not_of_a_step() -> None:
    def run(steps: int) -> None:
        x, _ = made()
        for _ in range(steps):
            x = x + x.new_tensor([1.0])
            float(x.sum()), bool(x.any())
        x.tolist()

    found = transfers_per_step(run)
    assert found.blocking == {"item at no line of ours": 2}
    assert found.uploads == {"upload at no line of ours": 1}


def test_everything_is_as_before_afterwards() -> None:
    before = torch.cuda.mem_get_info, torch.cuda.is_available()
    with PretendDevice():
        assert pick_device("auto").type == "cuda"
        assert pick_device("cpu") == torch.device("cpu")
    assert (torch.cuda.mem_get_info, torch.cuda.is_available()) == before
    if not torch.cuda.is_available():
        with pytest.raises((RuntimeError, AssertionError)):
            torch.zeros(1, device="cuda")
