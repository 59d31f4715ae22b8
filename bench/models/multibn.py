"""MultiBN: one set of convolutions, several batch normalisations, and a network that weighs them (Lo and Patel,
Defending Against Multiple and Unforeseen Adversarial Videos, IEEE TIP 2022)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import BenchError

BRANCHES = ("clean", "lp", "physical")

_SHORTCUTS = ("downsample", "shortcut")
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass
class Route:
    """How the branches of one network are used in the forward pass under way; all its layers look here.

    Attributes:
        weights: ``(B, K)``, how much of each branch a clip gets; ``None`` where it gets one branch only.
        branch: ``int64 (B,)``, that branch.
        learning: the one branch that normalises by the statistics of the batch and keeps them, where a network in
            training mode is given weights; the others use what they know.
    """

    weights: Tensor | None = None
    branch: Tensor | None = None
    learning: int | None = None


class Branches(nn.Module):
    """Several batch normalisations in place of one, which each of them starts as a copy of.

    Args:
        norm: the layer that is replaced.
        count: number of branches.
        route: which branches to use, shared by all layers of a network.
    """

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d, count: int, route: Route) -> None:
        super().__init__()
        self.branches = nn.ModuleList([_copied(norm) for _ in range(count)])
        self.route = route

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, ...)`` to the same shape."""
        weights, branch = self.route.weights, self.route.branch
        if branch is not None:
            return self._one_each(x, branch)
        assert weights is not None  # MultiBN.forward says how, before any layer is reached
        if not self.training:
            # Affine maps mix before they are applied: one pass over x instead of one for each branch.
            scale, shift = (torch.stack(t) for t in zip(*(_affine(b) for b in self.branches), strict=True))
            shape = (len(x), -1, *([1] * (x.ndim - 2)))
            return x * (weights @ scale).view(shape) + (weights @ shift).view(shape)
        normalised = [self._normalised(x, b, k == self.route.learning) for k, b in enumerate(self.branches)]
        return torch.einsum("bk,kb...->b...", weights, torch.stack(normalised))

    def _one_each(self, x: Tensor, branch: Tensor) -> Tensor:
        normalised = torch.empty_like(x)
        for k, norm in enumerate(self.branches):
            rows = branch == k
            if rows.any():
                normalised[rows] = norm(x[rows])
        return normalised

    @staticmethod
    def _normalised(x: Tensor, norm: nn.Module, learning: bool) -> Tensor:
        assert isinstance(norm, NORMS)
        if learning:
            return norm(x)
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


