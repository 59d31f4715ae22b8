"""Base classes of defences: what a contributor derives from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.seeds import ClipRandom


class Purifier(nn.Module, ABC):
    """A defence that changes the clip at test time and leaves the classifier alone.

    Implement :meth:`purify`, and say in the class attributes what is true of it:

    Attributes:
        differentiable: whether autograd passes through :meth:`purify`. If not, the ``exact`` gradient is
            refused and the adaptive attacker uses ``bpda``.
        stochastic: whether :meth:`purify` draws from ``rng``. Attacks then never stop at a lucky draw.
        identity: whether the clip comes back unchanged (the undefended baseline).
        vote: how several candidates decide: ``plurality`` of their classes, ties to the lowest, or the largest
            ``mean`` probability.
        moves: attacks that ``adaptive`` runs against it beside those known for its kind, written as the columns of
            grids are: ``"tt+exact"``. They add to the list and take nothing from it.
    """

    kind: ClassVar[str] = "defense"
    differentiable: ClassVar[bool] = True
    stochastic: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    vote: Literal["plurality", "mean"] = "plurality"
    moves: ClassVar[Sequence[str]] = ()

    @abstractmethod
    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        """Purifies a batch.

        Args:
            clips: ``float32 (B, 3, T, H, W)`` in ``[0, 1]``.
            rng: the only allowed source of randomness, one stream per clip.

        Returns:
            ``(B, 3, T, H, W)``, or ``(V, B, 3, T, H, W)`` for ``V`` candidates that vote. Time and frame
            size may change; the classifier must take them.
        """

    def measure(self, clips: Tensor) -> Tensor | None:
        """A number per clip, ``(B,)``, that the purifier lowers and attacks raise; ``None`` if it has none.

        It is recorded of every clip that is judged, as it comes and purified. The first of the two makes a detector of
        the defence, and tables give the area under its ROC curve.
        """
        return None

    def bpda(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        """What ``bpda`` differentiates in place of :meth:`purify`: the identity, unless overridden.

        ``rng`` replays the draws that the call of :meth:`purify` on the same clips made. The result has the
        shape that :meth:`purify` returns, or that of one candidate, which then stands for all of them. So a
        purifier that changes the number or size of the frames needs a stand-in of its own.
        """
        return clips

    def surrogate(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        """What ``surrogate`` differentiates in place of :meth:`purify`: the same process, made cheaper.

        For a diffusion purifier, fewer and larger steps (Lee and Kim, ICCV 2023). ``rng`` and the result are as for
        :meth:`bpda`. Purifiers that do not override it have no such gradient.
        """
        raise NotImplementedError(f"{type(self).__name__} has no cheaper process that stands for it")

    def lowpass(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        """What ``bpda-lowpass`` differentiates in place of :meth:`purify`: a filter that keeps what the purifier keeps.

        For one that removes what is fine and leaves what is coarse, a filter is a better stand-in than the identity,
        which stays what ``bpda`` means. ``rng`` and the result are as for :meth:`bpda`. Purifiers that do not override
        it have no such gradient.
        """
        raise NotImplementedError(f"{type(self).__name__} has no filter that stands for it")

    def deviation(self, clips: Tensor, rng: ClipRandom) -> tuple[Tensor, Tensor]:
        """What :meth:`purify` returns, and a second objective ``(B,)`` that ``diffattack`` maximises with its own.

        For a diffusion purifier, how far denoising strays from the trajectory of the noising (Kang, Song and Li,
        NeurIPS 2023). Purifiers that do not override it have no such gradient.
        """
        raise NotImplementedError(f"{type(self).__name__} has no trajectory to deviate from")


class Filter(Purifier):
    """A purifier that is its own stand-in: ``bpda`` goes back through it, as its derivative leads attacks further than
    the identity does (``docs/attacks.md``)."""

    def bpda(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        return self.purify(clips, rng)


class InTurn(Purifier):
    """A purifier whose candidates come one after another: implement :meth:`in_turn` in place of :meth:`purify`.

    Where they vote by ``plurality`` and nothing is measured of them, the judge hands clips over one by one and asks for
    no more candidates than it takes to decide. What is attacked, and what is judged, is this one method.
    """

    @property
    @abstractmethod
    def voters(self) -> int:
        """How many candidates there are."""

    @abstractmethod
    def in_turn(self, clips: Tensor, rng: ClipRandom) -> Iterator[Tensor]:
        """The candidates, each ``(B, 3, T, H, W)``, none of which should be made before it is asked for."""

    def purify(self, clips: Tensor, rng: ClipRandom) -> Tensor:
        found = list(self.in_turn(clips, rng))
        return torch.stack(found) if len(found) > 1 else found[0]


class RobustModel(ABC):
    """A defence that changes the network or its weights: it turns a classifier into another one.

    Attributes:
        stochastic: whether the wrapped network draws random numbers in evaluation mode.
        moves: see :attr:`Purifier.moves`.
    """

    kind: ClassVar[str] = "defense"
    stochastic: ClassVar[bool] = False
    moves: ClassVar[Sequence[str]] = ()

    @abstractmethod
    def wrap(self, classifier: nn.Module) -> nn.Module:
        """Returns the robust classifier: clips ``(B, 3, T, H, W)`` to logits ``(B, K)``.

        Called once per classifier and run. ``classifier`` is a copy that may be changed in place. Whatever decides
        the result must be a parameter of the constructor or a weight of the returned network: these identify the
        stored outcomes.
        """


Defense = Purifier | RobustModel


def changes_nothing(defense: Defense) -> bool:
    """Whether this is the undefended baseline, see :attr:`Purifier.identity`."""
    return isinstance(defense, Purifier) and defense.identity
