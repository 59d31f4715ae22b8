"""``hf:FOLDER`` or ``hf:OWNER/NAME``: a video classifier in the format of Hugging Face's transformers (VideoMAE,
TimeSformer, ViViT, V-JEPA 2), as ``save_pretrained`` writes it. Nothing is downloaded, and no pickle is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.data.base import Missing
from bench.errors import BenchError
from bench.models.adapters._wrapped import Factory, Wrapped
from bench.models.base import build_seeded
from bench.weights.places import MissingFiles, folder_name, weights_folder

_BICUBIC = 3  # of PIL's resampling filters, by which processors name theirs


def factory(name: str) -> Factory:
    """The factory of a classifier that lies in a folder, or among what huggingface_hub has downloaded."""

    def make(random: bool = False, seed: int = 0) -> Wrapped:
        """A video classifier of transformers; length, side and colours are read from its configuration.

        Args:
            random: take random weights, for a checkpoint of one's own or a trial.
            seed: of random weights.
        """
        from transformers import AutoConfig, AutoModelForVideoClassification

        make: Any = AutoModelForVideoClassification
        folder = _folder(name)
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True)
        if random:
            network = build_seeded(lambda: make.from_config(config), seed)
        elif not any(folder.glob("*.safetensors")):
            raise BenchError(
                f"{folder} holds no .safetensors file: save the network with save_pretrained, whose pickles are not "
                "read here."
            )
        else:
            network = AutoModelForVideoClassification.from_pretrained(
                folder, local_files_only=True, use_safetensors=True
            )
        return Wrapped(network, keyword=network.main_input_name, layout="BTCHW", **_settings(folder, config))

    return make


def _folder(name: str) -> Path:
    """Where the files are.

    Raises:
        MissingFiles: nowhere on this machine.
        BenchError: the folder is of another kind.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    given, weights = Path(name).expanduser(), weights_folder()
    for place in (given, *([weights / folder_name(name)] if weights is not None else [])):
        if (place / "config.json").is_file():
            return place
    if given.exists():
        raise BenchError(f"{given} holds no config.json: give a folder that save_pretrained has written.")
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError) as error:
        missing = Missing(f"the video classifier {name}", f"https://huggingface.co/{name}", "see its model card", given)
        raise MissingFiles([missing]) from error


def _settings(folder: Path, config: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for file in ("preprocessor_config.json", "video_preprocessor_config.json"):
        if (folder / file).is_file():
            found |= json.loads((folder / file).read_text(encoding="utf-8"))
    size = getattr(config, "image_size", None) or getattr(config, "crop_size", None)
    # Whole numbers from 0 to 255 are scaled, and shifted, before mean and deviation: the same in units of [0, 1].
    scale = 255 * found.get("rescale_factor", 1 / 255) if found.get("do_rescale", True) else 255.0
    shift = 1.0 if found.get("offset") else 0.0
    normal = found.get("do_normalize", True)
    mean = found.get("image_mean", [0.485, 0.456, 0.406]) if normal else [0.0] * 3
    std = found.get("image_std", [0.229, 0.224, 0.225]) if normal else [1.0] * 3
    before = found.get("size") or {}
    return {
        "mean": [(m + shift) / scale for m in mean],
        "std": [s / scale for s in std],
        "size": size,
        "resize": before.get("shortest_edge") or size,
        "frames": getattr(config, "num_frames", None) or getattr(config, "frames_per_clip", None),
        "interpolation": "bicubic" if found.get("resample") == _BICUBIC else "bilinear",
    }
