"""The engine that works in this process, on one device."""

from __future__ import annotations

import ctypes
import platform
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.attack import Attack
from bench.dataset import ClipRef
from bench.defended import DefendedClassifier
from bench.defense import Defense, Purifier
from bench.errors import BenchError
from bench.judge import measure, violation
from bench.outcome import Outcome
from bench.plan import Cell, ClipsUnit
from bench.registry import DEFENSES
from bench.seeds import ClipRandom
from bench.store import Adversarial

# Values of a batch that keep two CPU cores busy without leaving their caches: 16 clips of 3x16x64x64.
_CPU_BATCH_VALUES = 16 * 3 * 16 * 64 * 64
_MOST_CLIPS = 64


def pick_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one.

    Raises:
        BenchError: CUDA was asked for and is not there, or the name is not a device.
    """
    if name not in ("auto", "cpu", "cuda") and not name.startswith("cuda:"):
        raise BenchError(f"Unknown device {name!r}: choose auto, cpu or cuda.")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise BenchError("Device cuda was asked for, but PyTorch finds no GPU: use --device cpu.")
    return torch.device(name)


def keep_freed_memory() -> None:
    """Tells glibc not to hand freed memory back to the system after every pass.

    Each pass frees and takes the same hundred megabytes again; page faults then cost a tenth of a run on a CPU.
    Does nothing on other C libraries. Affects the whole process, so only the command line calls it.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of <malloc.h>
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(mmap_max, 0)


class LocalEngine:
    """Attacks and judges batches.

    Args:
        device: where the classifier and the clips go.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._bare: Defense = DEFENSES.create("none")

    def _defended(self, classifier: nn.Module, defense: Defense, gradient: str) -> DefendedClassifier:
        if isinstance(defense, Purifier):
            defense.to(self.device)
        return DefendedClassifier(classifier.to(self.device), defense, gradient)

    def batch_size(self, classifier: nn.Module, clip: Tensor) -> int:
        """A batch size for ``--batch-size auto``.

        On a CPU it follows from the clip's size; on a GPU one clip is run forward and backward and the
        batch fills 60 % of the free memory.
        """
        if self.device.type == "cpu":
            return max(1, min(_MOST_CLIPS, _CPU_BATCH_VALUES // clip.numel()))
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        x = clip[None].to(self.device).requires_grad_(True)
        torch.autograd.grad(classifier.to(self.device)(x).sum(), x)
        used = max(1, torch.cuda.max_memory_allocated(self.device) - before)
        free, _ = torch.cuda.mem_get_info(self.device)
        return max(1, min(_MOST_CLIPS, int(0.6 * free / used)))

    def attack(self, unit: ClipsUnit, refs: Sequence[ClipRef], clips: Tensor, skip: Sequence[bool]) -> Adversarial:
        """Runs an attack on a batch.

        Args:
            clips: clean, ``(B, 3, T, H, W)``, on the CPU.
            skip: clips that are already misclassified and come back as they are.
        """
        begun = time.perf_counter()
        attack: Attack = unit.attack.made
        rows = [i for i, skipped in enumerate(skip) if not skipped]
        made = Adversarial(
            clips.clone(), [False] * len(refs), [[] for _ in refs], [0] * len(refs), [0] * len(refs), 0.0
        )
        if rows:
            ids = [refs[i].id for i in rows]
            defense = unit.defense.made if unit.defense else self._bare
            model: nn.Module = unit.model.made if unit.model else nn.Identity()
            defended = self._defended(model, defense, unit.gradient if unit.defense else "exact")
            rng = ClipRandom.for_clips(ids, "defense under attack", unit.id)
            target = defended.target(rng, transfer=unit.shared)
            result = attack(
                target,
                clips[rows].to(self.device),
                torch.tensor([refs[i].label for i in rows], device=self.device),
                unit.budget,
                ClipRandom.for_clips(ids, "attack", unit.start_key),
            )
            found = result.clips.detach().cpu()
            if found.shape == clips[rows].shape:
                made.clips[rows] = found.to(made.clips.dtype)
            else:  # the judge refuses it; keep what was returned so that it can say so
                made.clips = found if len(rows) == len(refs) else made.clips.fill_(float("nan"))
            for k, i in enumerate(rows):
                made.attacked[i] = True
                made.forwards[i], made.backwards[i] = int(target.forwards[k]), int(target.backwards[k])
                if result.trace is not None:
                    made.traces[i] = [_short(v) for v in result.trace[:, k].tolist()]
        made.seconds = (time.perf_counter() - begun) / len(refs)
        return made

    def judge(
        self,
        cell: Cell,
        refs: Sequence[ClipRef],
        clips: Tensor,
        adversarial: Adversarial | None,
        clean: Sequence[int | None],
    ) -> list[Outcome]:
        """Checks the budget of every clip, then asks the defended classifier on a fresh pass.

        Args:
            clips: the clean clips.
            adversarial: what the attack made; ``None`` in a clean cell.
            clean: the defence's predictions on the clean clips, where known.
        """
        begun = time.perf_counter()
        shown = clips if adversarial is None else adversarial.clips
        wrong = [violation(clips[i], shown[i], cell.budget) for i in range(len(refs))]
        # Clips that broke the rules are not worth a pass, and may not even have the right shape.
        asked = torch.stack([clips[i] if wrong[i] else shown[i] for i in range(len(refs))])
        defended = self._defended(cell.model.made, cell.defense.made, "none")
        rng = ClipRandom.for_clips([r.id for r in refs], "judge", cell.id)
        decision = defended.decide(asked.to(self.device), rng)
        seconds = (time.perf_counter() - begun) / len(refs)
        outcomes = []
        for i, ref in enumerate(refs):
            outcome = Outcome(clip=ref.id, label=ref.label, clean_prediction=clean[i])
            if adversarial is not None:
                outcome.attacked = adversarial.attacked[i]
                outcome.trace = adversarial.traces[i]
                outcome.forwards, outcome.backwards = adversarial.forwards[i], adversarial.backwards[i]
            outcome.seconds = seconds + (adversarial.seconds if adversarial is not None else 0.0)
            if wrong[i]:
                outcome.status, outcome.error = "invalid", wrong[i]
            else:
                outcome.prediction = int(decision.prediction[i])
                outcome.votes = decision.votes[:, i].tolist()
                outcome.correct = outcome.prediction == ref.label
                if adversarial is None:
                    outcome.clean_prediction = outcome.prediction
                else:
                    found = measure(clips[i], shown[i])
                    outcome.linf, outcome.l2 = float(f"{found.linf:.8g}"), float(f"{found.l2:.8g}")
                    outcome.changed = float(f"{found.changed:.6g}")
            outcomes.append(outcome)
        return outcomes


def _short(value: float) -> float | None:
    """Six significant digits, enough to read a loss curve; ``None`` once the clip has left the batch."""
    return None if value != value else float(f"{value:.6g}")
