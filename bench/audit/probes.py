"""Probes of the audit: short questions to a defended classifier that stored outcomes cannot answer.

Each looks for one way in which a defence can seem robust without being so. They follow Carlini et al., "On Evaluating
Adversarial Robustness" (2019), section 3, AutoAttack's flags (Croce and Hein, ICML 2020), and Athalye et al. (ICML
2018) for what masks a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.attack.losses import cross_entropy
from bench.audit.room import Room
from bench.defense.base import Purifier
from bench.defense.defended import DefendedClassifier, why_not
from bench.errors import BenchError, Impossible
from bench.faults import charge_no_machine
from bench.modes import computing
from bench.records.audits import Finding, Severity
from bench.records.identity import Gradient
from bench.registry import ATTACKS
from bench.run.alone import slopes
from bench.seeds import ClipRandom
from bench.threat.budgets import Budget

# Logits of unit length that differ by more than this are different answers (AutoAttack's threshold).
_SAME = 1e-4
# Draws that decide whether a clip is broken.
_DRAWS = 10
LARGE = 64 / 255
# Of intensity, along the sign of a gradient, to see whether the loss rises.
_SMALL_STEP = 0.25 / 255


@dataclass(frozen=True)
class ProbedRow:
    """The clips of a row that are asked again, and how.

    Attributes:
        make: makes the defended classifier anew, with nothing in its memory.
        clips: clean, ``(n, 3, T, H, W)``; ids, labels ``(n,)``: theirs. By the stored outcomes all are right without an
            attack.
        gradient: how the attacker differentiates the defence.
        budget: of the row.
        salt: seeds all random numbers: a defence that knew the streams could behave when they come.
        room: how many clips are asked at once; all of them if not given, and fewer where memory is lacking.
    """

    make: Callable[[], DefendedClassifier]
    clips: Tensor
    ids: Sequence[str]
    labels: Tensor
    gradient: Gradient
    budget: Budget
    salt: str = ""
    room: Room = field(default_factory=lambda: Room(2**31))

    def part(self, which: slice) -> ProbedRow:
        """Some of the clips."""
        return replace(self, clips=self.clips[which], ids=self.ids[which], labels=self.labels[which])

    def each(self, ask: Callable[[ProbedRow], Tensor]) -> Tensor:
        """What ``ask`` says of every clip, ``(n, ...)``: asked in as many portions as the memory wants."""
        return torch.cat(self.room.each(len(self.ids), lambda which: ask(self.part(which))))

    def named(self, which: Tensor) -> list[str]:
        """Ids of the clips where ``which (n,)`` is true."""
        return [i for i, hit in zip(self.ids, which.tolist(), strict=True) if hit]

    def accuracies(self, defended: DefendedClassifier, clips: Tensor, key: str) -> Tensor:
        """Share of fresh draws in which each clip is right, ``(n,)``."""
        draws = _DRAWS if defended.stochastic else 1

        def right(which: slice, draw: int) -> Tensor:
            rng = ClipRandom.for_clips(self.ids[which], "audit", self.salt, key, draw)
            return defended.decide(clips[which], rng).prediction == self.labels[which].cpu()

        found = [torch.cat(self.room.each(len(clips), partial(right, draw=draw))) for draw in range(draws)]
        return torch.stack(found).double().mean(0)

    def attacked(self, attack: str, budget: Budget, gradient: Gradient | None = None, key: str = "") -> Tensor:
        """Adversarial clips of an attack through the defence."""
        defended = self.make().with_gradient(gradient or self.gradient)

        def made(part: ProbedRow) -> Tensor:
            target = defended.target(ClipRandom.for_clips(part.ids, "audit", self.salt, attack, key, "defence"))
            rng = ClipRandom.for_clips(part.ids, "audit", self.salt, attack, key)
            return ATTACKS.create(attack)(target, part.clips, part.labels, budget, rng).clips

        return self.each(made)

    def broken_by(self, attack: str, budget: Budget, gradient: Gradient | None = None) -> Tensor:
        """Which clips an attack through the defence breaks: wrong in most fresh draws, ``bool (n,)``."""
        clips = self.attacked(attack, budget, gradient)
        return self.accuracies(self.make(), clips, f"judge {attack}") < 0.5

    def logits(self, defended: DefendedClassifier, clips: Tensor, key: object) -> Tensor:
        """What the defended classifier answers to one draw, on the CPU."""

        def answers(which: slice) -> Tensor:
            rng = ClipRandom.for_clips(self.ids[which], "audit", self.salt, key)
            with torch.no_grad():
                return defended(clips[which], rng).double().cpu()

        return torch.cat(self.room.each(len(clips), answers))

    def noisy(self) -> Tensor:
        """The clips with random noise of the budget's size."""
        rng = ClipRandom.for_clips(self.ids, "audit", self.salt, "noise")
        return self.budget.geometry.random_start(self.clips, self.budget.size, rng)


