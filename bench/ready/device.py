"""What a GPU computes beside what the CPU computes: attacks, defences, precisions, memory, time.

Both sides get the same weights, clips and random numbers, which are the same on every device. Attacks take
signs of gradients, so that a difference in the last digit becomes one of a whole step: of an attack the share of equal
decisions says more than the largest difference; of a defence both have to be small.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.attack.base import Attack
from bench.defense.base import Defense
from bench.defense.defended import DefendedClassifier, automatic
from bench.defense.trained import TrainedDefense, know_origin
from bench.errors import BenchError
from bench.modes import Precision, computing
from bench.plan.cost import Accountant, Meter
from bench.registry import ATTACKS, DATASETS, DEFENSES, MODELS, Spec
from bench.seeds import ClipRandom
from bench.threat.budgets import Budget
from bench.weights.zoo import build_classifier, zoo_file

_DATASET = "actions12"
_MODEL, _TRAINED = "nl_tiny", "resnet3d_tiny"
_CLIPS = 4
_STEPS = 3
# Sizes of budgets under which the classifier is attacked, the first that an attack takes.
_SIZES = {
    "linf": 4 / 255,
    "l2": 1.0,
    "rectangle": 9.0,
    "border": 3.0,
    "pixels": 40.0,
    "mult-linf": 0.1,
    "flicker": 0.1,
    "one-frame": 0.1,
    "framing": 2.0,
}
# Fewer queries and steps than by default: all is to be done in minutes.
_LIGHT: dict[str, dict[str, Any]] = {
    "autoattack": {"queries": 12, "targets": 2, "confirm": 2, "draws": 2},
    "eot": {"draws": 2},
    "smoothed": {"copies": 2},
    "square": {"queries": 12},
    "rays": {"queries": 12},
    "vbad": {"queries": 12, "samples": 4},
    "astfocus": {"queries": 12, "samples": 4},
    "motion_i": {"lambdas": [1.0]},
    "motion_ii": {"lambdas": [10.0]},
    "joint_flow": {"mus": [1.0]},
    "adaptive": {"looks": 2},
    "torchattacks": {"name": "PGD"},
    "af_universal": {"framing": "black"},
    "ddim_inversion": {"steps": 2},
    "diffpure_ddim": {"steps": 2},
    "diffpure_ddpm": {"steps": 2},
    "diffpure_fixed": {"steps": 2},
    "diffpure_sde": {"steps": 2},
    "videopure": {"steps": 2},
    "motion_consistency": {"steps": 2},
    "adversarial_training": {"recipe": "trades"},
    "fab": {"targets": 1},
    "oudefend": {"stages": [3], "base_width": 4},
}


@dataclass(frozen=True)
class Finding:
    """One comparison.

    Attributes:
        part: ``attack``, ``defence``, ``precision``, ``memory`` or ``time``.
        name: what was compared.
        largest: difference, in the units of what was compared; ``None`` if it was not.
        agree: share of clips on which both sides decide alike; ``None`` if nothing is decided.
        here, there: of the CPU and of the device: bytes, predicted and true, or seconds per clip.
        note: why it was left out, or what the numbers are.
    """

    part: str
    name: str
    largest: float | None = None
    agree: float | None = None
    here: float | None = None
    there: float | None = None
    note: str = ""


@dataclass
class DeviceReport:
    """All comparisons of a device.

    Attributes:
        device: its name.
        findings: in the order in which they were made.
        left_out: names of those for which no time was left.
        seconds: wall time.
    """

    device: str
    findings: list[Finding] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def wrong(self) -> list[Finding]:
        """Defences that decide otherwise on the device, on clips that are clear."""
        return [f for f in self.findings if f.part == "defence" and f.agree is not None and f.agree < 1]

    def to_json(self) -> str:
        """All of it, for programs."""
        return json.dumps(asdict(self), indent=1)

    def to_markdown(self) -> str:
        """All of it, for people."""
        lines = [
            f"# {self.device} beside the CPU",
            "",
            f"{len(self.findings)} comparisons in {self.seconds:.0f} s.",
            "",
        ]
        lines += ["| Part | Name | Largest difference | Agree | CPU | Device | |", "|---|---|---:|---:|---:|---:|---|"]
        for one in self.findings:
            numbers = ("-" if n is None else f"{n:.3g}" for n in (one.largest, one.agree, one.here, one.there))
            lines.append(f"| {one.part} | {one.name} | {' | '.join(numbers)} | {one.note} |")
        if self.left_out:
            lines += ["", f"Left out, as the time was over: {', '.join(self.left_out)}."]
        return "\n".join(lines) + "\n"


# Attacks that take minutes on a CPU come last.
_LONG = ("fab", "autoattack", "adaptive")

Work = Callable[[], Finding]


def check_device(
    device: torch.device, minutes: float = 5.0, parts: Iterable[str] = (), watch: Callable[[str], None] | None = None
) -> DeviceReport:
    """Compares a device with the CPU, until the time is over.

    Args:
        device: a GPU; the CPU itself, for tests, differs in nothing.
        minutes: after which no further comparison begins.
        parts: names of what to compare; everything if empty.
        watch: is told what is compared.
    """
    begun = time.monotonic()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    report = DeviceReport(name)
    wanted = set(parts)
    for what, work in _works(device):
        if wanted and what not in wanted:
            continue
        if time.monotonic() - begun > 60 * minutes:
            report.left_out.append(what)
            continue
        if watch is not None:
            watch(what)
        try:
            report.findings.append(work())
        except Exception as error:  # noqa: BLE001 - one comparison must not stop the others
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            part = what.partition(" ")[0]
            report.findings.append(Finding(part, what.partition(" ")[2], note=f"left out: {reason}"))
    report.seconds = time.monotonic() - begun
    return report


def _works(device: torch.device) -> Iterator[tuple[str, Work]]:
    """All comparisons by name, those that matter most first."""
    side = _Sides(device)
    for entry in DEFENSES:
        yield f"defence {entry.name}", lambda name=entry.name: _defense(side, name)  # type: ignore[misc]
    for kind in ("fp32", "tf32", "fp16", "bf16"):
        yield f"precision {kind}", lambda kind=kind: _precision(side, kind)  # type: ignore[misc]
    for batch in (1, _CLIPS):
        yield f"memory {batch} clips", lambda batch=batch: _memory(side, batch)  # type: ignore[misc]
    for way in ("answer", "gradient"):
        yield f"time {way}", lambda way=way: _time(side, way)  # type: ignore[misc]
    for change in ("channels_last_3d", "compiled", "tf32", "bf16"):
        yield f"time {change}", lambda change=change: _changed(side, change)  # type: ignore[misc]
    yield "time upload", lambda: _upload(side)
    for entry in sorted(ATTACKS, key=lambda entry: (entry.name in _LONG, entry.name != "pgd")):
        yield f"attack {entry.name}", lambda name=entry.name: _attack(side, name)  # type: ignore[misc]


class _Sides:
    """Clips and classifiers on the CPU and on the device."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.cpu = device, torch.device("cpu")
        dataset = DATASETS.create(_DATASET)
        refs = dataset.refs()[:_CLIPS]
        self.clips = torch.stack([dataset.load(ref) for ref in refs])
        self.labels = torch.tensor([ref.label for ref in refs])

    def defended(self, spec: Spec, gradient: Any = "none") -> list[DefendedClassifier]:
        """A defence around a shipped classifier, on both sides."""
        found = []
        for device in (self.cpu, self.device):
            defense: Defense = DEFENSES.create(spec)
            model = _TRAINED if isinstance(defense, TrainedDefense) else _MODEL
            network = build_classifier(Spec(model), zoo_file(model, _DATASET))
            know_origin(network, model, _DATASET)
            made = DefendedClassifier(network, defense, "none")
            way = automatic(defense) if gradient == "auto" else gradient
            found.append(copy.deepcopy(made).to(device).with_gradient(way))
        return found

    def random(self) -> ClipRandom:
        return ClipRandom(range(len(self.clips)))


