"""NL against the published layout, and its checkpoints in every form they come in."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bench import BenchError
from bench.models.nl import NLResNet, NonLocalBlock, drop_aliases, nl_r50, nl_tiny

BLOCKS = (3, 4, 6, 3)
INFLATED = {(0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 2), (2, 4), (3, 1)}
NON_LOCAL = {(1, 1), (1, 3), (2, 1), (2, 3), (2, 5)}


def layout(classes: int) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of GluonCV's i3d_nl5_resnet50_v1, written out from its description."""
    shapes: dict[str, tuple[int, ...]] = {"first_stage.0.weight": (64, 3, 5, 7, 7)}

    def norm(name: str, width: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (width,)
        shapes[f"{name}.num_batches_tracked"] = ()

    norm("first_stage.1", 64)
    width = 64
    for stage, count in enumerate(BLOCKS):
        planes = 64 * 2**stage
        for block in range(count):
            name = f"res_layers.{stage}.{block}"
            shapes[f"{name}.conv1.weight"] = (planes, width, 3 if (stage, block) in INFLATED else 1, 1, 1)
            shapes[f"{name}.conv2.weight"] = (planes, planes, 1, 3, 3)
            shapes[f"{name}.conv3.weight"] = (4 * planes, planes, 1, 1, 1)
            for k, out in ((1, planes), (2, planes), (3, 4 * planes)):
                norm(f"{name}.bn{k}", out)
            if block == 0:
                shapes[f"{name}.downsample.0.weight"] = (4 * planes, width, 1, 1, 1)
                norm(f"{name}.downsample.1", 4 * planes)
            width = 4 * planes
            if (stage, block) in NON_LOCAL:
                for part in ("theta", "phi", "g"):
                    shapes[f"{name}.nonlocal_block.{part}.weight"] = (width // 2, width, 1, 1, 1)
                    shapes[f"{name}.nonlocal_block.{part}.bias"] = (width // 2,)
                shapes[f"{name}.nonlocal_block.W.weight"] = (width, width // 2, 1, 1, 1)
                shapes[f"{name}.nonlocal_block.W.bias"] = (width,)
                norm(f"{name}.nonlocal_block.bn", width)
    shapes["fc.weight"], shapes["fc.bias"] = (classes, 2048), (classes,)
    return shapes


def cheap_state(classes: int) -> dict[str, Tensor]:
    """A full state dict in a few kilobytes: each tensor repeats one value of its own."""
    state = {}
    for i, (key, shape) in enumerate(layout(classes).items()):
        value = torch.tensor(i) if key.endswith("tracked") else torch.tensor(0.01 * i + 0.01)
        state[key] = value.expand(shape)
    return state


def with_aliases(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Adds the second names that GluonCV's double registration leaves in its files."""
    twins = {}
    for key, value in state.items():
        for name, alias in ((".nonlocal_block.W.", ".W_bn.0."), (".nonlocal_block.bn.", ".W_bn.1.")):
            if name in key:
                twins[key.replace(name, f".nonlocal_block{alias}")] = value
        if key.startswith("fc."):
            twins[f"head.1.{key.removeprefix('fc.')}"] = value
    return {**state, **twins}


# --- the non-local block --------------------------------------------------------------------------------------


def test_non_local_block_is_softmax_attention_over_all_positions() -> None:
    rng = np.random.default_rng(0)
    block = NonLocalBlock(6).double().eval()
    with torch.no_grad():
        for parameter in [*block.parameters(), block.bn.running_mean]:
            parameter.copy_(torch.from_numpy(rng.standard_normal(parameter.shape)))
        block.bn.running_var.copy_(torch.from_numpy(rng.uniform(0.5, 2, 6)))
    x = rng.standard_normal((2, 6, 2, 3, 2))
    found = block(torch.from_numpy(x)).detach().numpy()

    def project(name: str, clip: np.ndarray) -> np.ndarray:
        layer = block.get_submodule(name)
        weight, bias = layer.weight.detach().numpy()[:, :, 0, 0, 0], layer.bias.detach().numpy()
        return weight @ clip + bias[:, None]

    bn = block.bn
    for b in range(2):
        clip = x[b].reshape(6, 12)
        theta, phi, g = (project(name, clip) for name in ("theta", "phi", "g"))
        mixed = np.zeros((3, 12))
        for i in range(12):
            scores = np.array([theta[:, i] @ phi[:, j] for j in range(12)]) * 3**-0.5
            weights = np.exp(scores) / np.exp(scores).sum()
            mixed[:, i] = sum(weights[j] * g[:, j] for j in range(12))
        out = project("W", mixed)
        mean, var = bn.running_mean.numpy()[:, None], bn.running_var.numpy()[:, None]
        out = (out - mean) / np.sqrt(var + bn.eps)
        out = out * bn.weight.detach().numpy()[:, None] + bn.bias.detach().numpy()[:, None]
        np.testing.assert_allclose(found[b].reshape(6, 12), clip + out, rtol=1e-9, atol=1e-9)


def test_non_local_block_starts_as_the_identity() -> None:
    x = torch.randn(1, 4, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    block = NonLocalBlock(4)
    assert torch.equal(block.eval()(x), x)
    assert block.bn.momentum == 0.9


# --- the architecture -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weightless() -> NLResNet:
    with torch.device("meta"):
        return NLResNet(400).eval()


def test_keys_and_shapes_are_those_of_the_published_file(weightless: NLResNet) -> None:
    assert {k: tuple(v.shape) for k, v in weightless.state_dict().items()} == layout(400)


def test_parameter_count(weightless: NLResNet) -> None:
    counted = sum(p.numel() for p in weightless.parameters())
    trained = {k: s for k, s in layout(400).items() if "running_" not in k and not k.endswith("tracked")}
    assert counted == sum(math.prod(s) for s in trained.values())
    assert round(counted / 1e6, 1) == 35.4


def test_activations_have_the_published_shapes(weightless: NLResNet) -> None:
    net = weightless
    seen: dict[str, tuple[int, ...]] = {}

    def note(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, __: object, out: Tensor) -> None:
            seen[name] = tuple(out.shape[1:])

        module.register_forward_hook(hook)

    for name in ("first_stage.0", "first_stage.3", "pool2", "fc", *(f"res_layers.{s}" for s in range(4))):
        note(name, net.get_submodule(name))
    note("attention", net.get_submodule("res_layers.1.1.nonlocal_block.theta"))
    net(torch.empty(1, 3, 32, 224, 224, device="meta"))
    assert seen == {
        "first_stage.0": (64, 16, 112, 112),
        "first_stage.3": (64, 8, 56, 56),
        "res_layers.0": (256, 8, 56, 56),
        "pool2": (256, 4, 56, 56),
        "res_layers.1": (512, 4, 28, 28),
        "attention": (256, 4, 28, 28),
        "res_layers.2": (1024, 4, 14, 14),
        "res_layers.3": (2048, 4, 7, 7),
        "fc": (400,),
    }
    assert list(seen).index("res_layers.0") < list(seen).index("pool2") < list(seen).index("res_layers.1")


def test_strides_and_paddings(weightless: NLResNet) -> None:
    stem, pool = weightless.first_stage[0], weightless.first_stage[3]
    assert (stem.stride, stem.padding) == ((2, 2, 2), (2, 3, 3))
    assert (pool.kernel_size, pool.stride, pool.padding) == ((1, 3, 3), (2, 2, 2), (0, 1, 1))
    for stage, count in enumerate(BLOCKS):
        for block in range(count):
            unit = weightless.res_layers[stage][block]
            step = 2 if stage > 0 and block == 0 else 1
            assert unit.conv1.stride == unit.conv3.stride == (1, 1, 1)
            assert unit.conv2.stride == (1, step, step)
            assert unit.conv1.padding == ((1, 0, 0) if (stage, block) in INFLATED else (0, 0, 0))
            assert unit.conv2.padding == (0, 1, 1)
    assert weightless.dropout.p == 0.5


def test_temporal_pooling_of_the_stem_keeps_every_second_frame(weightless: NLResNet) -> None:
    x = torch.rand(1, 1, 6, 2, 2, generator=torch.Generator().manual_seed(0))
    pooled = weightless.first_stage[3](x)
    assert torch.equal(pooled[0, 0, :, 0, 0], x[0, 0, ::2].amax(dim=(1, 2)))


def test_tiny_network_normalises_inside() -> None:
    model = nl_tiny().eval()
    assert sum(p.numel() for p in model.parameters()) == 240_372
    clips = torch.rand(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1, 1)
    assert model(clips).shape == (2, 12)
    torch.testing.assert_close(model(clips), model.logits((clips - mean) / std))
    assert "mean" not in model.state_dict()
    with pytest.raises(BenchError, match=r"\(B, 3, T, H, W\), not \(2, 4, 3, 16, 16\)"):
        model(clips.transpose(1, 2))


def test_tiny_network_is_its_seed() -> None:
    torch.manual_seed(1)
    first, state = nl_tiny(seed=3).state_dict(), torch.get_rng_state()
    torch.manual_seed(2)
    second, other = nl_tiny(seed=3).state_dict(), nl_tiny(seed=4).state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not torch.equal(first["first_stage.0.weight"], other["first_stage.0.weight"])
    assert not torch.equal(first["fc.weight"], other["fc.weight"])
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


# --- checkpoints ----------------------------------------------------------------------------------------------


def test_published_file_is_read(tmp_path: Path) -> None:
    """Wrapped, prefixed, with every tensor of a doubly registered module stored twice, and 7 classes."""
    state = cheap_state(7)
    content = {f"module.{k}": v for k, v in with_aliases(state).items()}
    assert len(content) == len(state) + 5 * 7 + 2
    torch.save({"state_dict": content, "epoch": 3}, tmp_path / "net.pth")
    model = nl_r50(tmp_path / "net.pth")
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    for key, value in state.items():
        assert loaded[key].shape == value.shape, key
        assert torch.equal(loaded[key], value), key
    assert model.fc.out_features == 7


def test_bare_safetensors_file_is_read(tmp_path: Path) -> None:
    state = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in cheap_state(5).items()}
    save_file(state, tmp_path / "net.safetensors")
    with pytest.warns(UserWarning, match="half precision"):
        loaded = nl_r50(tmp_path / "net.safetensors", num_classes=5).state_dict()
    assert loaded["fc.weight"].shape == (5, 2048)
    assert all(torch.equal(loaded[k], state[k].to(loaded[k].dtype)) for k in state)


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    state = cheap_state(7)
    del state["res_layers.2.5.nonlocal_block.theta.weight"]
    state["res_layers.4.0.conv1.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(BenchError) as caught:
        nl_r50(tmp_path / "net.pth")
    message = str(caught.value)
    assert "net.pth is not for NLResNet" in message
    assert "missing keys: res_layers.2.5.nonlocal_block.theta.weight;" in message
    assert "unexpected keys: res_layers.4.0.conv1.weight." in message


def test_other_number_of_classes_is_refused(tmp_path: Path) -> None:
    torch.save(cheap_state(7), tmp_path / "net.pth")
    with pytest.raises(BenchError, match="has 7 classes, not 101"):
        nl_r50(tmp_path / "net.pth", num_classes=101)


def test_pickled_network_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "net.pth")
    with pytest.raises(BenchError, match=r"Cannot read the checkpoint .*net\.pth.*plain tensors"):
        nl_r50(tmp_path / "net.pth")


def test_equal_aliases_are_dropped() -> None:
    state = cheap_state(7)
    found = drop_aliases(with_aliases(state), Path("net.pth"))
    assert found.keys() == state.keys()
    assert all(found[k] is state[k] for k in state)


def test_lone_aliases_get_their_real_names() -> None:
    state = cheap_state(7)
    doubled = with_aliases(state)
    for key in state:
        if key.startswith("fc.") or ".nonlocal_block.W." in key or ".nonlocal_block.bn." in key:
            del doubled[key]
    found = drop_aliases(doubled, Path("net.pth"))
    assert found.keys() == state.keys()
    assert all(torch.equal(found[k], state[k]) for k in state)


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("head.1.weight", "fc.weight"),
        ("head.1.bias", "fc.bias"),
        ("res_layers.1.3.nonlocal_block.W_bn.0.bias", "res_layers.1.3.nonlocal_block.W.bias"),
        ("res_layers.2.5.nonlocal_block.W_bn.1.running_var", "res_layers.2.5.nonlocal_block.bn.running_var"),
    ],
)
def test_differing_aliases_are_an_error(alias: str, name: str) -> None:
    doubled = with_aliases(cheap_state(7))
    doubled[alias] = doubled[alias].clone()
    doubled[alias].view(-1)[-1] += 1
    with pytest.raises(BenchError, match=rf"two different tensors for {name} and its alias {alias}"):
        drop_aliases(doubled, Path("net.pth"))
