"""Every attack of the library torchattacks, on clips."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from bench import Attack, AttackResult, BenchError, Budget, ClipRandom, Target, register
from bench.defense.nature import drawing_from

# By the budgets that they take: through `eps`, through a parameter `norm`, or none, as they look for the nearest clip.
_LINF = (
    *("APGD", "APGDT", "AutoAttack", "BIM", "DIFGSM", "EOTPGD", "FAB", "FFGSM", "FGSM", "Jitter", "MIFGSM", "NIFGSM"),
    *("PGD", "PGDRS", "PIFGSM", "PIFGSMPP", "RFGSM", "SINIFGSM", "SPSA", "TIFGSM", "TPGD", "UPGD"),
    *("VMIFGSM", "VNIFGSM"),
)
_L2 = ("APGD", "APGDT", "AutoAttack", "FAB", "PGDL2", "PGDRSL2")
_NEAREST = ("CW", "DeepFool", "EADEN", "EADL1", "OnePixel", "SparseFool")
_LEFT_OUT = {
    "JSMA": "it compares all pairs of values, of which a clip has more than fit into any memory",
    "Pixle": "it takes pictures alone that are as wide as high",
    "Square": "its squares are wider than a picture of many frames; the attack square is made for clips",
    "GN": "its noise has no size, and the attack noise is there for that",
    "VANILA": "it changes nothing: the column clean is there for that",
    "LGV": "it trains networks on a data set of its own",
    "MultiAttack": "it is a list of attacks: name them one by one, and 'worst' for the worst of them",
}
# They stop at the first wrong answer, or follow a boundary, and take it for final.
_FINAL = {"FAB", *_NEAREST}


@register(
    "torchattacks", source="Kim, Torchattacks: A PyTorch Repository for Adversarial Attacks, arXiv 2010.01950, 2020"
)
class Torchattacks(Attack):
    """An attack of the library torchattacks, by its class there: ``torchattacks(name='VMIFGSM', decay=0.9)``.

    A clip is shown to it as one picture, its frames one below the other, so that what the library sums or takes the
    length of is the whole clip; operations on neighbouring pixels see the edge of a frame beside that of the next.
    Clips are attacked one by one, each with the library's generators seeded by its own stream: so no clip depends on
    its batch. Size, steps, restarts, a step's length and the norm come from the budget, whatever the library calls
    them, and what is left of its settings has the library's defaults.

    Those that look for the nearest wrong clip (CW, DeepFool, EADEN, EADL1, OnePixel, SparseFool) know no size: their
    clip is handed in if it lies within the budget, and else the clean one. GN, JSMA, LGV, MultiAttack, Pixle, Square,
    VANILA and the versions of AutoAttack that contain Square are refused, with the reason. Our own attacks of the same
    names stand beside them: ``pgd``, ``apgd``, ``fab``, ``square``, ``autoattack``.

    Needs ``pip install "videorobustbench[torchattacks]"``.

    Args:
        name: the class, such as ``PGD`` or ``VMIFGSM``.
        settings: further parameters of that class, as it calls them; numbers may be written ``1/255``.
    """

    def __init__(self, name: str, **settings: Any) -> None:
        self.name = name
        self._kind = _class(name)
        known = [p for p in inspect.signature(self._kind).parameters if p not in ("model", *_OF_BUDGET)]
        for key in settings:
            if key in _OF_BUDGET:
                raise BenchError(f"{key!r} of torchattacks' {name} comes from the budget: set {_OF_BUDGET[key]} there.")
            if key not in known:
                raise BenchError(
                    f"torchattacks' {name} has no parameter {key!r}; it takes: {', '.join(known) or 'none'}."
                )
        self.settings = {key: _number(value) for key, value in settings.items()}
        if name == "AutoAttack" and self._value("version") != "rand":
            raise BenchError(
                "torchattacks' AutoAttack contains Square, whose squares are wider than a picture of many frames: say "
                "version='rand', or take the attack autoattack."
            )
        self.decisive_only = name in _FINAL

    def check(self, budget: Budget) -> None:
        super().check(budget)
        norms = [norm for norm, names in (("linf", _LINF), ("l2", _L2)) if self.name in (*names, *_NEAREST)]
        if budget.norm not in norms:
            raise BenchError(f"torchattacks' {self.name} takes {' or '.join(norms)} budgets, not {budget.norm}.")
        if budget.restarts > 1 and "n_restarts" not in self._takes:
            raise BenchError(f"torchattacks' {self.name} knows no restarts: leave them out of its budget.")
        if budget.step_size is not None and "alpha" not in self._takes:
            raise BenchError(f"torchattacks' {self.name} chooses its own steps: leave step_size out of its budget.")

    @property
    def _takes(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self._kind).parameters

    def _value(self, key: str) -> Any:
        return self.settings[key] if key in self.settings else self._takes[key].default

    def passes(self, budget: Budget) -> tuple[int, int]:
        """About what the library does; what stops when it succeeds takes less."""
        steps = budget.steps
        each: dict[str, Callable[[], tuple[int, int]]] = {
            "APGD": lambda: ((steps + 2) * budget.restarts, (steps + 2) * budget.restarts),
            "APGDT": lambda: ((steps + 2) * 9 * budget.restarts, (steps + 2) * 9 * budget.restarts),
            "AutoAttack": lambda: (480, 480),
            "CW": lambda: (steps, steps),
            "DeepFool": lambda: (steps, 10 * steps),
            "EADEN": lambda: self._elastic(),
            "EADL1": lambda: self._elastic(),
            "EOTPGD": lambda: (steps * self._value("eot_iter"), steps * self._value("eot_iter")),
            "FAB": lambda: (2 * steps * budget.restarts + 3, 10 * steps * budget.restarts),
            "OnePixel": lambda: (400 * (steps + 2), 0),
            "PGDRS": lambda: self._smoothed(steps),
            "PGDRSL2": lambda: self._smoothed(steps),
            "SINIFGSM": lambda: (steps * self._value("m"), steps * self._value("m")),
            "SPSA": lambda: (2 * self._value("nb_iter") * self._value("nb_sample"), 0),
            "SparseFool": lambda: (400 * steps, 400 * steps),
            "UPGD": lambda: (steps * self._value("eot_iter"), steps * self._value("eot_iter")),
            "VMIFGSM": lambda: (steps * (1 + self._value("N")), steps * (1 + self._value("N"))),
            "VNIFGSM": lambda: (steps * (1 + self._value("N")), steps * (1 + self._value("N"))),
        }
        one = (1, 1) if "steps" not in self._takes and "num_iter_set" not in self._takes else (steps, steps)
        return each[self.name]() if self.name in each else one

    def _elastic(self) -> tuple[int, int]:
        times = self._value("binary_search_steps") * self._value("max_iterations")
        return 2 * times, times

    def _smoothed(self, steps: int) -> tuple[int, int]:
        return steps * self._value("noise_batch_size"), steps * self._value("noise_batch_size")

    def refuses(self, *, stochastic: bool, transfer: bool) -> str | None:
        if stochastic and self.name in _FINAL:
            return f"torchattacks' {self.name} takes one answer for final, and a randomised defence has several."
        return None

    def run(self, target: Target, clips: Tensor, labels: Tensor, budget: Budget, rng: ClipRandom) -> AttackResult:
        classes = target(clips[:1], torch.zeros(1, dtype=torch.int64)).shape[1] if "n_classes" in self._takes else 0
        found = []
        for row in range(len(clips)):
            seed = int(rng.select([row]).integers(2**31 - 1))
            pictures = _Pictures(target, row, clips.shape[2], clips.device)
            with drawing_from(seed):
                made = self._kind(pictures, **self._given(budget, row, classes, seed))
                made.set_device(clips.device)
                picture = made(_picture(clips[row : row + 1]), labels[row : row + 1])
            found.append(picture.detach().reshape(clips[row : row + 1].shape).clamp(0, 1))
        moved = torch.cat(found).to(clips.dtype)
        if self.name in _NEAREST:
            far = budget.geometry.distance(moved, clips).to(moved.device) > torch.as_tensor(
                budget.size, device=moved.device
            )
            moved = torch.where(far.view(-1, 1, 1, 1, 1), clips, moved)
        return AttackResult(moved)

    def _given(self, budget: Budget, row: int, classes: int, seed: int) -> dict[str, Any]:
        """Arguments of the library's class."""
        size = budget.size[row] if isinstance(budget.size, Tensor) else budget.size
        known: dict[str, Any] = {
            "norm": "Linf" if budget.norm == "linf" else "L2",
            "eps": float(size),
            "max_epsilon": float(size),
            "steps": budget.steps,
            "num_iter_set": budget.steps,
            "n_restarts": budget.restarts,
            "n_classes": classes,
            "seed": seed,
            **({"alpha": budget.step_size} if budget.step_size is not None else {}),
        }
        return {**{key: value for key, value in known.items() if key in self._takes}, **self.settings}