def _unit(logits: Tensor) -> Tensor:
    return logits / logits.norm(dim=1, keepdim=True).clamp_min(1e-12)


def slopes_as_probed(probed: ProbedRow, clips: Tensor, tokens: Sequence[str]) -> Tensor:
    """What :func:`bench.run.alone.slopes` finds where the probes ask, to be compared with what it finds elsewhere."""
    return torch.cat(
        [
            slopes(probed.make(), probed.gradient, clip[None].to(probed.clips.device), [token], probed.salt)
            for clip, token in zip(clips, tokens, strict=True)
        ]
    )


def _differ(one: Tensor, other: Tensor) -> Tensor:
    """Rows of logits that are not the same answer, ``bool (n,)``."""
    return ~((_unit(one) - _unit(other)).abs().amax(1) <= _SAME)


def randomness_is_declared(probed: ProbedRow) -> Finding | None:
    """All randomness must come from the generator passed in, and be declared: attacks stop at the first success against
    a defence that says it is deterministic, and one that draws elsewhere cannot be judged twice alike."""
    defended = probed.make()
    same = probed.logits(defended, probed.clips, 0)
    again = [probed.logits(probed.make(), probed.clips, 0) for _ in range(2)]
    other = [probed.logits(probed.make(), probed.clips, seed) for seed in range(1, 5)]
    hidden = torch.stack([_differ(same, a) for a in again]).any(0)
    drawn = torch.stack([_differ(same, o) for o in other]).any(0)
    if hidden.any():
        message = "The same question with the same seed gets different answers: randomness does not come from rng."
        return Finding(check="hidden randomness", severity="fault", message=message, clips=probed.named(hidden))
    if drawn.any() and not defended.stochastic:
        message = "Answers depend on the seed, but the defence says stochastic = False: attacks stop at a lucky draw."
        return Finding(check="hidden randomness", severity="fault", message=message, clips=probed.named(drawn))
    return None


def memory_is_empty(probed: ProbedRow) -> Finding | None:
    """An answer must not depend on earlier questions: a defence that remembers the clean clip, or counts, is not one
    that meets an attacker's clip first."""
    noisy = probed.noisy()
    fresh = probed.logits(probed.make(), noisy, 0)
    used = probed.make()
    probed.logits(used, probed.clips, 0)
    for _ in range(3):
        probed.logits(used, noisy, 1)
    probed.logits(used, probed.clips, 2)
    changed = _differ(fresh, probed.logits(used, noisy, 0))
    if not changed.any():
        return None
    message = "The answer to a clip depends on what was asked before it."
    return Finding(check="memory", severity="fault", message=message, clips=probed.named(changed))


def clips_are_independent(probed: ProbedRow) -> Finding | None:
    """A clip's answer must not depend on the other clips of its batch."""
    if len(probed.clips) < 2:
        return None
    several = replace(probed, room=Room(max(2, probed.room.clips)))
    together = several.logits(probed.make(), probed.clips, 0)
    alone = replace(probed, room=Room(1)).logits(probed.make(), probed.clips, 0)
    differ = ~((_unit(together) - _unit(alone)).abs().amax(1) <= 100 * _SAME)
    if not differ.any():
        return None
    message = "A clip's answer depends on the other clips of its batch."
    return Finding(check="batch", severity="fault", message=message, clips=probed.named(differ))


