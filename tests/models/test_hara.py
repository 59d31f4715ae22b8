"""The networks of Hara et al. in the published layout, against plain arithmetic on their state dict."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bench import BenchError
from bench.data.base import Missing
from bench.models.hara import HaraResNet, PaddedShortcut, load_published, r3d18_hara, resnext3d101, wrn3d50
from bench.registry import MODELS, Spec
from bench.weights.files import load_with_arch
from bench.weights.zoo import build_classifier, find_weights

FACTORIES = {"resnet-18": r3d18_hara, "resnext-101": resnext3d101, "wideresnet-50": wrn3d50}
# Of each narrow network: arguments, and groups of its second convolutions.
NARROW: dict[str, tuple[dict[str, Any], int]] = {
    "basic A": ({"block": "basic", "shortcut": "A", "width": 4, "blocks": (1, 2, 1, 1)}, 1),
    "basic B": ({"block": "basic", "shortcut": "B", "width": 4, "blocks": (2, 1, 1, 1)}, 1),
    "bottleneck A": ({"block": "bottleneck", "shortcut": "A", "width": 4, "blocks": (2, 1, 1)}, 1),
    "bottleneck B": ({"block": "bottleneck", "shortcut": "B", "width": 4, "blocks": (1, 1, 2)}, 1),
    "resnext B": ({"block": "resnext", "shortcut": "B", "width": 16, "cardinality": 4, "blocks": (1, 2, 1)}, 4),
    "wide B": ({"block": "wide", "shortcut": "B", "width": 4, "k": 3, "blocks": (1, 2, 1)}, 1),
}


def narrow(name: str, classes: int = 5, **more: Any) -> HaraResNet:
    """A small network whose batch norms do something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(name))
        model = HaraResNet(classes, **{**NARROW[name][0], **more})
        for key, tensor in model.state_dict().items():
            if key.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif key.endswith("running_mean") or (tensor.ndim == 1 and key.endswith("bias")):
                tensor.normal_(0, 0.2)
            elif tensor.ndim == 1 and key.endswith("weight"):
                tensor.uniform_(0.5, 1.5)
    return model.eval()


