"""What a plan costs, before it is run: floating-point operations, memory and hours, counted on tensors without data.

Networks are copied to the meta device, on which PyTorch works out shapes and computes nothing, and every operation is
looked at on its way: its operations by PyTorch's own formulas (those of ``torch.utils.flop_counter``), its memory by
the tensors that are alive. So the figures are exact but for what a library does inside of one operation: workspaces of
convolutions are left out, and attention is taken for the fused kind that keeps no matrix of scores.
"""

from __future__ import annotations

import copy
import math
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten
from torch.utils.flop_counter import flop_registry

from bench.data.base import ClipRef, Dataset
from bench.defense.base import changes_nothing
from bench.defense.defended import DefendedClassifier
from bench.diffusion.base import DiffusionBackbone
from bench.errors import BenchError, nearest
from bench.flow.base import FlowEstimator
from bench.modes import Precision
from bench.plan.cells import Plan
from bench.plan.probe import first_clip
from bench.records.identity import Gradient
from bench.seeds import ClipRandom

M = TypeVar("M", bound=nn.Module)

_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float64: "fp64"}
_HALF = ("fp16", "bf16")


@dataclass(frozen=True)
class Card:
    """A graphics card, by its maker's data sheet.

    Attributes:
        fp32, tf32, half: peak rates in TFLOP/s: of single precision without tensor cores, and of TensorFloat-32, and of
            fp16 or bf16, with them, dense, accumulated in single precision. Cards that have no TensorFloat-32 multiply
            in single precision.
        memory: in GB, as makers count.
    """

    fp32: float
    tf32: float
    half: float
    memory: float

    def rate(self, kind: str) -> float:
        """TFLOP/s at most, in a number format."""
        return self.half if kind in _HALF else self.tf32 if kind == "tf32" else self.fp32


# NVIDIA: data sheets of H200 (SXM), H100 (SXM), A100 (80 GB SXM), V100 (SXM2), L40S, T4; white papers of the Ada and
# Ampere GeForce GPUs. Sheets give rates with sparsity for some, of which these are half.
CARDS: Mapping[str, Card] = {
    "h200": Card(67, 494.5, 989, 141),
    "h100": Card(67, 494.5, 989, 80),
    "a100": Card(19.5, 156, 312, 80),
    "v100": Card(15.7, 15.7, 125, 32),
    "l40s": Card(91.6, 183, 362, 48),
    "t4": Card(8.1, 8.1, 65, 16),
    "rtx4090": Card(82.6, 82.6, 165.2, 24),
    "rtx3090": Card(35.6, 35.6, 71, 24),
}

UTILISATION = 0.35
"""Share of the peak rate that is assumed to be reached; well-made programs reach .2 to .6."""


def card_of(name: str) -> Card:
    """A card by name.

    Raises:
        BenchError: it is not in the table.
    """
    known = CARDS.get(name.lower())
    if known is None:
        raise BenchError(f"There is no card {name!r}{nearest(name, CARDS)}; known: {', '.join(CARDS)}.")
    return known


@dataclass(frozen=True)
class Figures:
    """What one piece of work takes.

    Attributes:
        flops: floating-point operations by number format; a multiplication and an addition are two.
        peak: bytes that are alive at once, beyond weights and input.
        kept: of these, bytes that stay for the way back.
    """

    flops: Mapping[str, int] = field(default_factory=dict)
    peak: int = 0
    kept: int = 0

    @property
    def total(self) -> int:
        return sum(self.flops.values())

    def seconds(self, card: Card) -> float:
        """Time on a card at :data:`UTILISATION` of its peak rate."""
        return sum(count / card.rate(kind) for kind, count in self.flops.items()) / 1e12 / UTILISATION

    def computed(self, precision: Precision) -> Figures:
        """The same in another precision, in which what was single precision is now: all that is counted are products of
        matrices and convolutions, which it turns to. Memory is left as it is, and then is what is needed at most."""
        flops = Counter[str]()
        for kind, count in self.flops.items():
            flops[precision if kind == "fp32" else kind] += count
        return replace(self, flops=dict(flops))