_OF_BUDGET = {
    "eps": "size",
    "max_epsilon": "size",
    "steps": "steps",
    "num_iter_set": "steps",
    "n_restarts": "restarts",
    "norm": "norm",
}
"""Parameters of the library's classes, and what gives them."""


def _picture(clips: Tensor) -> Tensor:
    """Clips ``(n, 3, T, H, W)`` as pictures ``(n, 3, T * H, W)``."""
    return clips.flatten(2, 3)


class _Pictures(nn.Module):
    """The target as the library sees it: a network on pictures, of which each is a version of one clip."""

    def __init__(self, target: Target, row: int, frames: int, device: torch.device) -> None:
        super().__init__()
        self._ask, self._row, self._frames = target, row, frames
        self.place = nn.Parameter(torch.empty(0, device=device))  # by which the library finds the device

    def forward(self, pictures: Tensor) -> Tensor:
        clips = pictures.unflatten(2, (self._frames, -1))
        return self._ask(clips, torch.full((len(clips),), self._row, dtype=torch.int64))


def _class(name: str) -> Any:
    try:
        import torchattacks
    except ImportError as error:
        raise BenchError(
            'The attack torchattacks needs the library of that name: pip install "videorobustbench[torchattacks]".'
        ) from error
    known = sorted({*_LINF, *_L2, *_NEAREST})
    if name in _LEFT_OUT:
        raise BenchError(f"torchattacks' {name} is not offered: {_LEFT_OUT[name]}.")
    if name not in known:
        raise BenchError(f"torchattacks has no {name!r} that is offered here: {', '.join(known)}.")
    return getattr(torchattacks, name)


def _number(value: Any) -> Any:
    """A setting; a text that is a fraction as a number."""
    if not isinstance(value, str):
        return value
    try:
        return float(Fraction(value.replace(" ", "")))
    except (ValueError, ZeroDivisionError):
        return value