def by_hand(state: dict[str, Tensor], x: Tensor, groups: int = 1, detach: bool = False) -> Tensor:
    """Logits from tensors and the figures of the paper alone."""

    def convolution(name: str, x: Tensor, stride: int | tuple[int, int, int] = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        kernel = weight.shape[2]
        x = F.pad(x, (kernel // 2,) * 6)
        parts = x.shape[1] // weight.shape[1]
        pieces = [F.conv3d(a, w, stride=stride) for a, w in zip(x.chunk(parts, 1), weight.chunk(parts, 0), strict=True)]
        return torch.cat(pieces, 1)

    def norm(name: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{part}"].view(1, -1, 1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def block(name: str, x: Tensor, stride: int) -> Tensor:
        convolutions = sum(f"{name}.conv{i}.weight" in state for i in (1, 2, 3))
        strided = 1 if convolutions == 2 else 2
        y = x
        for i in range(1, convolutions + 1):
            y = norm(f"{name}.bn{i}", convolution(f"{name}.conv{i}", y, stride if i == strided else 1))
            y = y.clamp_min(0) if i < convolutions else y
        if f"{name}.downsample.0.weight" in state:
            x = norm(f"{name}.downsample.1", convolution(f"{name}.downsample.0", x, stride))
        elif x.shape != y.shape:
            kept = x[:, :, ::stride, ::stride, ::stride]
            x = y.new_zeros(y.shape)
            x[:, : kept.shape[1]] = kept.detach() if detach else kept
        return (x + y).clamp_min(0)

    assert {state[k].shape[1] * groups == state[k].shape[0] for k in state if k.endswith("0.conv2.weight")} == {True}
    x = norm("bn1", convolution("conv1", x, (1, 2, 2))).clamp_min(0)
    x = F.pad(x, (1,) * 6)  # nothing is below zero here
    for axis in (2, 3, 4):
        x = x.unfold(axis, 3, 2).amax(-1)
    stage = 1
    while f"layer{stage}.0.conv1.weight" in state:
        i = 0
        while f"layer{stage}.{i}.conv1.weight" in state:
            x = block(f"layer{stage}.{i}", x, 2 if stage > 1 and i == 0 else 1)
            i += 1
        stage += 1
    return x.mean((2, 3, 4)) @ state["fc.weight"].T + state["fc.bias"]


def published_layout(arch: str, classes: int, shortcut: str = "B") -> dict[str, tuple[int, ...]]:
    """Names and shapes of a file of the CVPR 2018 branch, written by PyTorch 0.3 (without counters of batch norm)."""
    blocks, planes, expansion = {
        "resnet-18": ((2, 2, 2, 2), (64, 128, 256, 512), 1),
        "resnext-101": ((3, 4, 23, 3), (128, 256, 512, 1024), 2),
        "wideresnet-50": ((3, 4, 6, 3), (128, 256, 512, 1024), 2),
    }[arch]
    groups = 32 if arch == "resnext-101" else 1
    convolutions = {"conv1": ("bn1", (64, 3, 7, 7, 7))}
    channels = 64
    for stage, (count, inner) in enumerate(zip(blocks, planes, strict=True), start=1):
        outer = inner * expansion
        for i in range(count):
            name = f"layer{stage}.{i}"
            if expansion == 1:
                shapes = [(inner, channels, 3, 3, 3), (inner, inner, 3, 3, 3)]
            else:
                shapes = [(inner, channels, 1, 1, 1), (inner, inner // groups, 3, 3, 3), (outer, inner, 1, 1, 1)]
            for n, shape in enumerate(shapes, start=1):
                convolutions[f"{name}.conv{n}"] = (f"{name}.bn{n}", shape)
            if i == 0 and channels != outer and shortcut == "B":
                convolutions[f"{name}.downsample.0"] = (f"{name}.downsample.1", (outer, channels, 1, 1, 1))
            channels = outer
    layout: dict[str, tuple[int, ...]] = {}
    for name, (norm, shape) in convolutions.items():
        layout[f"{name}.weight"] = shape
        layout |= {f"{norm}.{part}": shape[:1] for part in ("weight", "bias", "running_mean", "running_var")}
    return {**layout, "fc.weight": (classes, channels), "fc.bias": (classes,)}


def save_zeros(path: Path, layout: dict[str, tuple[int, ...]], arch: str = "") -> Path:
    """A file in the published layout that takes no space."""
    state = {f"module.{k}": torch.zeros((), device="cpu").expand(shape) for k, shape in layout.items()}
    content: dict[str, Any] = {"epoch": 60, "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}
    torch.save({**content, "arch": arch} if arch else content, path)
    return path


def one_sentence(call: Callable[[], object]) -> str:
    with pytest.raises(BenchError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the network ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NARROW)
@torch.no_grad()
def test_it_computes_what_the_published_layout_says(name: str) -> None:
    model = narrow(name)
    clips = torch.rand(2, 3, 9, 45, 38, generator=torch.Generator().manual_seed(0))
    expected = by_hand(model.state_dict(), clips, NARROW[name][1])
    assert expected.shape == (2, 5)
    assert float(expected.std()) > 0.05
    torch.testing.assert_close(model(clips), expected, rtol=1e-4, atol=1e-4)
    assert model(clips[:1, :, :1, :8, :8]).shape == (1, 5)  # any size


@pytest.mark.parametrize(
    ("arch", "more", "shortcut", "parameters", "millions"),
    [
        ("resnext-101", {}, "B", 47_728_165, 47.73),
        ("wideresnet-50", {}, "B", 157_635_621, 157.64),
        ("resnet-18", {}, "A", 33_081_893, 33.08),
        ("resnet-18", {"shortcut": "B"}, "B", 33_255_717, 33.26),
    ],
)
def test_size_of_the_published_networks(
    arch: str, more: dict[str, Any], shortcut: str, parameters: int, millions: float
) -> None:
    with torch.device("meta"):
        model = FACTORIES[arch](num_classes=101, **more)
    own = {k: tuple(v.shape) for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    layout = published_layout(arch, 101, shortcut)
    assert own == layout
    learned = sum(math.prod(s) for k, s in layout.items() if "running" not in k)
    assert sum(p.numel() for p in model.parameters()) == learned == parameters
    assert round(parameters / 1e6, 2) == millions
    convolutions = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Conv3d)}
    assert {m.groups for n, m in convolutions.items() if n.endswith("0.conv2")} == {32 if arch == "resnext-101" else 1}
    assert all(m.bias is None for m in convolutions.values())


@pytest.mark.parametrize("arch", FACTORIES)
def test_feature_sizes(arch: str) -> None:
    """By the strides of the paper: at 40x112x112, 64x20x28x28 after pooling, and 3x4x4 positions in the end."""
    with torch.device("meta"):
        model = FACTORIES[arch](num_classes=51).eval()
        seen: dict[str, tuple[int, ...]] = {}
        for name in ("maxpool", "layer1", "layer2", "layer3", "layer4"):
            model.get_submodule(name).register_forward_hook(
                lambda module, args, out, name=name: seen.update({name: tuple(out.shape[1:])})
            )
        assert model(torch.empty(1, 3, 40, 112, 112)).shape == (1, 51)
    widths = (64, 128, 256, 512) if arch == "resnet-18" else (256, 512, 1024, 2048)
    sizes = ((20, 28, 28), (10, 14, 14), (5, 7, 7), (3, 4, 4))
    assert seen == {
        "maxpool": (64, 20, 28, 28),
        **{f"layer{i}": (w, *s) for i, (w, s) in enumerate(zip(widths, sizes, strict=True), start=1)},
    }


def test_inputs_are_scaled_inside() -> None:
    clips = torch.rand(1, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))

    def column(*values: float) -> Tensor:
        return torch.tensor(values).view(1, 3, 1, 1, 1)

    for inputs, expected in (
        ("unit", clips),
        ("mean_subtracted", 255 * clips - column(114.7748, 107.7354, 99.4750)),
        ("standardised", (clips - column(0.4345, 0.4051, 0.3775)) / column(0.2768, 0.2713, 0.2737)),
    ):
        model = narrow("basic B", inputs=inputs)
        torch.testing.assert_close(model(clips), model.logits(expected), rtol=1e-4, atol=1e-3)
        torch.testing.assert_close((clips - model.mean) / model.std, expected, rtol=1e-5, atol=1e-4)
    assert torch.equal(HaraResNet(2, **NARROW["basic B"][0]).mean, torch.zeros(1, 3, 1, 1, 1))
    with pytest.raises(BenchError, match=r"\(B, 3, T, H, W\)"):
        model(clips[0])


def test_what_others_look_for_is_where_they_look() -> None:
    """Batch norms of the stem, of blocks and of shortcuts can be told apart by name; stages are children."""
    model = narrow("resnext B")
    assert [n for n, _ in model.named_children()] == ["conv1", "bn1", "maxpool", "layer1", "layer2", "layer3", "fc"]
    norms = {n for n, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm3d)}
    shared = {n for n in norms if ".downsample." in n}
    assert shared == {f"layer{i}.0.downsample.1" for i in (1, 2, 3)}
    assert norms - shared == {
        "bn1",
        *(f"layer{i}.{b}.bn{n}" for i, b in ((1, 0), (2, 0), (2, 1), (3, 0)) for n in (1, 2, 3)),
    }
    assert model.get_submodule("layer2.1").downsample is None


# --- shortcut A -----------------------------------------------------------------------------------------------


def test_padded_shortcut_by_hand() -> None:
    x = torch.arange(2.0 * 3 * 3 * 5).view(1, 2, 3, 3, 5).requires_grad_(True)
    out = PaddedShortcut(3, 2)(x)
    assert out.shape == (1, 3, 2, 2, 3)
    assert out[0, 1, 1, 0].tolist() == [45 + 30, 45 + 32, 45 + 34]
    assert not out[:, 2].any()
    (gradient,) = torch.autograd.grad(out.sum(), x)
    expected = torch.zeros_like(gradient)
    expected[:, :, ::2, ::2, ::2] = 1
    assert torch.equal(gradient, expected)
    assert not PaddedShortcut(3, 2, detach=True)(x).requires_grad


def test_the_gradient_through_shortcut_a_is_that_of_finite_differences() -> None:
    model = narrow("basic A").double()
    legacy = narrow("basic A", legacy_detach=True).double()
    generator = torch.Generator().manual_seed(1)
    clips = torch.rand(1, 3, 8, 40, 40, generator=generator).double()
    way = torch.randn(clips.shape, generator=generator).double()
    with torch.no_grad():
        numeric = (model(clips + 1e-7 * way) - model(clips - 1e-7 * way))[0] / 2e-7
    state = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
    x = clips.requires_grad_(True)
    logits, same = model(x), legacy(x)
    assert torch.equal(logits, same)
    cut = by_hand(state, x, detach=True)
    for k in range(5):
        (exact,) = torch.autograd.grad(logits[0, k], x, retain_graph=True)
        (broken,) = torch.autograd.grad(same[0, k], x, retain_graph=True)
        (expected,) = torch.autograd.grad(cut[0, k], x, retain_graph=True)
        assert float((exact * way).sum()) == pytest.approx(float(numeric[k]), rel=1e-4, abs=1e-6)
        assert float((broken - exact).norm()) > 0.1 * float(exact.norm())
        torch.testing.assert_close(broken, expected)


# --- checkpoints ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnext B", "basic A"])
@pytest.mark.parametrize("new", [True, False])
def test_a_file_in_exactly_the_published_layout(name: str, new: bool, tmp_path: Path) -> None:
    """With the optimiser's state, and also in the format of old PyTorch, which counts no batches."""
    model, width = narrow(name), NARROW[name][0]["width"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3, dampening=0.9)
    model(torch.rand(1, 3, 4, 16, 16)).sum().backward()
    optimizer.step()
    state = {f"module.{k}": v for k, v in model.state_dict().items() if new or not k.endswith("num_batches_tracked")}
    content = {"epoch": 60, "arch": "resnext-101", "state_dict": state, "optimizer": optimizer.state_dict()}
    path = tmp_path / "save_60.pth"
    torch.save(content, path, _use_new_zipfile_serialization=new)
    other = narrow("basic B") if name == "basic A" else narrow(name, blocks=(1, 1, 1))

    def build(classes: int) -> HaraResNet:
        return HaraResNet(classes, **NARROW[name][0])

    for classes in (None, 5):
        loaded = load_published(path, "resnext-101", classes, build, width).state_dict()
        assert all(torch.equal(loaded[k.removeprefix("module.")], v) for k, v in state.items())
    assert load_with_arch(path)[1] == "resnext-101"

    said = one_sentence(lambda: load_published(path, "resnext-101", 101, build, width))
    assert said == f"The checkpoint {path} has 5 classes, not 101."
    said = one_sentence(lambda: load_published(path, "resnet-18", None, build, width))
    assert said == f"The checkpoint {path} is of 'resnext-101', not of 'resnet-18': give that of this architecture."
    said = one_sentence(lambda: load_published(path, "resnext-101", None, build))
    assert f"has {width} channels after its first convolution, not 64: give one of the CVPR 2018 branch" in said
    said = one_sentence(lambda: load_published(path, "resnext-101", None, lambda classes: other, width))
    assert ("shortcuts of type A, not B" if name == "basic A" else "unexpected keys: layer2.1.") in said
    del state["module.layer2.0.bn1.bias"]
    torch.save(content, path)
    said = one_sentence(lambda: load_published(path, "resnext-101", None, build, width))
    assert "is not for HaraResNet: missing keys: layer2.0.bn1.bias" in said


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
@pytest.mark.parametrize("arch", FACTORIES)
def test_registered_factories_read_their_files(arch: str, tmp_path: Path) -> None:
    factory = FACTORIES[arch]
    layout = published_layout(arch, 51, "A" if arch == "resnet-18" else "B")
    with torch.device("meta"):
        for name in (arch, ""):
            model = factory(save_zeros(tmp_path / "a.pth", layout, name))
            assert model.fc.out_features == 51
        assert "has 51 classes, not 101" in one_sentence(lambda: factory(tmp_path / "a.pth", 101))
        other = "resnet-34" if arch == "resnext-101" else "resnext-101"
        said = one_sentence(lambda: factory(save_zeros(tmp_path / "b.pth", layout, other)))
        assert f"is of {other!r}, not of {arch!r}" in said
        master = save_zeros(tmp_path / "c.pth", {**layout, "conv1.weight": (128, 3, 7, 7, 7)}, arch)
        said = one_sentence(lambda: factory(master))
        assert "has 128 channels after its first convolution, not 64" in said
        assert "master branch have 128" in said
        short = {k: v for k, v in layout.items() if k not in ("fc.weight", "layer3.1.bn2.bias")}
        said = one_sentence(lambda: factory(save_zeros(tmp_path / "d.pth", short, arch), 51))
        assert "missing keys: fc.weight, layer3.1.bn2.bias" in said
        assert "There is no checkpoint at" in one_sentence(lambda: factory(tmp_path / "nowhere.pth"))
        assert factory(num_classes=7).fc.out_features == 7


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
def test_r3d18_with_either_shortcut(tmp_path: Path) -> None:
    a, b = (save_zeros(tmp_path / kind, published_layout("resnet-18", 9, kind), "resnet-18") for kind in "AB")
    with torch.device("meta"):
        said = one_sentence(lambda: r3d18_hara(b))
        assert "has shortcuts of type B, not A: give shortcut='B'" in said
        assert "has shortcuts of type A, not B: give shortcut='A'" in one_sentence(lambda: r3d18_hara(a, shortcut="B"))
        assert r3d18_hara(b, shortcut="B").fc.out_features == 9
    model = build_classifier(Spec("r3d18_hara", {"legacy_detach": True, "inputs": "mean_subtracted"}), a)
    assert isinstance(model, HaraResNet)
    assert not any(p.any() for p in model.parameters())
    shortcuts = [m for m in model.modules() if isinstance(m, PaddedShortcut)]
    assert [(m.outputs, m.stride, m.detach) for m in shortcuts] == [(128, 2, True), (256, 2, True), (512, 2, True)]


class Payload:
    """Runs code when unpickled."""

    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trap),)


def test_files_that_run_code_are_refused(tmp_path: Path) -> None:
    torch.save({"arch": "resnext-101", "state_dict": Payload(tmp_path / "trap")}, tmp_path / "bad.pth")
    assert "Cannot read the checkpoint" in one_sentence(lambda: resnext3d101(tmp_path / "bad.pth"))
    assert not (tmp_path / "trap").exists()


def test_bad_parameters_are_refused() -> None:
    for text, word in (
        ("r3d18_hara(inputs='units')", "Unknown inputs 'units' (did you mean 'unit'?)"),
        ("wrn3d50(inputs='255')", "choose one of unit, mean_subtracted, standardised"),
        ("resnext3d101(shortcut='A')", "has no parameter 'shortcut'"),
        ("r3d18_hara(shortcut='C')", "choose one of A, B"),
        ("r3d18_hara(shortcut='B', legacy_detach=True)", "leave it out with shortcut B"),
    ):
        assert word in one_sentence(lambda text=text: MODELS.create(text))  # type: ignore[misc]
    for params, word in (
        ({"block": "resnet"}, "Unknown block 'resnet'"),
        ({"block": "resnext", "width": 8}, "width must be a whole number of at least 16"),
    ):
        assert word in one_sentence(lambda params=params: HaraResNet(3, **params))  # type: ignore[misc]


@pytest.mark.parametrize("model", ["resnext3d101", "wrn3d50", "r3d18_hara"])
@pytest.mark.parametrize("dataset", ["ucf101", "hmdb51"])
def test_what_is_missing_is_said(model: str, dataset: str, tmp_path: Path) -> None:
    missing = find_weights(Spec(model), dataset, None, tmp_path)
    assert isinstance(missing, Missing)
    file = tmp_path / "checkpoints" / f"{model}_{dataset}.pth"
    pretrained = {"resnext3d101": "resnext-101", "wrn3d50": "wideresnet-50", "r3d18_hara": "resnet-18"}[model]
    for part in ("publish none", f"fine-tune {pretrained}-kinetics.pth", "kenshohara/3D-ResNets-PyTorch", str(file)):
        assert part in str(missing)
    file.parent.mkdir()
    file.touch()
    assert find_weights(Spec(model), dataset, None, tmp_path) == file


def test_registered_with_help_for_every_parameter() -> None:
    for name in ("resnext3d101", "wrn3d50", "r3d18_hara"):
        entry = MODELS.get(name)
        assert "CVPR 2018" in entry.source
        assert [p.name for p in entry.parameters if not p.help] == []
        assert {p.name: p.default for p in entry.parameters}["inputs"] == "unit"
    assert "breaks gradients" in next(p.help for p in MODELS.get("r3d18_hara").parameters if p.name == "legacy_detach")