def _light(name: str) -> Spec:
    return Spec(name, _LIGHT.get(name, {}))


def _share(one: Tensor, other: Tensor) -> float:
    return float((one == other).double().mean())


def _defense(side: _Sides, name: str) -> Finding:
    """Purified clips, decisions and the gradient of an attacker who names none."""
    views = side.defended(_light(name), "auto")
    decisions, gradients = [], []
    for view in views:
        with computing("fp32", _of(view)):  # as the judge does
            decisions.append(view.decide(side.clips.to(_of(view)), side.random()))
            gradients.append(_gradient(view, side.clips, side.labels, side.random()))
    one, other = (d.purified.cpu().float() for d in decisions)
    away = float((gradients[0] - gradients[1]).norm() / gradients[0].norm().clamp_min(1e-12))
    return Finding(
        "defence",
        name,
        largest=float((one - other).abs().max()),
        agree=_share(decisions[0].prediction, decisions[1].prediction),
        note=f"relative difference of gradients {away:.2g}",
    )


def _gradient(view: DefendedClassifier, clips: Tensor, labels: Tensor, rng: ClipRandom) -> Tensor:
    x = clips.to(_of(view), copy=True).requires_grad_(True)
    loss = F.cross_entropy(view(x, rng), labels.to(x.device), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    return gradient.cpu()


def _of(view: nn.Module) -> torch.device:
    return next(view.parameters()).device


def _attack(side: _Sides, name: str) -> Finding:
    attack: Attack = ATTACKS.create(_light(name))
    budget = _budget(attack)
    views = side.defended(Spec("none"), "exact")
    found, decided = [], []
    begun = time.perf_counter()
    for view in views:
        device = _of(view)
        target = view.target(side.random())
        with computing("fp32", device):
            result = attack(target, side.clips.to(device), side.labels.to(device), budget, side.random())
            found.append(result.clips.detach().cpu())
            decided.append(view.decide(result.clips.to(device), side.random()).prediction)
    apart = (found[0] - found[1]).abs()
    return Finding(
        "attack",
        name,
        largest=float(apart.max()),
        agree=_share(*decided),
        note=f"{budget.norm} {budget.size:.3g}; {100 * float((apart > 1e-4).double().mean()):.2g} % of values differ; "
        f"{time.perf_counter() - begun:.1f} s for both",
    )


def _budget(attack: Attack) -> Budget:
    """The first budget that an attack takes.

    Raises:
        BenchError: there is none here.
    """
    for norm, size in _SIZES.items():
        if norm not in attack.norms:
            continue
        budget = Budget(norm, size, steps=_STEPS)
        try:
            attack.check(budget)
        except BenchError:
            continue
        return budget
    raise BenchError(f"there is no budget here for {', '.join(attack.norms)}")


def _precision(side: _Sides, kind: str) -> Finding:
    """Logits of the bare classifier on the device in a number format, beside those of the CPU in single precision."""
    here, there = (view.classifier for view in side.defended(Spec("none")))
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = kind == "tf32"
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(kind)
    try:
        with torch.no_grad():
            expected = here(side.clips)
            with torch.autocast(side.device.type, dtype=half, enabled=half is not None):
                found = there(side.clips.to(side.device)).float().cpu()
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    largest = float((expected - found).abs().max())
    return Finding("precision", kind, largest, _share(expected.argmax(1), found.argmax(1)), note="of logits")


def _memory(side: _Sides, batch: int) -> Finding:
    """Bytes that a gradient takes: as ``bench run --dry-run`` counts them, and as they are."""
    here, there = side.defended(Spec("none"), "exact")
    clips, labels = side.clips[:batch], side.labels[:batch]
    counted = Accountant().measure(here, tuple(clips.shape[1:]), "exact").peak * batch
    rng = ClipRandom(range(batch))
    if side.device.type == "cuda":
        _gradient(there, clips, labels, rng.clone())  # libraries take what they keep
        torch.cuda.synchronize(side.device)
        torch.cuda.reset_peak_memory_stats(side.device)
        before = torch.cuda.memory_allocated(side.device)
        _gradient(there, clips, labels, rng)
        true = torch.cuda.max_memory_allocated(side.device) - before
    else:
        with Meter() as meter:
            _gradient(there, clips, labels, rng)
        true = meter.figures().peak
    return Finding("memory", f"{batch} clips", here=float(counted), there=float(true), note="bytes, counted and true")


def _time(side: _Sides, way: str) -> Finding:
    views = side.defended(Spec("none"), "exact")
    taken = []
    for view in views:
        for _ in range(2):  # the first time is not like the others
            begun = time.perf_counter()
            if way == "gradient":
                _gradient(view, side.clips, side.labels, side.random())
            else:
                view.decide(side.clips.to(_of(view)), side.random())
            seconds = (time.perf_counter() - begun) / len(side.clips)
        taken.append(seconds)
    return Finding("time", way, here=taken[0], there=taken[1], note=f"seconds per clip, batch of {len(side.clips)}")


def _changed(side: _Sides, change: str) -> Finding:
    """What an attack's pass takes on the device as it is, and with a change that is said to make it faster; on a GPU
    that of the published non-local network on a clip of full size."""
    large = side.device.type == "cuda"
    network: nn.Module = MODELS.create("nl_r50(num_classes=101)" if large else _MODEL).to(side.device).eval()
    shape = (2, 3, 32, 224, 224) if large else tuple(side.clips.shape)
    clips = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(side.device)
    labels = torch.zeros(len(clips), dtype=torch.long, device=side.device)
    precision: Precision = "tf32" if change == "tf32" and large else "bf16" if change == "bf16" else "fp32"

    def seconds(network: Callable[[Tensor], Tensor], clips: Tensor, precision: Precision) -> tuple[float, Tensor]:
        with computing(precision, side.device):
            for _ in range(3):  # the first are not like the others: kernels are chosen, or written
                x = clips.detach().requires_grad_(True)
                begun = _now(side.device)
                logits = network(x)
                torch.autograd.grad(F.cross_entropy(logits.float(), labels, reduction="sum"), x)
                taken = (_now(side.device) - begun) / len(clips)
        return taken, logits.detach().float()

    plain, expected = seconds(network, clips, "fp32")
    if change == "channels_last_3d":
        layout: Any = {"memory_format": torch.channels_last_3d}
        network, clips = network.to(**layout), clips.to(**layout)
    ready: Callable[[Tensor], Tensor] = torch.compile(network) if change == "compiled" else network
    changed, found = seconds(ready, clips, precision)
    away = float((expected - found).abs().max())
    return Finding(
        "time", change, away, here=plain, there=changed, note="seconds per clip on the device, before and with"
    )


def _upload(side: _Sides) -> Finding:
    """What bringing a batch of full-size clips to the device takes, from ordinary memory and from memory that stays in
    its place."""
    shape = (8, 3, 32, 224, 224) if side.device.type == "cuda" else tuple(side.clips.shape)
    taken = []
    for pinned in (False, side.device.type == "cuda"):
        clips = torch.zeros(shape, pin_memory=pinned)
        for _ in range(3):
            begun = _now(side.device)
            clips.to(side.device, non_blocking=pinned)
            seconds = (_now(side.device) - begun) / len(clips)
        taken.append(seconds)
    return Finding("time", "upload", here=taken[0], there=taken[1], note="seconds per clip, pageable and pinned memory")


def _now(device: torch.device) -> float:
    """Seconds, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def gpu() -> torch.device:
    """The GPU of this machine.

    Raises:
        BenchError: there is none.
    """
    if not torch.cuda.is_available():
        raise BenchError("This check compares a GPU with the CPU, and PyTorch finds no GPU on this machine.")
    return torch.device("cuda")