def _copied(norm: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) -> nn.Module:
    fresh = type(norm)(norm.num_features, norm.eps, norm.momentum, norm.affine)
    fresh.load_state_dict(norm.state_dict())
    return fresh.train(norm.training)


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Factor and offset ``(C,)`` of a batch normalisation in evaluation mode."""
    assert isinstance(norm, NORMS)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - scale * norm.running_mean


def branched(network: nn.Module, route: Route, count: int = len(BRANCHES), shortcuts: bool = False) -> nn.Module:
    """Replaces the batch normalisations of a network by branches, in place.

    Args:
        shortcuts: whether those of shortcuts (modules named ``downsample`` or ``shortcut``) get branches too. The
            published code leaves them shared, against the paper's words.

    Raises:
        BenchError: the network has none.
    """
    norms = [
        (path, module)
        for path, module in network.named_modules()
        if isinstance(module, NORMS) and (shortcuts or not any(part in _SHORTCUTS for part in path.split(".")))
    ]
    if not norms:
        raise BenchError(
            f"MultiBN needs batch normalisation, and {type(network).__name__} has none: take a network that "
            "has, such as a 3D ResNet."
        )
    for path, module in norms:
        parent, _, name = path.rpartition(".")
        setattr(network.get_submodule(parent), name, Branches(module, count, route))
    return network


class MultiBN(nn.Module):
    """A classifier with a branch of batch normalisations for every kind of perturbation.

    The branches are ``clean``, ``lp`` (PGD; unforeseen: salt and pepper) and ``physical`` (ROA; unforeseen: framing). A
    selection module, a 3D network on the same clip, says how much of each branch the clip gets at every layer:
    ``sum_k rho_k BN_k(z)`` with ``rho`` its softmax, as in the published code; the slides also offer Gumbel-softmax,
    which the training can take (recipe ``multibn_gumbel``).

    Args:
        classifier: a network with batch normalisations, which are replaced; its weights are shared by all branches.
        selector: clips to one logit per branch, or ``None`` for branches that are chosen by hand.
        shortcuts: see :func:`branched`.
        select: ``soft``, or the name of the one branch that every clip gets.

    Raises:
        BenchError: the classifier has no batch normalisation, or there is no such branch.
    """

    def __init__(
        self, classifier: nn.Module, selector: nn.Module | None, shortcuts: bool = False, select: str = "soft"
    ) -> None:
        super().__init__()
        if select != "soft" and select not in BRANCHES:
            raise BenchError(f"MultiBN has no branch {select!r}: choose soft, {', '.join(BRANCHES)}.")
        if select == "soft" and selector is None:
            raise BenchError("MultiBN selects softly by a selection module: give one, or name a branch.")
        self._route = Route()
        self.classifier = branched(classifier, self._route, shortcuts=shortcuts)
        self.selector = selector
        self.select = select

    @property
    def selects(self) -> bool:
        """Whether :meth:`selection` decides."""
        return self.select == "soft"

    @property
    def views(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """Other ways through the network, for attacks: the mixture with a selection that takes no gradient, the even
        mixture, and each branch."""
        return {
            "frozen": lambda clips: self.mixed(clips, self.selection(clips).detach()),
            "even": lambda clips: self.mixed(clips, torch.zeros(len(clips), len(BRANCHES), device=clips.device)),
            **{name: partial(self.through, branch=k) for k, name in enumerate(BRANCHES)},
        }

    @contextmanager
    def routed(
        self, *, weights: Tensor | None = None, branch: Tensor | None = None, learning: int | None = None
    ) -> Iterator[nn.Module]:
        """The classifier, with its branches used in the way given; see :class:`Route`."""
        self._route.weights, self._route.branch, self._route.learning = weights, branch, learning
        try:
            yield self.classifier
        finally:
            self._route.weights = self._route.branch = self._route.learning = None

    def through(self, clips: Tensor, branch: int | Tensor) -> Tensor:
        """Logits ``(B, K)`` by one branch for all clips, or one for each, ``(B,)``."""
        each = torch.as_tensor(branch, device=clips.device).expand(len(clips))
        with self.routed(branch=each) as classifier:
            logits: Tensor = classifier(clips)
        return logits

    def selection(self, clips: Tensor) -> Tensor:
        """What the selection module says: logits ``(B, 3)``, one for each of :data:`BRANCHES`."""
        assert self.selector is not None
        logits: Tensor = self.selector(clips)
        return logits

    def mixed(self, clips: Tensor, selection: Tensor, learning: int | None = None) -> Tensor:
        """Logits ``(B, K)`` by a mixture of all branches, ``softmax(selection)``."""
        with self.routed(weights=selection.softmax(1), learning=learning) as classifier:
            logits: Tensor = classifier(clips)
        return logits

    def forward(self, clips: Tensor) -> Tensor:
        """Clips ``float32 (B, 3, T, H, W)`` in ``[0, 1]`` to logits ``(B, K)``."""
        if self.select == "soft":
            return self.mixed(clips, self.selection(clips))
        return self.through(clips, BRANCHES.index(self.select))


def from_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames the parameters of a classifier from the published layout, where the branches of ``bn1`` are ``bn1``,
    ``bn1_b`` and ``bn1_c``, to that of :func:`branched`."""
    branches = {name.split(".")[-2].removesuffix("_b") for name in state if ".running_mean" in name and "_b." in name}
    renamed = {}
    for name, value in state.items():
        *path, leaf = name.split(".")
        module = path[-1] if path else ""
        stem, number = module, 0
        for suffix, k in (("_b", 1), ("_c", 2)):
            if module.endswith(suffix):
                stem, number = module.removesuffix(suffix), k
        if stem in branches and not any(part in _SHORTCUTS for part in path):
            path[-1] = f"{stem}.branches.{number}"
        renamed[".".join([*path, leaf])] = value
    return renamed