class Meter(TorchDispatchMode):
    """Counts operations and live bytes of whatever runs inside, on tensors with or without data.

    What comes in from outside, weights among it, is not counted as memory.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._live: dict[int, int] = {}
        self._now, self._peak = 0, 0
        self._flops: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for tensor in _tensors((args, kwargs)):
            self._meet(tensor, inside=False)
        result = func(*args, **kwargs)
        made = list(_tensors(result))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None and made:
            name = _NAMES.get(made[0].dtype, "other")
            self._flops[name] += int(formula(*args, **kwargs, out_val=result))
        for tensor in made:
            self._meet(tensor, inside=True)
        return result

    def _meet(self, tensor: Tensor, *, inside: bool) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live:
            return
        size = storage.nbytes() if inside else 0
        self._live[key] = size
        self._now += size
        self._peak = max(self._peak, self._now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._now -= self._live.pop(key, 0)

    def add(self, figures: Figures) -> None:
        """Counts work that is known already and not done again."""
        self._flops.update(figures.flops)
        self._peak = max(self._peak, self._now + figures.peak)

    def figures(self) -> Figures:
        """What was counted up to now."""
        return Figures(dict(self._flops), self._peak, self._now)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Inside, counts from nothing; afterwards goes on as before."""
        before = self._now, self._peak, self._flops
        self._now, self._peak, self._flops = 0, 0, Counter()
        try:
            yield
        finally:
            kept = self._now
            self._now, self._peak, self._flops = before
            self._now += kept  # what is still alive will be forgotten here

    def rest(self) -> Figures:
        """What was counted up to now; the peak is counted anew, from what is alive."""
        figures = self.figures()
        self._peak, self._flops = self._now, Counter()
        return figures


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