def outputs_are_logits(probed: ProbedRow) -> Finding | None:
    """Probabilities in place of logits: the loss saturates, and its gradient vanishes, at confident answers."""
    defended = probed.make()

    def probabilities(part: ProbedRow) -> Tensor:
        with torch.no_grad():
            raw = defended.vote_logits(part.clips, ClipRandom.for_clips(part.ids, "audit", part.salt, 0)).double()
        sums = (raw.sum(-1) - 1).abs() < 1e-5
        return (sums & (raw >= 0).all(-1) & (raw <= 1).all(-1)).all(0)  # of every vote

    if not bool(probed.each(probabilities).all()):
        return None
    message = "The classifier returns probabilities instead of logits: losses saturate where it is confident."
    return Finding(check="softmax", severity="warning", message=message)


@contextmanager
def _watch_autograd(seen: list[str]) -> Iterator[None]:
    grad, backward = torch.autograd.grad, torch.autograd.backward

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            return real(*args, **kwargs)

        return call

    torch.autograd.grad = watched("grad", grad)
    torch.autograd.backward = watched("backward", backward)
    try:
        yield
    finally:
        torch.autograd.grad, torch.autograd.backward = grad, backward


def nothing_is_optimised(probed: ProbedRow) -> Finding | None:
    """A defence that differentiates while it answers adapts to the attack; standard attacks do not (Croce et al., ICML
    2022). A closed form of the same optimisation is not noticed, nor are ``torch.func`` and functions that were
    imported by name before."""
    seen: list[str] = []
    defended = probed.make()
    with _watch_autograd(seen), torch.enable_grad():
        defended.vote_logits(probed.clips[:1], ClipRandom.for_clips(probed.ids[:1], "audit", probed.salt, 0))
    if not seen:
        return None
    message = (
        "The defence computes gradients while it answers: attack through its optimisation, and transfer from the model."
    )
    return Finding(check="dynamic", severity="note", message=message)


def _slope(part: ProbedRow, defended: DefendedClassifier, draw: int) -> Tensor:
    """Of every clip what a small step along the gradient's sign promises, what it gains, and 1 where the gradient is
    of no use, ``float64 (n, 3)``."""
    noisy = part.noisy()
    rng = ClipRandom.for_clips(part.ids, "audit", part.salt, "slope", draw)
    value, gradient, _ = defended.target(rng.clone()).gradient(noisy, None, part.labels, cross_entropy)
    size = gradient.flatten(1).double().abs()
    unusable = ~torch.isfinite(size).all(1) | (size.amax(1) == 0)
    moved = (noisy + _SMALL_STEP * torch.nan_to_num(gradient).sign()).clamp(0, 1)
    with torch.no_grad():
        after = cross_entropy(defended(moved, rng.clone()), part.labels)
    promised = ((moved - noisy).abs().double() * torch.nan_to_num(gradient).double().abs()).flatten(1).sum(1)
    return torch.stack([promised, (after - value).double(), unusable.double()], 1).cpu()


def gradients_lead_uphill(probed: ProbedRow) -> list[Finding]:
    """The gradient that the attacker follows must exist, be finite, and point where the loss rises.

    A step of a quarter of an intensity level along its sign is compared with the rise it promises, averaged over the
    same draws. Where most clips gain less than a tenth, the gradient belongs to another function than the one that
    answers.
    """
    defended = probed.make().with_gradient(probed.gradient)
    draws = _DRAWS if defended.stochastic else 1
    found = torch.stack([probed.each(partial(_slope, defended=defended, draw=draw)) for draw in range(draws)]).sum(0)
    promised, gained, unusable = found[:, 0], found[:, 1], found[:, 2] > 0
    findings = []
    if unusable.any():
        message = (
            f"The {probed.gradient} gradient is zero or not finite on {int(unusable.sum())} of {len(unusable)} clips."
        )
        findings.append(Finding(check="gradient", severity="fault", message=message, clips=probed.named(unusable)))
    # Where the loss is flat to rounding, rise and promise are both nothing.
    steep = ~unusable & (promised > 1e-6 * draws)
    down, idle = steep & (gained < -0.1 * promised), steep & (gained.abs() <= 0.1 * promised)
    for which, words in ((down, "falls"), (idle, "hardly moves")):
        if 2 * int(which.sum()) > int(steep.sum()):
            message = (
                f"The loss {words} along the {probed.gradient} gradient on {int(which.sum())} of {int(steep.sum())} "
                "clips: it is not the gradient of what answers."
            )
            severity: Severity = "fault" if probed.gradient == "exact" else "warning"
            findings.append(Finding(check="slope", severity=severity, message=message, clips=probed.named(which)))
    return findings


