"""The engine that works in this process, on one device."""

from __future__ import annotations

import ctypes
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from bench.attack.target import Target
from bench.data.base import ClipRef
from bench.defense.defended import UNASKED, DefendedClassifier
from bench.errors import BenchError
from bench.modes import computing
from bench.plan.cells import Cell, ClipsUnit
from bench.plan.probe import check
from bench.records.outcome import Outcome
from bench.run.judge import Distances, all_distances, violation
from bench.run.store import Adversarial
from bench.seeds import ClipRandom

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


def hardware(device: torch.device) -> str:
    """What a device is called, and how much memory it has: ``cpu``, or ``NVIDIA H200 (139 GiB)``."""
    if device.type == "cpu":
        return "cpu"
    return f"{torch.cuda.get_device_name(device)} ({torch.cuda.mem_get_info(device)[1] / 2**30:.0f} GiB)"


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

    def check_classifier(self, classifier: nn.Module, label: str, clip: Tensor, needed: int, classes: int) -> None:
        """:func:`bench.plan.probe.check` on this device."""
        check(classifier, label, clip, self.device, needed, classes)

    def stacked(self, clips: Sequence[Tensor]) -> Tensor:
        """Clips of one shape ``(3, T, H, W)`` as a batch on the CPU, from where a GPU fetches them while the processor
        goes on: in memory that stays in its place."""
        pinned = self.device.type == "cuda" and len({(clip.shape, clip.dtype) for clip in clips}) == 1
        if not pinned:
            return torch.stack(list(clips))
        batch = torch.empty(len(clips), *clips[0].shape, dtype=clips[0].dtype, pin_memory=True)
        return torch.stack(list(clips), out=batch)

    def _upload(self, clips: Tensor) -> Tensor:
        return clips.to(self.device, non_blocking=self.device.type == "cuda" and clips.is_pinned())

    def batch_size(self, cell: Cell, clip: Tensor) -> int:
        """A batch size for ``--batch-size auto``, of the clips of a cell.

        On a CPU it follows from the clip's size. On a GPU one clip is attacked and judged with the fewest steps that
        the budget allows, so that all that the attack shows the networks at once is in memory together (draws, shifted
        copies, candidates that vote), and the batch fills 60 % of what is free.
        """
        if self.device.type == "cpu":
            return max(1, min(_MOST_CLIPS, _CPU_BATCH_VALUES // clip.numel()))
        unit = cell.unit
        for network in (cell.defended, unit.defended if unit is not None else None):
            if network is not None:
                network.to(self.device)  # weights are of no clip
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        ref = [ClipRef("the clip by which the batch size is chosen", 0)]
        adversarial: Adversarial | None = None
        if unit is not None:
            short = replace(unit, budget=replace(unit.budget, steps=1, restarts=1))
            light = replace(short, attack=replace(unit.attack, instance=unit.attack.instance.lighter()))
            adversarial = self.attack(light, ref, clip[None], [False])
        self.judge(replace(cell, queries=1), ref, clip[None], adversarial)
        used = max(1, torch.cuda.max_memory_allocated(self.device) - before)
        # What this process has cached and does not use is free, too.
        spare = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        free = torch.cuda.mem_get_info(self.device)[0] + spare
        return max(1, min(_MOST_CLIPS, int(0.6 * free / used)))

    def attack(self, unit: ClipsUnit, refs: Sequence[ClipRef], clips: Tensor, skip: Sequence[bool]) -> Adversarial:
        """Runs an attack on a batch.

        Args:
            clips: clean, ``(B, 3, T, H, W)``, on the CPU.
            skip: clips that are already misclassified and come back as they are.
        """
        begun = time.perf_counter()
        attack = unit.attack.instance
        rows = [i for i, skipped in enumerate(skip) if not skipped]
        adversarial = Adversarial(
            clips=clips.clone(),
            attacked=[False] * len(refs),
            traces=[[] for _ in refs],
            forwards=[0] * len(refs),
            backwards=[0] * len(refs),
            seconds=0.0,
        )
        if rows:
            ids = [refs[i].id for i in rows]
            defense_rng = ClipRandom.for_clips(ids, "defense under attack", unit.defense_stream)
            target = self._target(unit.defended, defense_rng, unit.shared)
            with computing(unit.precision, self.device):
                result = attack(
                    target,
                    self._upload(clips if len(rows) == len(refs) else clips[rows]),
                    torch.tensor([refs[i].label for i in rows], device=self.device),
                    unit.budget,
                    ClipRandom.for_clips(ids, "attack", unit.attack_stream),
                )
            returned = result.clips.detach().cpu()
            if returned.shape == clips[rows].shape:
                adversarial.clips[rows] = returned.to(adversarial.clips.dtype)
            else:  # the judge refuses it; keep what was returned so that it can say so
                adversarial.clips = returned if len(rows) == len(refs) else adversarial.clips.fill_(float("nan"))
            for k, i in enumerate(rows):
                adversarial.attacked[i] = True
                adversarial.forwards[i], adversarial.backwards[i] = int(target.forwards[k]), int(target.backwards[k])
                if result.trace is not None:
                    adversarial.traces[i] = [_short(v) for v in result.trace[:, k].tolist()]
        adversarial.seconds = (time.perf_counter() - begun) / len(refs)
        return adversarial

    def _target(self, defended: DefendedClassifier | None, rng: ClipRandom, transfer: bool) -> Target:
        if defended is None:
            return Target(_no_model, len(rng), transfer=transfer)
        return defended.to(self.device).target(rng, transfer=transfer)

    def judge(
        self,
        cell: Cell,
        refs: Sequence[ClipRef],
        clips: Tensor,
        adversarial: Adversarial | None,
    ) -> list[Outcome]:
        """Checks the budget of every clip, then asks the defended classifier on a fresh pass, a randomised one several
        times; in ``float32``, whatever precision the attack had.

        Args:
            clips: the clean clips.
            adversarial: what the attack made; ``None`` in a clean cell.
        """
        shown = clips if adversarial is None else adversarial.clips
        asked = self._upload(shown)
        sizes = self._sizes(asked if shown is clips else self._upload(clips), asked)
        wrong = [violation(clips[i], shown[i], cell.budget, sizes[i]) for i in range(len(refs))]
        if any(wrong):  # clips that broke the rules are not worth a pass, and may not even have the right shape
            asked = self._upload(self.stacked([clips[i] if wrong[i] else shown[i] for i in range(len(refs))]))
        ids = [r.id for r in refs]
        defended = cell.defended.to(self.device)
        begun = time.perf_counter()
        with computing("fp32", self.device):
            decision = defended.decide(asked, ClipRandom.for_clips(ids, "judge", cell.judge_stream))
            finite, draws = decision.finite, [decision.prediction]
            for query in range(1, cell.queries):  # of these only the answers are kept: purified clips are large
                again = defended.decide(asked, ClipRandom.for_clips(ids, "judge", cell.judge_stream, query))
                finite = finite & again.finite
                draws.append(again.prediction)
            seconds = (time.perf_counter() - begun) / len(refs)
            measured = defended.measure(asked, decision.purified)
        outcomes = []
        for i, ref in enumerate(refs):
            outcome = Outcome(clip=ref.id, label=ref.label)
            if adversarial is not None:
                size = sizes[i]
                if size is not None and math.isfinite(size.linf):
                    outcome.linf, outcome.l2 = float(f"{size.linf:.8g}"), float(f"{size.l2:.4g}")
                    outcome.changed = float(f"{size.changed:.4g}")
                else:
                    outcome.linf = outcome.l2 = outcome.changed = None
                outcome.attacked = adversarial.attacked[i]
                outcome.trace = adversarial.traces[i]
                outcome.forwards, outcome.backwards = adversarial.forwards[i], adversarial.backwards[i]
            outcome.seconds = seconds + (adversarial.seconds if adversarial is not None else 0.0)
            if wrong[i]:
                outcome.status, outcome.error = "invalid", wrong[i]
            elif not finite[i]:
                outcome.status, outcome.error = "failed", "the defended classifier's answer is not finite"
            else:
                outcome.prediction = int(decision.prediction[i])
                outcome.votes = [None if vote == UNASKED else vote for vote in decision.votes[:, i].tolist()]
                if defended.stochastic:
                    outcome.draws = [int(prediction[i]) for prediction in draws]
                if bool(torch.isfinite(measured[:, i]).all()):
                    outcome.measured = [float(f"{value:.4g}") for value in measured[:, i].tolist()]
                outcome.correct = outcome.prediction == ref.label
            outcomes.append(outcome)
        return outcomes

    def _sizes(self, clips: Tensor, shown: Tensor) -> list[Distances | None]:
        """How far each clip was moved, of clips on the device; nothing where their shape is another one."""
        return list(all_distances(clips, shown)) if shown.shape == clips.shape else [None] * len(clips)


def _no_model(clips: Tensor, rows: Tensor) -> Tensor:
    raise RuntimeError("this attack says uses_model = False but asks for the model")


def _short(value: float) -> float | None:
    """Three significant digits, enough to read a loss curve and the same on every machine; ``None`` once the clip has
    left the batch."""
    return None if value != value else float(f"{value:.3g}")
