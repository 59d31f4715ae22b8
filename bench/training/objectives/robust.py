"""Training classifiers on attacked clips: one attack or several, and networks built for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.attack.base import Attack
from bench.defense.trained import Behind, transform_of
from bench.errors import BenchError, nearest
from bench.models.multibn import BRANCHES, NORMS, Branches, MultiBN
from bench.models.robust import entry_name, rebuilt
from bench.registry import ATTACKS, Spec
from bench.seeds import ClipRandom
from bench.threat.budgets import Budget
from bench.threat.norms import Linf
from bench.threat.regions import Rectangle
from bench.training.data import some_of, split_of
from bench.training.objectives.classifier import Classification, accuracy, labelled, proportion
from bench.weights.files import load_checkpoint, load_strictly

# Lo and Patel (IEEE TIP 2022): side of the rectangle, width of the border and number of pixels in frames of 112 x 112.
_SIDE, _WIDTH, _PIXELS, _FRAME = 30, 10, 100, 112
# The way of their five steps, which fewer steps share: 1/255 each for PGD, 70/255 for the others; for PGD in l2 and
# MultAV, which only the networks compared with OUDefend see, 1 and a hundredth.
_LP_WAY, _REGION_WAY = 5 / 255, 350 / 255
_L2_WAY, _MULT_WAY = 5.0, 0.05
_EPS = 4 / 255
# Attacks that are not registered by their own name: PGD-L2 starts from the clean clip (docs/decisions.md).
_MADE_BY: dict[str, tuple[str, dict[str, Any]]] = {"pgd_l2": ("pgd", {"start": "clean"})}
ATTACKED = ("pgd", "roa", "af", "spa")
# Whose branch of MultiBN they belong to.
_BRANCH = {"clean": "clean", "pgd": "lp", "spa": "lp", "roa": "physical", "af": "physical"}
_CHUNK = 25


def budget_of(attack: str, side: int, steps: int, sizes: Mapping[str, float] | None = None) -> Budget:
    """The threat model of MultiBN for one of its four attacks, or of OUDefend for the two that it adds, on frames whose
    shorter side is ``side`` pixels.

    Args:
        sizes: of some attacks; for the others, 4/255, a ball of 160 and ratios of 1.04, and rectangles, borders and
            pixels that take the same part of the frame as in the paper.

    Raises:
        BenchError: it is none of ``pgd``, ``pgd_l2``, ``multav``, ``roa``, ``af`` and ``spa``.
    """
    part = side / _FRAME
    known = {
        "pgd": ("linf", _EPS, _LP_WAY),
        "pgd_l2": ("l2", 160, _L2_WAY),
        "multav": ("mult-linf", 0.04, _MULT_WAY),
        "roa": ("rectangle", round(_SIDE * part), _REGION_WAY),
        "af": ("border", round(_WIDTH * part), _REGION_WAY),
        "spa": ("pixels", round(_PIXELS * part**2), _REGION_WAY),
    }
    for name in (attack, *(sizes or {})):
        if name not in known:
            raise BenchError(f"Unknown attack {name!r}{nearest(name, known)}; known: {', '.join(known)}.")
    norm, size, way = known[attack]
    return Budget(norm, float((sizes or {}).get(attack, size)), steps, way / steps)


def crafted(
    network: nn.Module, attack: str, clips: Tensor, labels: Tensor, budget: Budget, generator: torch.Generator
) -> Tensor:
    """Attacked clips of one training step: the last iterate, against a network in evaluation mode."""
    name, options = _MADE_BY.get(attack, (attack, {}))
    last_iterate: Attack = ATTACKS.create(Spec(name, {"keep": "last", **options}))
    return last_iterate(network, clips, labels, budget, _streams(clips, generator)).clips


def _streams(clips: Tensor, generator: torch.Generator) -> ClipRandom:
    """One random stream per clip of a training step."""
    return ClipRandom(torch.randint(2**62, (len(clips),), generator=generator).tolist())


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while, without gradients of the weights."""
    modes = [(module, module.training) for module in network.modules()]
    trained = [p for p in network.parameters() if p.requires_grad]
    network.eval()
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter in trained:
            parameter.requires_grad_(True)