def everything_falls_to_a_large_budget(probed: ProbedRow) -> Finding | None:
    """At 64/255 every frame can be made gray-ish noise: what is still right above chance is right for another
    reason."""
    defended = probed.make()
    with torch.no_grad():
        classes = defended(probed.clips[:1], ClipRandom.for_clips(probed.ids[:1], "audit", probed.salt, 0)).shape[1]
    clips = probed.attacked("pgd", Budget("linf", LARGE, steps=probed.budget.steps), key="large")
    accuracies = probed.accuracies(probed.make(), clips, "large")
    chance = 1 / classes
    expected = len(accuracies) * chance
    spread = (len(accuracies) * chance * (1 - chance)) ** 0.5
    if float(accuracies.sum()) <= expected + 2 * spread:
        return None
    message = f"{accuracies.sum():.3g} of {len(accuracies)} clips are right at 64/255; chance would be {expected:.2g}."
    return Finding(check="large budget", severity="fault", message=message, clips=probed.named(accuracies >= 0.5))


class _Wrapper(Purifier):
    """Does nothing, without saying so."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips * 1


class _Nothing(_Wrapper):
    identity = True

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return clips


def _attacked_behind(part: ProbedRow, classifier: nn.Module, defense: Purifier) -> Tensor:
    rng = ClipRandom.for_clips(part.ids, "audit", part.salt, "empty")
    target = DefendedClassifier(classifier, defense).target(rng)
    rng = ClipRandom.for_clips(part.ids, "audit", part.salt, "empty attack")
    return ATTACKS.create("pgd")(target, part.clips, part.labels, part.budget, rng).clips


def an_empty_defence_changes_nothing(probed: ProbedRow) -> Finding | None:
    """Behind a defence that does nothing the attack must find the clips that it finds on the bare classifier, to the
    last bit: else it is the benchmark that masks something."""
    classifier = probed.make().classifier
    attacked = []
    for defense in (_Nothing(), _Nothing(), _Wrapper()):
        attacked.append(probed.each(partial(_attacked_behind, classifier=classifier, defense=defense)))
    bare, again, behind = attacked
    # On a GPU some sums have no fixed order: where the bare classifier does not repeat itself, nothing can be told.
    differ = ((bare == again) & (bare != behind)).flatten(1).any(1) & (bare == again).flatten(1).all(1)
    if not differ.any():
        return None
    message = "Behind a defence that does nothing, PGD finds other clips than on the bare classifier."
    return Finding(check="empty defence", severity="fault", message=message, clips=probed.named(differ))


def size_and_noise_are_what_they_seem(probed: ProbedRow) -> list[Finding]:
    """A larger budget must break more, and noise of the same size must not break what the attack leaves."""
    label = "eot(draws=10)" if probed.make().stochastic else "pgd"
    half, whole, twice = (
        probed.broken_by(label, replace(probed.budget.scaled(f), step_size=None)) for f in (0.5, 1, 2)
    )
    findings = []
    for less, more, words in ((half, whole, "half the"), (whole, twice, "the whole")):
        back = less & ~more
        if int(more.sum()) < int(less.sum()) - 1:
            message = f"With twice the size, {label} breaks fewer clips than with {words} budget."
            findings.append(Finding(check="budget", severity="fault", message=message, clips=probed.named(back)))
    by_luck = (probed.accuracies(probed.make(), probed.noisy(), "noise") < 0.5) & ~whole
    # Of a randomised defence one clip may be wrong in most draws by chance.
    if int(by_luck.sum()) > (1 if probed.make().stochastic else 0):
        message = f"Random noise breaks {int(by_luck.sum())} clips that {label} leaves."
        findings.append(Finding(check="noise", severity="fault", message=message, clips=probed.named(by_luck)))
    return findings


def the_attack_has_converged(probed: ProbedRow) -> list[Finding]:
    """More effort, other losses, one step, no gradient at all: none may break much that the row's attack leaves."""
    label = "eot(draws=10)" if probed.make().stochastic else "pgd"
    broken = probed.broken_by(label, probed.budget)
    more = replace(probed.budget, steps=2 * probed.budget.steps, restarts=2)
    findings = []
    gain = probed.broken_by(label, more) & ~broken
    if int(gain.sum()) > 1:
        message = f"Twice the steps and restarts break {int(gain.sum())} clips more: the attack has not converged."
        findings.append(Finding(check="convergence", severity="warning", message=message, clips=probed.named(gain)))
    one = probed.broken_by("fgsm", probed.budget) & ~broken
    if one.any():
        message = f"A single step breaks {int(one.sum())} clips that {probed.budget.steps} steps leave."
        findings.append(Finding(check="single step", severity="warning", message=message, clips=probed.named(one)))
    known: tuple[Gradient, ...] = ("bpda", "bpda-negated", "exact")
    for gradient in known:
        if gradient == probed.gradient or why_not(probed.make().defense, gradient) is not None:
            continue
        more_broken = probed.broken_by("pgd", probed.budget, gradient) & ~broken
        if int(more_broken.sum()) > 1:
            message = f"PGD+{gradient} breaks {int(more_broken.sum())} clips that PGD+{probed.gradient} leaves."
            findings.append(
                Finding(check="other gradient", severity="warning", message=message, clips=probed.named(more_broken))
            )
    if probed.budget.norm in ("linf", "l2"):
        more_broken = probed.broken_by("square(queries=200)", probed.budget) & ~broken
        if more_broken.any():
            message = f"Square, which uses no gradient, breaks {int(more_broken.sum())} clips that {label} leaves."
            findings.append(
                Finding(check="black box", severity="fault", message=message, clips=probed.named(more_broken))
            )
    return findings