class _Fused(TorchFunctionMode):
    """Attention as graphics cards compute it, without a matrix of scores in memory: on the meta device PyTorch takes
    the other way."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and len(args) == 3 and args[0].is_meta and args[0].ndim == 4:
            plain = kwargs.get("attn_mask") is None and not kwargs.get("is_causal") and not kwargs.get("dropout_p")
            if plain:
                graph = torch.is_grad_enabled()
                return torch.ops.aten._scaled_dot_product_efficient_attention(*args, None, graph)[0]
        return func(*args, **kwargs)


class _Known(torch.autograd.Function):
    """A call of a network whose figures are known: only the shapes are right, and the meter is told."""

    @staticmethod
    def forward(ctx: Any, meter: Meter, call: _Call, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.meter, ctx.back = meter, call.back
        meter.add(call.there)
        kept = torch.empty(call.there.kept, dtype=torch.uint8, device="meta")
        ctx.save_for_backward(kept, *inputs)
        return tuple(torch.empty_like(leaf) if leaf.is_meta else leaf for leaf in call.outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        ctx.meter.add(ctx.back)
        _, *inputs = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        return None, None, *(torch.empty_like(x) if w else None for x, w in zip(inputs, wanted, strict=True))


@dataclass(frozen=True)
class _Call:
    """What a call of a network takes, there and back, and tensors like those that it returns."""

    there: Figures
    back: Figures
    outputs: list[Tensor]
    shape: TreeSpec


# The calls of large networks that are measured once and then only counted.
_COUNTED: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (DiffusionBackbone, ("noise", "encode_frames", "decode_frames")),
    (FlowEstimator, ("features", "match")),
)


class Accountant:
    """Measures defended classifiers on the meta device; equal parts of them are copied and measured once."""

    def __init__(self) -> None:
        self._copies: dict[int, Any] = {}
        self._alive: list[Any] = []  # ids are of use while their objects live
        self._known: dict[tuple[Any, ...], _Call] = {}
        self._meter = Meter()

    def measure(self, defended: DefendedClassifier, shape: tuple[int, ...], gradient: Gradient | None) -> Figures:
        """What one clip takes.

        Args:
            shape: of a clip, ``(3, T, H, W)``.
            gradient: how the defence is differentiated; ``None`` for the answer alone.

        Raises:
            RuntimeError, NotImplementedError, TypeError: something in it needs data, and what else it may raise.
        """
        moved = self.copied(defended)
        view = moved if gradient is None else moved.with_gradient(gradient)
        return self.call(
            lambda clips: _answer(view, clips), torch.empty(1, *shape, device="meta"), gradient is not None
        )

    def call(self, work: Callable[[Tensor], Tensor], x: Tensor, graph: bool) -> Figures:
        """What ``work(x)`` takes, and the way back to ``x`` with it if ``graph``."""
        self._meter = meter = Meter()
        leaf = x.detach().requires_grad_(graph)
        with _Fused(), meter, torch.set_grad_enabled(graph):
            answer = work(leaf)
            if graph:
                torch.autograd.grad(answer, leaf, torch.empty_like(answer))
            del answer
        return meter.figures()

    def copied(self, module: M) -> M:
        """A copy of a module on the meta device; nothing is copied that has data."""
        self._alive.append(module)
        for tensor in chain(module.parameters(), module.buffers()):
            if id(tensor) not in self._copies:
                empty = torch.empty_like(tensor, device="meta")
                is_weight = isinstance(tensor, nn.Parameter)
                self._copies[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_weight else empty
        moved = copy.deepcopy(module, self._copies)
        for part in list(moved.modules()):
            for kind, names in _COUNTED:
                if isinstance(part, kind) and not hasattr(part, "_counted"):
                    part.__class__ = self._counting(type(part), names)
        return moved

    def _counting(self, kind: type[nn.Module], names: Iterable[str]) -> type[nn.Module]:
        """A class like ``kind`` whose methods of these names are measured at their first call with inputs of a shape;
        a class, because networks are copied while they work."""

        def method(name: str) -> Callable[..., Any]:
            def counted(network: nn.Module, *inputs: Any) -> Any:
                return self._counted(partial(getattr(kind, name), network), network, name, inputs)

            return counted

        return type(kind.__name__, (kind,), {"_counted": True, **{name: method(name) for name in names}})

    def _counted(self, work: Callable[..., Any], network: nn.Module, name: str, inputs: tuple[Any, ...]) -> Any:
        leaves, shape = tree_flatten(inputs)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        graph = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
        settings = sorted((k, v) for k, v in vars(network).items() if isinstance(v, bool | int | float | str))
        like = [(tuple(x.shape), x.dtype, graph and x.requires_grad) for x in tensors]
        key = (id(network._modules), name, str(settings), str(like))
        if key not in self._known:
            self._known[key] = self._first(work, leaves, shape, graph)
        call = self._known[key]
        outputs = _Known.apply(self._meter, call, *tensors)
        return tree_unflatten(list(outputs), call.shape)

    def _first(self, work: Callable[..., Any], leaves: list[Any], shape: TreeSpec, graph: bool) -> _Call:
        # A part that is computed again on the way back must not see what is saved while it is measured.
        with _Fused(), self._meter.apart(), saved_tensors_hooks(_same, _same):
            own = [x.detach().requires_grad_(graph and x.requires_grad) if isinstance(x, Tensor) else x for x in leaves]
            with torch.set_grad_enabled(graph):
                outputs, made = tree_flatten(work(*tree_unflatten(own, shape)))
            there, back = self._meter.rest(), Figures()
            if graph:
                ends = [x for x in outputs if x.requires_grad]
                begins = [x for x in own if isinstance(x, Tensor) and x.requires_grad]
                torch.autograd.grad(ends, begins, [torch.empty_like(x) for x in ends], allow_unused=True)
                after = self._meter.rest()
                back = Figures(after.flops, max(after.peak - there.kept, 0))
                del ends, begins
            alike = [torch.empty_like(x.detach()) if x.is_meta else x for x in outputs]
            del outputs
        return _Call(there, back, alike, made)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _answer(defended: DefendedClassifier, clips: Tensor) -> Tensor:
    # Whether the identity is one is a question to its data.
    bare = changes_nothing(defended.defense)
    candidates = clips[None] if bare else defended.candidates(clips, ClipRandom([0]))
    logits: Tensor = defended.classifier(candidates.flatten(0, 1).clone())  # it may work in place
    return defended.pool(logits.unflatten(0, candidates.shape[:2]))


def weight_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in chain(module.parameters(), module.buffers()))


# Side and length of the clips on which purifiers are measured that need data.
_SMALL_SIDE, _SMALL_FRAMES = 64, 8


@dataclass(frozen=True)
class RowCost:
    """What a classifier behind a defence takes of one clip.

    Attributes:
        forward: an answer.
        backward: answer and gradient, by the way of differentiating; of those ways that the plan takes.
        weights: bytes of all weights.
        note: at which clip it was measured, if at another one; or why there is no figure.
    """

    model: str
    defense: str
    forward: Figures
    backward: Mapping[str, Figures]
    weights: int
    note: str = ""

    @property
    def peak(self) -> int:
        """Most bytes that one clip needs beside the weights."""
        return max([self.forward.peak, *(figures.peak for figures in self.backward.values())])


@dataclass(frozen=True)
class Cost:
    """What a plan costs.

    Attributes:
        rows: of the plan.
        clips: how many.
        shape: of one.
        work: all operations of the plan, at most.
    """

    rows: list[RowCost]
    clips: int
    shape: tuple[int, ...]
    work: Figures

    @property
    def memory(self) -> int:
        """Most bytes that one clip needs, weights among them."""
        return max(row.peak + row.weights for row in self.rows)


def cost_of(plan: Plan) -> Cost:
    """Counts what a plan costs. Nothing is computed but shapes, and the first clip is read for its shape.

    Attacks are counted as :meth:`~bench.attack.base.Attack.passes` counts them: at most so many, since clips leave that
    are broken; the networks of an attacker's own are left out. They have the plan's precision, and the judge his own.

    Raises:
        BenchError: no clip can be read.
    """
    shape = _shape(plan.dataset, plan.refs)
    accountant, rows = Accountant(), dict[tuple[str, str], RowCost]()
    for cell in plan.cells:
        key = cell.model.label, cell.defense.label
        ways = {c.unit.gradient for c in plan.cells if c.unit and (c.model.label, c.defense.label) == key}
        if key not in rows:
            wanted: set[Gradient] = {way for way in ways if way != "none"}
            if changes_nothing(cell.defense.instance):
                wanted.add("exact")  # all that is made for transfer
            rows[key] = _row(accountant, cell.model.label, cell.defense.label, cell.defended, shape, sorted(wanted))
    work: Counter[str] = Counter()
    count = len(plan.refs)
    for cell in plan.cells:
        _add(work, rows[cell.model.label, cell.defense.label].forward, cell.queries * count)
    for unit in plan.units:
        if unit.model is None or unit.defended is None:
            continue
        behind = next((c.defense.label for c in plan.cells if unit.defense and c.defense is unit.defense), None)
        bare = next(c.defense.label for c in plan.cells if changes_nothing(c.defense.instance))
        row = rows.get((unit.model.label, behind or bare))
        if row is None:  # a classifier to transfer from
            exact: list[Gradient] = ["exact"] if unit.passes[1] else []
            row = _row(accountant, unit.model.label, "", unit.defended, shape, exact)
        forwards, backwards = unit.passes
        way = unit.gradient if unit.defense else "exact"
        both = row.backward.get(way, row.forward)
        _add(work, row.forward.computed(unit.precision), max(forwards - backwards, 0) * count)
        _add(work, both.computed(unit.precision), backwards * count)
    return Cost(list(rows.values()), count, shape, Figures(dict(work)))


def _add(work: Counter[str], figures: Figures, times: int) -> None:
    work.update({name: flops * times for name, flops in figures.flops.items()})


def _shape(dataset: Dataset, refs: Iterable[ClipRef]) -> tuple[int, ...]:
    clip = first_clip(dataset, refs)
    if clip is None:
        raise BenchError("No clip of the data set can be read, so nothing can be said of costs.")
    return tuple(clip.shape)


def _row(
    accountant: Accountant,
    model: str,
    defense: str,
    defended: DefendedClassifier,
    shape: tuple[int, ...],
    ways: Iterable[Gradient],
) -> RowCost:
    weights, note = weight_bytes(defended), ""
    backward: dict[str, Figures] = {}
    try:
        forward = accountant.measure(defended, shape, None)
        for way in ways:
            backward[way] = accountant.measure(defended, shape, way)
    except Exception as error:  # noqa: BLE001 - whatever needs data says so in a way of its own
        found = _scaled(accountant, defended, shape, ways)
        if found is None:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            return RowCost(model, defense, Figures(), {}, weights, f"not measured: {reason}")
        forward, backward, note = found
    return RowCost(model, defense, forward, backward, weights, note)


def _scaled(
    accountant: Accountant, defended: DefendedClassifier, shape: tuple[int, ...], ways: Iterable[Gradient]
) -> tuple[Figures, dict[str, Figures], str] | None:
    """The classifier on the meta device, and the purifier, which needs data, on a small clip and scaled by its size."""
    purifier = defended.purifier
    if purifier is None:
        return None
    _, frames, height, width = shape
    small = (3, min(frames, _SMALL_FRAMES), min(height, _SMALL_SIDE), min(width, _SMALL_SIDE))
    clip = torch.rand(1, *small, generator=torch.Generator().manual_seed(0))
    size = math.prod(shape) / math.prod(small)

    def classify(clips: Tensor) -> Tensor:
        logits: Tensor = classifier(clips)
        return logits

    try:
        classifier = accountant.copied(defended.classifier)
        meta = torch.empty(1, *shape, device="meta")
        bare, both = (accountant.call(classify, meta, graph) for graph in (False, True))

        def purify(clips: Tensor, way: Gradient) -> Tensor:
            return defended.with_gradient(way).candidates(clips, ClipRandom([0]))

        own = accountant.call(lambda clips: purify(clips, "none"), clip, False)
        backward: dict[str, Figures] = {
            way: _sum(both, accountant.call(lambda clips, way=way: purify(clips, way), clip, True), size)  # type: ignore[misc]
            for way in ways
        }
    except Exception:  # noqa: BLE001 - then there is no figure, and the first reason is said
        return None
    note = f"defence measured at {small[1]}x{small[2]}x{small[3]}"
    return _sum(bare, own, size), backward, note


def _sum(classifier: Figures, purifier: Figures, size: float) -> Figures:
    flops = Counter(dict(classifier.flops))
    flops.update({name: round(count * size) for name, count in purifier.flops.items()})
    return Figures(dict(flops), classifier.peak + round(purifier.peak * size))
