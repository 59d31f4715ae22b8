"""Where published weights lie on this machine. Nothing here, and nothing that asks here, opens a connection.

Weights that are downloaded are so by ``bench fetch`` alone. They lie in the folder that the environment variable
``BENCH_WEIGHTS`` names, or, without one, where PyTorch and the Hugging Face libraries keep what they download.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from bench.data.base import Missing, listing
from bench.errors import BenchError, nearest

FOLDER = "BENCH_WEIGHTS"
"""The environment variable that names the folder of downloaded weights."""

GUIDED = "256x256_diffusion_uncond.pt"
"""The name that OpenAI gave to the weights of Guided Diffusion."""

# How the places of files end that are written as a path and not as a name on a hub.
_ENDINGS = (".pt", ".pth", ".bin", ".safetensors")


class MissingFiles(BenchError):
    """Files are needed and absent; :attr:`missing` has them one by one."""

    def __init__(self, missing: Sequence[Missing], who: str = "This") -> None:
        self.missing = list(missing)
        super().__init__(f"{who} needs files that are not here:\n{listing(self.missing)}")


_noted: ContextVar[list[Missing] | None] = ContextVar("noted", default=None)


@contextmanager
def looking() -> Iterator[list[Missing]]:
    """Inside, published networks are looked for and not loaded: small ones stand in for them, and what is missing is
    put into the list that this gives, instead of stopping at the first."""
    found: list[Missing] = []
    token = _noted.set(found)
    try:
        yield found
    finally:
        _noted.reset(token)


def only_looked_for(place: Path | Missing) -> bool:
    """Whether a network is to be stood in for, as inside of :func:`looking`; notes it if it is missing.

    Raises:
        MissingFiles: it is missing, and wanted now.
    """
    noted = _noted.get()
    if noted is None:
        if isinstance(place, Missing):
            raise MissingFiles([place])
        return False
    if isinstance(place, Missing):
        noted.append(place)
    return True


def weights_folder() -> Path | None:
    """The folder that :data:`FOLDER` names, if it is set."""
    named = os.environ.get(FOLDER, "")
    return Path(named).expanduser() if named else None


def files_folder() -> Path:
    """Where weights of a single file are looked for, or to be put."""
    import torch

    return weights_folder() or Path(torch.hub.get_dir()) / "checkpoints"


def torchvision_file(model: str, weights: str) -> Path | Missing:
    """The file of one of torchvision's own weights.

    Args:
        model: torchvision's name, such as ``raft_large``.
        weights: a member of its weights, such as ``C_T_V1``.

    Raises:
        BenchError: torchvision has no such weights.
    """
    from torchvision.models import get_model_weights

    known = get_model_weights(model).__members__
    if weights not in known:
        raise BenchError(
            f"There is no file {weights}, and torchvision has no {model} weights of that name"
            f"{nearest(weights, known)}; it has: {', '.join(known)}."
        )
    url = str(known[weights].url)
    name = url.rpartition("/")[2]
    path = files_folder() / name
    if path.is_file():
        return path
    return Missing(
        f"torchvision's weights {weights} of {model} ({name})",
        f"bench fetch {model}-{weights}, or {url}",
        "BSD-3-Clause (torchvision, RAFT)",
        path,
    )


def package_file(package: str, name: str) -> Path | None:
    """A file of an installed package, which is not imported; ``None`` if it is not there."""
    spec = importlib.util.find_spec(package)
    folders = [] if spec is None else spec.submodule_search_locations or []
    return next((path for folder in folders if (path := Path(folder, name)).is_file()), None)


_LATENT = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")

PIPELINES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "modelscope": ("ModelScope's text-to-video model", "CC BY-NC 4.0", _LATENT),
    "stable_diffusion": ("Stable Diffusion 1.5", "CreativeML Open RAIL-M", _LATENT),
    "guided_diffusion": ("a pixel-space diffusion model", "of whoever trained it", ("unet", "scheduler")),
}
"""Of each published diffusion model: what it is, its licence, and the parts of its folder."""


def pipeline_place(kind: str, weights: str) -> Path | Missing:
    """Where a published diffusion model lies: a folder in diffusers' layout, or Guided Diffusion's one file.

    Args:
        kind: ``modelscope``, ``stable_diffusion`` or ``guided_diffusion``.
        weights: a path, or a name on the Hugging Face hub; a name is looked for in :func:`weights_folder`, as a folder
            with ``--`` in place of the slash, and among what the hub's library has downloaded.
    """
    given = Path(weights).expanduser()
    if given.exists():
        return given
    folder = weights_folder()
    put = _in_folder(folder, weights)
    if given.name == GUIDED:
        put = given if _is_rooted(weights) else files_folder() / GUIDED
    if put is not None and put.exists():
        return put
    if given.name == GUIDED:
        return Missing(f"Guided Diffusion's {GUIDED}", "bench fetch guided_diffusion", "MIT", put or given)
    what, licence, parts = PIPELINES[kind]
    if _is_path(weights):
        return Missing(f"{what}, {weights}", "where the path in weights= comes from", licence, given)
    found, absent = _downloaded(weights, parts)
    if found is not None and not absent:
        return found
    lacking = f", of which {', '.join(absent)} is absent" if found is not None else ""
    return Missing(
        f"{what}, {weights} on the Hugging Face hub{lacking}",
        f"bench fetch {kind}, or https://huggingface.co/{weights}",
        licence,
        put or "the cache of huggingface_hub, or a folder that BENCH_WEIGHTS or weights= names",
    )


def folder_name(hub: str) -> str:
    """Name of the folder that a model of the hub has in :func:`weights_folder`."""
    return hub.replace("/", "--")


def _in_folder(folder: Path | None, weights: str) -> Path | None:
    if folder is None or _is_rooted(weights):
        return None
    return folder / (Path(weights).name if _is_path(weights) else folder_name(weights))


def _is_rooted(weights: str) -> bool:
    return weights.startswith(("/", ".", "~")) or os.path.isabs(weights)


def _is_path(weights: str) -> bool:
    """Whether a text can only be a path, and no ``owner/name`` of a hub."""
    return _is_rooted(weights) or weights.endswith(_ENDINGS) or re.fullmatch(r"[\w.-]+(/[\w.-]+)?", weights) is None


def _downloaded(hub: str, parts: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The folder that the hub's library has of a model, and the parts that are not in it."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(hub, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None, list(parts)
    return folder, [part for part in parts if not (folder / part).is_dir() or not any((folder / part).iterdir())]