class RobustClassification(Classification):
    """What the training family shares: the network, its attacks, and its figures.

    Args:
        attacks: those of the training, of ``pgd``, ``pgd_l2``, ``multav``, ``roa``, ``af``, ``spa``; their budgets are
            :func:`budget_of`.
        steps: of each attack; five in the paper.
        sizes: of some attacks' budgets, see :func:`budget_of`.
        architecture: what the classifier is turned into, of
            :data:`~bench.models.robust.ARCHITECTURES`; ``architecture_options`` are its arguments.

    Attributes:
        test_clips: attacked clips of the measured figures; ``test_steps``: of each attack on them, which keep the worst
            iterate.
        source: the publication.
    """

    kind = "robust"
    clean_clips: ClassVar[int] = 200
    test_clips: ClassVar[int] = 50
    test_steps: ClassVar[int] = 10
    valid_clips: ClassVar[int] = 48
    source: ClassVar[str] = ""

    def __init__(
        self,
        attacks: Sequence[str] = ("pgd",),
        steps: int = 5,
        sizes: Mapping[str, float] | None = None,
        architecture: str = "plain",
        architecture_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.attacks, self.steps, self.sizes = tuple(attacks), steps, dict(sizes or {})
        for attack in self.attacks:  # refuses an unknown one now
            budget_of(attack, _FRAME, steps, self.sizes)
        self.architecture, self.architecture_options = architecture, dict(architecture_options or {})

    def build(self, model: str, dataset: str, seed: int = 0) -> nn.Module:
        classifier = super().build(model, dataset, seed)
        network = rebuilt(self.architecture, classifier, seed, self.architecture_options).train()
        if isinstance(network, MultiBN) and network.selector is not None:
            network.selector.requires_grad_(True)
        # What the classifier keeps as it is, such as the flow estimator of a flow stream, stays so.
        kept = tuple(getattr(classifier, "frozen", ()))
        for path, module in network.named_modules():
            if path in kept or path.endswith(tuple(f".{name}" for name in kept)):
                module.eval()
        return network

    def adopt(self, network: nn.Module, state: Mapping[str, Tensor], path: Path, model: str, dataset: str) -> None:
        """The weights are those of the plain classifier; what the robust network adds keeps its own."""
        classifier = super().build(model, dataset, 0)
        load_strictly(classifier, state, path)
        whole = network.state_dict()
        known = rebuilt(self.architecture, classifier, 0, self.architecture_options).state_dict()
        added = self._added(network)
        network.load_state_dict({k: whole[k] if k.startswith(added) else v for k, v in known.items()})

    def _added(self, network: nn.Module) -> tuple[str, ...]:
        """Prefixes of what the classifier's weights do not reach."""
        parts = ("defence", "selector")
        return tuple(f"{name}." for name, _ in network.named_modules() if name.rpartition(".")[2] in parts)

    def entry(self, model: str, recipe: str) -> dict[str, Any]:
        return {
            "model": entry_name(model, recipe),
            "base": model,
            "architecture": self.architecture,
            "architecture_options": self.architecture_options,
            "source": self.source,
        }

    def budget(self, attack: str, clips: Tensor, steps: int | None = None) -> Budget:
        """Of an attack on these clips ``(B, 3, T, H, W)``, in as many steps as in training if not said otherwise."""
        return budget_of(attack, min(clips.shape[3:]), steps or self.steps, self.sizes)

    def attacked(
        self, network: nn.Module, clips: Tensor, labels: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """The batch under each attack of the training."""
        with evaluating(network):
            return {
                a: crafted(self.facing(network, a), a, clips, labels, self.budget(a, clips), generator)
                for a in self.attacks
            }

    def facing(self, network: nn.Module, attack: str) -> nn.Module:
        """What an attack is made on, and its clips are judged by, ``clean`` for none: the network as it answers."""
        return network

    @torch.no_grad()
    def validate(self, network: nn.Module, dataset: str, device: torch.device) -> dict[str, float]:
        """Accuracy on clips of the split ``val``, clean and under the attacks of the training, and the clips that are
        right throughout."""
        data = split_of(dataset, "val")
        refs = some_of(data, self.valid_clips)
        generator = torch.Generator().manual_seed(0)
        parts: dict[str, list[Tensor]] = {name: [] for name in ("clean", *self.attacks)}
        with evaluating(network):
            for start in range(0, len(refs), _CHUNK):
                clips, labels = (t.to(device) for t in labelled(data, refs[start : start + _CHUNK]))
                for attack in parts:
                    faced, attacked = self.facing(network, attack), clips
                    if attack != "clean":
                        with torch.enable_grad():
                            attacked = crafted(faced, attack, clips, labels, self.budget(attack, clips), generator)
                    parts[attack].append(faced(attacked).argmax(1) == labels)
        right = {name: torch.cat(hits) for name, hits in parts.items()}
        union = torch.stack(list(right.values())).all(0)
        return {f"val_{k}": float(v.float().mean()) for k, v in {**right, "union": union}.items()}

    def measure(self, network: nn.Module, dataset: str, device: torch.device) -> dict[str, Any]:
        """Accuracy on clean clips and, on fewer, under the four attacks, with their union: the clips that are right
        clean and under all four."""
        data = split_of(dataset, "test")
        refs = some_of(data, self.clean_clips)
        clean: list[Tensor] = []
        hits: dict[str, list[Tensor]] = {name: [] for name in ATTACKED}
        for start in range(0, len(refs), _CHUNK):
            chunk = refs[start : start + _CHUNK]
            clips, labels = (t.to(device) for t in labelled(data, chunk))
            with torch.no_grad():
                clean.append(self.facing(network, "clean")(clips).argmax(1) == labels)
            if start >= self.test_clips:
                continue
            for name in ATTACKED:
                attack: Attack = ATTACKS.create(name)
                rng = ClipRandom.for_clips([r.id for r in chunk], "measure", name)
                faced = self.facing(network, name)
                attacked = attack(faced, clips, labels, self.budget(name, clips, self.test_steps), rng).clips
                with torch.no_grad():
                    hits[name].append(faced(attacked).argmax(1) == labels)
        right = {name: torch.cat(parts) for name, parts in hits.items()}
        standard = torch.cat(clean)
        union = torch.stack([standard[: len(right["pgd"])], *right.values()]).all(0)
        return {
            "clean": proportion(int(standard.sum()), len(standard)),
            **{name: proportion(int(r.sum()), len(r)) for name, r in right.items()},
            "union": proportion(int(union.sum()), len(union)),
        }


class AdversarialTraining(RobustClassification):
    """Cross-entropy on attacked clips.

    Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018.

    Of several attacks, the mean over all (``avg``) or, clip by clip, the largest (``max``): Tramer and Boneh,
    Adversarial Training and Robustness for Multiple Perturbations, NeurIPS 2019. The largest is chosen by the network
    in evaluation mode, and what was not chosen takes no part in the training. The published code of MultiBN picks the
    largest for a whole batch; per clip is what the method says (``docs/decisions.md``).

    Args:
        clean: whether clean clips take part, too, as the comparison of MultiBN has it for both; without attacks, they
            alone.
        combine: ``avg`` or ``max``.
        behind: a transform, such as ``halftone``, through which the network sees every clip, in training and in its
            figures; attacks differentiate its stand-in where it has no gradient, see
            :class:`~bench.defense.trained.Behind`.
        attacks, steps, sizes, architecture, architecture_options: see :class:`RobustClassification`.
    """

    source = (
        "Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018; Tramer and Boneh, "
        "Adversarial Training and Robustness for Multiple Perturbations, NeurIPS 2019"
    )

    def __init__(
        self, clean: bool = False, combine: Literal["avg", "max"] = "avg", behind: str = "", **shared: Any
    ) -> None:
        super().__init__(**shared)
        if combine not in ("avg", "max"):
            raise ValueError(f"combine must be avg or max, not {combine!r}")
        if not self.attacks and (combine == "max" or not clean):
            raise ValueError("there is nothing to train on: name attacks, or ask for clean clips alone")
        self.clean, self.combine = clean, combine
        self.transform = transform_of(behind) if behind else None

    def facing(self, network: nn.Module, attack: str) -> nn.Module:
        return Behind(self.transform, network) if self.transform is not None else network

    def loss(
        self, network: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, float]]:
        clips, labels = batch
        attacked = self.attacked(network, clips, labels, generator)
        if self.combine == "max":
            attacked = {"max": self._worst(network, list(attacked.values()), labels)}
        named = {**({"clean": clips} if self.clean else {}), **attacked}
        # One pass over everything, as published: batch normalisation learns the statistics of the mixture.
        logits = self.facing(network, "")(torch.cat(list(named.values())))
        figures = {k: accuracy(part, labels) for k, part in zip(named, logits.chunk(len(named)), strict=True)}
        return F.cross_entropy(logits, labels.repeat(len(named))), figures

    @torch.no_grad()
    def _worst(self, network: nn.Module, attacked: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Of each clip the version of the largest loss, by the network in evaluation mode."""
        faced = self.facing(network, "")
        with evaluating(network):
            losses = torch.stack([F.cross_entropy(faced(x), labels, reduction="none") for x in attacked])
        return torch.stack(list(attacked))[losses.argmax(0), torch.arange(len(labels), device=labels.device)]


class Trades(RobustClassification):
    """``CE(f(x), y) + beta * KL(p(x) || p(x'))``, with ``x'`` the clip in the linf ball that maximises the divergence
    (Zhang et al., Theoretically Principled Trade-off between Robustness and Accuracy, ICML 2019). As in the published
    code, ``p(x)`` is not detached, and clean and attacked clips go through the network apart.

    Args:
        beta: weight of the divergence; 6 in the published script.
        attacks: must be ``pgd``, whose ball it is.
        steps, sizes, architecture, architecture_options: see :class:`RobustClassification`.
    """

    source = "Zhang et al., Theoretically Principled Trade-off between Robustness and Accuracy, ICML 2019"

    def __init__(self, beta: float = 6.0, **shared: Any) -> None:
        super().__init__(**shared)
        if self.attacks != ("pgd",):
            raise ValueError(f"TRADES is defined in the linf ball of pgd, not for {', '.join(self.attacks)}")
        self.beta = beta

    def loss(
        self, network: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, float]]:
        clips, labels = batch
        with evaluating(network):
            moved = self._diverging(network, clips, generator)
        # Passes of their own, in the published order: in one batch, normalisation would mix clean and attacked clips,
        # and by the second clean pass its running statistics are of clean clips twice.
        clean, attacked, again = network(clips), network(moved), network(clips)
        divergence = F.kl_div(attacked.log_softmax(1), again.log_softmax(1), reduction="batchmean", log_target=True)
        figures = {"clean": accuracy(clean, labels), "pgd": accuracy(attacked, labels)}
        return F.cross_entropy(clean, labels) + self.beta * divergence, figures

    def _diverging(self, network: nn.Module, clips: Tensor, generator: torch.Generator) -> Tensor:
        budget = self.budget("pgd", clips)
        with torch.no_grad():
            clean = network(clips).log_softmax(1)
        x = clips + 0.001 * torch.randn(clips.shape, generator=generator).to(clips)
        for _ in range(self.steps):
            x = x.detach().requires_grad_(True)
            divergence = F.kl_div(network(x).log_softmax(1), clean, reduction="sum", log_target=True)
            (gradient,) = torch.autograd.grad(divergence, x)
            assert budget.step_size is not None
            x = Linf().project(x.detach() + budget.step_size * gradient.sign(), clips, budget.size)
        return x.detach()


class SteepestDescent(RobustClassification):
    """Multi steepest descent: one perturbation, of which every step takes the threat that raises the loss most (Maini,
    Wong and Kolter, Adversarial Robustness Against the Union of Multiple Perturbation Models, ICML 2020).

    For rectangles it is not defined by its authors. Here (``docs/decisions.md``) the rectangles are drawn once per
    clip; the candidate of ROA starts grey inside them, that of PGD stays in its ball; the best perturbation seen is
    trained on, with clean clips beside it. A first grey step rarely wins, so that what comes out is close to PGD.
    """

    source = (
        "Maini, Wong and Kolter, Adversarial Robustness Against the Union of Multiple Perturbation Models, ICML 2020"
    )

    def __init__(self, **shared: Any) -> None:
        super().__init__(**{"attacks": ("pgd", "roa"), **shared})
        if self.attacks != ("pgd", "roa"):
            raise ValueError(f"MSD is built for pgd and roa, not for {', '.join(self.attacks)}")

    def loss(
        self, network: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, float]]:
        clips, labels = batch
        with evaluating(network):
            worst, boxed = self.steepest(network, clips, labels, generator)
        logits = network(torch.cat([clips, worst]))
        clean, attacked = logits.chunk(2)
        figures = {"clean": accuracy(clean, labels), "msd": accuracy(attacked, labels), "boxed": boxed}
        return F.cross_entropy(logits, labels.repeat(2)), figures

    def steepest(
        self, network: nn.Module, clips: Tensor, labels: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, float]:
        """The attacked clips, and the share of steps on which the rectangle was taken."""
        lp, patch = (self.budget(name, clips) for name in ("pgd", "roa"))
        assert lp.step_size is not None
        assert patch.step_size is not None
        mask = Rectangle().random_masks(clips, patch.size, _streams(clips, generator))
        x, best = clips, clips
        highest = torch.full((len(clips),), -torch.inf, device=clips.device)
        painted = torch.zeros(len(clips), dtype=torch.bool, device=clips.device)
        taken = 0.0
        for _ in range(self.steps):
            x = x.detach().requires_grad_(True)
            loss = F.cross_entropy(network(x), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x)
            with torch.no_grad():
                moved = Linf().project(x + lp.step_size * gradient.sign(), clips, lp.size)
                inside = torch.where(painted.view(-1, 1, 1, 1, 1), x + patch.step_size * gradient.sign(), 0.5)
                boxed = torch.where(mask, inside.clamp(0, 1), clips)
                both = [F.cross_entropy(network(c), labels, reduction="none") for c in (moved, boxed)]
                choose = both[1] > both[0]
                painted |= choose
                taken += float(choose.float().mean()) / self.steps
                x = torch.where(choose.view(-1, 1, 1, 1, 1), boxed, moved)
                value = torch.where(choose, both[1], both[0])
                better = value > highest
                best = torch.where(better.view(-1, 1, 1, 1, 1), x, best)
                highest = torch.where(better, value, highest)
        return best.detach(), taken


class BranchTraining(RobustClassification):
    """First stage of MultiBN: clean, PGD and ROA clips in one batch, each third through its own branch, each attack
    made through its own branch (Lo and Patel, Defending Against Multiple and Unforeseen Adversarial Videos, IEEE TIP
    2022, stage view).

    There is no selection yet: its figures are those of an oracle, which sends clean clips, PGD and SPA, and ROA and AF
    through their own branches. The exported network answers by the clean branch.
    """

    source = "Lo and Patel, Defending Against Multiple and Unforeseen Adversarial Videos, IEEE TIP 2022"

    def __init__(self, **shared: Any) -> None:
        options = {"selector": "none", "select": "clean", **shared.pop("architecture_options", {})}
        super().__init__(
            **{"attacks": ("pgd", "roa"), "architecture": "multibn", "architecture_options": options, **shared}
        )
        if self.attacks != ("pgd", "roa") or self.architecture != "multibn":
            raise ValueError("MultiBN has branches for clean clips, pgd and roa")

    def facing(self, network: nn.Module, attack: str) -> nn.Module:
        return _Through(cast(MultiBN, network), BRANCHES.index(_BRANCH[attack]))

    def loss(
        self, network: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, float]]:
        clips, labels = batch
        net = cast(MultiBN, network)
        shown = [clips, *self.attacked(net, clips, labels, generator).values()]
        branch = torch.arange(len(shown), device=clips.device).repeat_interleave(len(clips))
        logits = net.through(torch.cat(shown), branch)
        figures = {
            name: accuracy(part, labels)
            for name, part in zip(("clean", *self.attacks), logits.chunk(len(shown)), strict=True)
        }
        return F.cross_entropy(logits, labels.repeat(len(shown))), figures


class _Through(nn.Module):
    """A MultiBN network all of whose clips take one branch."""

    def __init__(self, network: MultiBN, branch: int) -> None:
        super().__init__()
        self.network, self.branch = network, branch

    def forward(self, clips: Tensor) -> Tensor:
        return self.network.through(clips, self.branch)


class SelectionTraining(RobustClassification):
    """Second stage of MultiBN: the selection module and the classifier together, end to end.

    ``CE(f(x_k; rho), y) + weight * CE(selection(x_k), k)`` for clean, PGD and ROA clips, the attacks made on the whole
    network ("canonical"). There is no published code of this stage, so what follows is our choice
    (``docs/decisions.md``): one kind goes through at a time, and only its own branch uses and learns statistics of the
    batch; the selection module sees all three kinds in one batch, whose statistics would otherwise betray them;
    normalisations that the branches share stay as they are.

    Args:
        weight: of the selection, lambda in the paper, which gives no value; 1 is our choice.
        gumbel: temperature of a Gumbel-softmax in place of the softmax that weighs the branches, which the slides offer
            (Jang, Gu and Poole, Categorical Reparameterization with Gumbel-Softmax, ICLR 2017; they name no
            temperature); 0 for the softmax. In training only: attacks and the finished network weigh by the softmax, so
            that the defence draws nothing.
        attacks, steps, sizes, architecture_options: see :class:`RobustClassification`.
    """

    source = "Lo and Patel, Defending Against Multiple and Unforeseen Adversarial Videos, IEEE TIP 2022"

    def __init__(self, weight: float = 1.0, gumbel: float = 0.0, **shared: Any) -> None:
        super().__init__(**{"attacks": ("pgd", "roa"), "architecture": "multibn", **shared})
        if self.attacks != ("pgd", "roa") or self.architecture != "multibn":
            raise ValueError("MultiBN has branches for clean clips, pgd and roa")
        if not 0 <= gumbel < float("inf"):
            raise ValueError(f"gumbel must be a temperature, or 0 for the softmax, not {gumbel!r}")
        self.weight, self.gumbel = weight, gumbel

    def read(self, path: Path, model: str) -> Mapping[str, Tensor]:
        return load_checkpoint(path)  # of the whole first stage, not of the classifier in it

    def adopt(self, network: nn.Module, state: Mapping[str, Tensor], path: Path, model: str, dataset: str) -> None:
        """The weights are those of the first stage, which has no selection module."""
        added = {k: v for k, v in network.state_dict().items() if k.startswith("selector.")}
        load_strictly(network, {**state, **added}, path)

    def loss(
        self, network: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator
    ) -> tuple[Tensor, Mapping[str, float]]:
        clips, labels = batch
        net = cast(MultiBN, network)
        shown = [clips, *self.attacked(net, clips, labels, generator).values()]
        kinds = torch.arange(len(shown), device=clips.device).repeat_interleave(len(clips))
        selection = net.selection(torch.cat(shown))
        mixing = gumbel_logits(selection, self.gumbel, generator) if self.gumbel else selection
        with _shared_norms_frozen(net):
            parts = [net.mixed(x, s, k) for k, (x, s) in enumerate(zip(shown, mixing.chunk(len(shown)), strict=True))]
        right = F.cross_entropy(torch.cat(parts), labels.repeat(len(shown)))
        chosen = F.cross_entropy(selection, kinds)
        figures = {name: accuracy(p, labels) for name, p in zip(("clean", *self.attacks), parts, strict=True)}
        return right + self.weight * chosen, {**figures, "selection": accuracy(selection, kinds)}


def gumbel_logits(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Logits ``(B, K)`` whose softmax is a draw of the Gumbel-softmax: each plus Gumbel noise, over the temperature."""
    even = torch.rand(logits.shape, generator=generator, dtype=torch.float64).clamp_min(torch.finfo(torch.float64).tiny)
    return (logits - even.log().neg().log().to(logits)) / temperature


@contextmanager
def _shared_norms_frozen(network: MultiBN) -> Iterator[None]:
    """Normalisations without branches use what they know: one kind at a time would teach each of them three things."""
    inside = {m for b in network.classifier.modules() if isinstance(b, Branches) for m in b.modules()}
    norms = [m for m in network.classifier.modules() if isinstance(m, NORMS) and m not in inside]
    modes = [(norm, norm.training) for norm in norms]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm, training in modes:
            norm.training = training