def passes(probed: ProbedRow) -> int:
    """About how many forward passes the probes spend on each clip, a backward pass counting twice."""
    b = probed.budget
    label = "eot(draws=10)" if probed.make().stochastic else "pgd"
    asked = [(label, b)] * 4 + [(label, replace(b, steps=2 * b.steps, restarts=2)), ("fgsm", b)]
    asked += [("pgd", Budget("linf", LARGE, steps=b.steps))] + [("pgd", b)] * 2
    asked += [("square(queries=200)", b)] if b.norm in ("linf", "l2") else []
    costs = [ATTACKS.create(attack).passes(budget) for attack, budget in asked]
    return sum(forwards + 2 * backwards for forwards, backwards in costs)


def probe(probed: ProbedRow) -> list[Finding]:
    """All probes. One that raises is itself a finding: whatever it met, an attack would meet too.

    Raises:
        BenchError: the question makes no sense for this defence, as when the gradient asked for does not exist.
    """
    findings: list[Finding] = []
    for check in (
        randomness_is_declared,
        memory_is_empty,
        clips_are_independent,
        outputs_are_logits,
        nothing_is_optimised,
        gradients_lead_uphill,
        an_empty_defence_changes_nothing,
        everything_falls_to_a_large_budget,
        size_and_noise_are_what_they_seem,
        the_attack_has_converged,
    ):
        try:
            with computing("fp32", probed.clips.device):  # as the judge does
                finding = check(probed)
        except Impossible as error:  # a gradient that only asking shows not to be there
            finding = Finding(check="gradient", severity="fault", message=str(error), clips=list(probed.ids))
        except BenchError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - recorded in the row's audit as a fault, never passed over
            charge_no_machine(error, "A probe of the audit could not be run")
            reason = str(error).strip().splitlines()
            message = f"{check.__name__.replace('_', ' ')}: cannot be told, {reason[0] if reason else 'no message'}."
            finding = Finding(check="gradient", severity="fault", message=message)
        findings += finding if isinstance(finding, list) else [finding] if finding is not None else []
    return [finding for i, finding in enumerate(findings) if finding not in findings[:i]]
