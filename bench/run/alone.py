"""A process of its own that answers about clips, and knows nothing else of them.

:class:`Alone` starts it: with a defence, a classifier and its weights, in an empty folder. It is handed clips, under
names that say nothing and in an order of their own, and asks the defended classifier as a run does. It has no labels,
no other version of a clip, no data set and no other network, inherits no memory, and draws other random numbers than
any run did. It is no sandbox: what runs in it is the same user, on the same disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.attack.losses import cross_entropy
from bench.data.base import ClipRef, Dataset
from bench.defense.defended import DefendedClassifier
from bench.defense.nature import PLAIN, Nature
from bench.defense.trained import know_origin
from bench.errors import BenchError
from bench.faults import MachineFault, machine_fault
from bench.grids.grid import DatasetSection, Grid
from bench.plan.cells import Cell, Component, Plan
from bench.plan.components import defend, is_file, make_component
from bench.records.identity import ComponentIdentity, Gradient
from bench.records.outcome import Outcome
from bench.registry import DEFENSES, MODELS, Spec
from bench.run.engine import LocalEngine
from bench.run.runner import Runner
from bench.run.store import Store
from bench.seeds import ClipRandom, seed_of
from bench.weights.files import fingerprint
from bench.weights.zoo import build_classifier

# What of this process's environment the other one gets: where programs, libraries and caches are, and how many threads.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "TORCH_HOME", "HF_HOME", "XDG_CACHE_HOME")
_KEPT_KINDS = ("CUDA", "NVIDIA", "OMP_", "MKL_", "OPENBLAS_", "CUBLAS")
_READY = "ready"
# With this code the process ends where its machine fails, and no component (EX_TEMPFAIL of <sysexits.h>).
_NO_FAULT = 75
_STATE, _CLIPS, _SETTINGS, _ANSWERS, _SLOPES = (
    "classifier.safetensors",
    "clips.safetensors",
    "question.json",
    "answers.json",
    "slopes.safetensors",
)


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """Who is asked.

    Attributes:
        model, defense: as a grid names them.
        dataset: the name of the data set for which the classifier was trained: shipped robust weights go by it.
        classifier: the bare one, whose weights are handed over.
        checkpoint: the file that the classifier's factory reads, if it reads one.
        defended: identity of the defended classifier's weights, by :func:`defended_weights`.
        nature: how its network has to be asked.
    """

    model: Spec
    defense: Spec
    dataset: str
    classifier: nn.Module
    defended: str
    checkpoint: Path | None = None
    nature: Nature = PLAIN


def defended_weights(defended: DefendedClassifier) -> str:
    """Digest of all weights of a defended classifier."""
    return fingerprint(defended)


class Alone:
    """The process; use it in a ``with`` statement.

    Args:
        suspect: who is asked.
        device: on which.
        batch: clips per batch.
        salt: seeds every random number, names and order.
        patience: seconds to wait for the answer to one question.

    Raises:
        BenchError: the process cannot make the defended classifier, or makes another one than is known here.
        MachineFault: there is no room for it, in memory or on the disk.
    """

    def __init__(
        self, suspect: Suspect, device: torch.device, batch: int, salt: str, *, patience: float = 7200.0
    ) -> None:
        self._salt, self._asked, self._patience = salt, 0, patience
        self._folder = Path(tempfile.mkdtemp(prefix="bench-"))
        try:
            settings = self._handed(suspect) | {"device": str(device), "batch": batch, "salt": salt}
            settings["threads"] = torch.get_num_threads()
            (self._folder / _SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
            self._errors = (self._folder / "errors").open("w+", encoding="utf-8", errors="replace")
            self._process = subprocess.Popen(
                # -P: the folder in which it works is no place of modules.
                [sys.executable, "-P", "-m", "bench.run.alone"],
                cwd=self._folder,
                env=_environment(self._folder),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                encoding="utf-8",
            )
            self._wait()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process and removes its folder."""
        process = getattr(self, "_process", None)
        if process is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
            process.kill()
            process.wait()
            process.stdout.close()
        if hasattr(self, "_errors"):
            self._errors.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def ask(self, clips: Tensor, draws: int = 1) -> list[Outcome]:
        """What the defended classifier answers, judged by nobody: label and ``correct`` of the outcomes mean nothing.

        Args:
            clips: ``(n, 3, T, H, W)``, in ``[0, 1]``.
            draws: how often a randomised defence is asked about each.

        Raises:
            BenchError: the process ended, or was disturbed.
        """
        order, question = self._question(clips, {"draws": draws})
        answers = [Outcome.model_validate(a) for a in json.loads((question / _ANSWERS).read_text(encoding="utf-8"))]
        if len(answers) != len(order):
            raise BenchError(f"The process that was asked {len(order)} clips gave {len(answers)} answers.")
        found = dict(zip(order, answers, strict=True))
        return [found[i] for i in range(len(clips))]

    def slopes(self, clips: Tensor, gradient: Gradient) -> Tensor:
        """Which way :func:`slopes` leads at some clips, ``int8``, of their shape.

        Raises:
            BenchError: the process ended, or was disturbed.
        """
        order, question = self._question(clips, {"gradient": gradient})
        found = load_file(question / _SLOPES)["slopes"]
        if found.shape != clips.shape:
            raise BenchError(f"The process returned gradients of shape {tuple(found.shape)}.")
        return found[torch.tensor(order).argsort()]

    def tokens(self, count: int) -> list[str]:
        """The names under which the clips of the next question stand in the other process, as they lie here."""
        order = self._order(count)
        names = _tokens(self._salt, self._asked, count)
        return [names[order.index(i)] for i in range(count)]

    def _order(self, count: int) -> list[int]:
        order = list(range(count))
        random.Random(f"{self._salt} {self._asked}").shuffle(order)
        return order

    def _question(self, clips: Tensor, settings: Mapping[str, Any]) -> tuple[list[int], Path]:
        """Hands over clips in an order of their own; returns the order and the folder of the answers."""
        order = self._order(len(clips))
        folder = self._folder / str(self._asked)
        folder.mkdir()
        save_file({"clips": clips[order].cpu().contiguous()}, folder / _CLIPS)
        (folder / _SETTINGS).write_text(json.dumps({**settings, "number": self._asked}), encoding="utf-8")
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has ended: the next line says why
            self._process.stdin.write(f"{folder.name}\n")
            self._process.stdin.flush()
        self._wait()
        self._asked += 1
        return order, folder

    def _wait(self) -> None:
        """Waits until the process says that it is ready; what else is printed there is of no interest."""
        assert self._process.stdout is not None
        late = threading.Timer(self._patience, self._process.kill)
        late.start()
        try:
            for line in self._process.stdout:
                if line.strip() == _READY:
                    return
        finally:
            late.cancel()
        if self._process.wait() == -signal.SIGKILL:
            raise BenchError(f"it was ended, or gave no answer within {self._patience:g} s")
        self._errors.flush()
        self._errors.seek(0)
        said = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        kind = MachineFault if self._process.returncode == _NO_FAULT else BenchError
        raise kind(said[-1] if said else f"it ended with code {self._process.returncode}")

    def _handed(self, suspect: Suspect) -> dict[str, Any]:
        """Writes what makes the defended classifier; returns what is said of it."""
        state = {name: t.detach().cpu().clone().contiguous() for name, t in suspect.classifier.state_dict().items()}
        save_file(state, self._folder / _STATE)
        return {
            "model": [suspect.model.name, self._with_files(suspect.model.params)],
            "defense": [suspect.defense.name, self._with_files(suspect.defense.params)],
            "modules": [
                MODELS.get(suspect.model.name).factory.__module__,
                DEFENSES.get(suspect.defense.name).factory.__module__,
            ],
            "dataset": suspect.dataset,
            "checkpoint": str(self._copied(suspect.checkpoint)) if suspect.checkpoint is not None else None,
            "defended": suspect.defended,
            "nature": asdict(suspect.nature),
        }

    def _with_files(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters with copies of the files that they name: a path would say where other files are."""
        return {key: str(self._copied(Path(value))) if is_file(value) else value for key, value in params.items()}

    def _copied(self, path: Path) -> Path:
        copy = self._folder / f"{len(list(self._folder.iterdir()))}-{path.name}"
        shutil.copyfile(path, copy)
        return copy


def _environment(folder: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k in _KEPT or k.startswith(_KEPT_KINDS)}
    places = [str(Path(place or ".").resolve()) for place in sys.path]
    return {**kept, "PYTHONPATH": os.pathsep.join(dict.fromkeys(places)), "TMPDIR": str(folder)}


def _tokens(salt: str, question: int, count: int) -> list[str]:
    return [f"{seed_of(salt, question, i):016x}" for i in range(count)]


def slopes(defended: DefendedClassifier, gradient: Gradient, clips: Tensor, tokens: Sequence[str], salt: str) -> Tensor:
    """The sign of the gradient that an attacker follows away from the first class.

    Args:
        clips: ``(n, 3, T, H, W)``.
        tokens: their names, by which the defence's random numbers are seeded, with ``salt``.

    Returns:
        ``int8``, of the clips' shape: -1, 0 or 1; 0 where it is not finite.
    """
    target = defended.with_gradient(gradient).target(ClipRandom.for_clips(tokens, "slopes", salt))
    labels = torch.zeros(len(clips), dtype=torch.int64, device=clips.device)
    found = target.gradient(clips, None, labels, cross_entropy).gradient
    return torch.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0).sign().to(torch.int8).cpu()


class _Handed(Dataset):
    """The clips of one question, under their tokens. Nobody here knows a label: all are 0."""

    classes = ()

    def __init__(self, clips: Tensor, tokens: Sequence[str]) -> None:
        self._clips = dict(zip(tokens, clips, strict=True))

    def refs(self) -> list[ClipRef]:
        return [ClipRef(token, 0) for token in self._clips]

    def load(self, ref: ClipRef) -> Tensor:
        return self._clips[ref.id]


class _Answering:
    """What runs in the process: the defended classifier, asked as by a run."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        torch.set_num_threads(settings["threads"])
        self._settings = settings
        spec, dataset = Spec(*settings["model"]), settings["dataset"]
        for registry, (name, _), module in zip(
            (MODELS, DEFENSES), (settings["model"], settings["defense"]), settings["modules"], strict=True
        ):
            registry.only(name, module)
        checkpoint = Path(settings["checkpoint"]) if settings["checkpoint"] else None
        classifier = build_classifier(spec, checkpoint)
        classifier.load_state_dict(load_file(_STATE))
        know_origin(classifier, MODELS.get(spec.name).name, dataset)
        identity = ComponentIdentity(name=spec.name, params=dict(spec.params), weights=fingerprint(classifier))
        self._model: Component[nn.Module] = Component(spec.name, classifier, identity)
        defense = make_component(Spec(*settings["defense"]), DEFENSES)
        self._defense, self._defended = defend(self._model, defense, Nature(**settings["nature"]))
        if defended_weights(self._defended) != settings["defended"]:
            raise BenchError("the defended classifier that it makes has other weights than the one that was measured")

    def answer(self, folder: Path) -> None:
        """Answers the question in a folder."""
        question = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
        clips = load_file(folder / _CLIPS)["clips"]
        tokens = _tokens(self._settings["salt"], question["number"], len(clips))
        device = torch.device(self._settings["device"])
        if "gradient" in question:
            defended = self._defended.to(device)
            found = [
                slopes(defended, question["gradient"], clips[i : i + 1].to(device), [token], self._settings["salt"])
                for i, token in enumerate(tokens)
            ]
            save_file({"slopes": torch.cat(found)}, folder / _SLOPES)
            return
        outcomes = self._ask(_Handed(clips, tokens), question["draws"], folder, device)
        (folder / _ANSWERS).write_text(json.dumps([outcomes[t].model_dump() for t in tokens]), encoding="utf-8")

    def _ask(self, dataset: _Handed, draws: int, folder: Path, device: torch.device) -> dict[str, Outcome]:
        """Runs the clean cell of a grid of these clips alone."""
        cell = Cell(
            dataset=Component(
                "clips", dataset, ComponentIdentity(name="clips", params={"salt": self._settings["salt"]})
            ),
            model=self._model,
            defense=self._defense,
            attack_label="clean",
            knowledge="clean",
            gradient="none",
            seed=seed_of(self._settings["salt"]),
            defended=self._defended,
            queries=draws if self._defended.stochastic else 1,
        )
        grid = Grid(name="clips", dataset=DatasetSection(name="clips"), models=["m"], defenses=["d"], attacks=["clean"])
        plan = Plan(grid=grid, dataset=dataset, refs=dataset.refs(), cells=[cell])
        store = Store(folder / "store")
        try:
            Runner(plan, store, LocalEngine(device), batch_size=self._settings["batch"], control=0).run()
            return store.outcomes(cell.id)
        finally:
            store.close()


def main() -> None:
    """Answers the questions whose folders stand on the lines of the standard input."""
    try:
        answering = _Answering(json.loads(Path(_SETTINGS).read_text(encoding="utf-8")))
        print(_READY, flush=True)
        for line in sys.stdin:
            answering.answer(Path(line.strip()))
            print(_READY, flush=True)
    except Exception as error:
        fault = machine_fault(error)
        if not fault and not isinstance(error, BenchError):
            raise
        print(error if isinstance(error, BenchError) else fault, file=sys.stderr)
        sys.exit(_NO_FAULT if fault or isinstance(error, MachineFault) else 1)


if __name__ == "__main__":
    main()
