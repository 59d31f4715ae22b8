"""Branches of batch normalisation and their selection, against normalisations written out."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import BenchError
from bench.models.base import build_seeded
from bench.models.multibn import BRANCHES, Branches, MultiBN, Route, branched, from_published
from bench.models.resnet3d import ResNet3D
from bench.models.robust import multibn
from bench.weights.files import fingerprint


def clips(count: int = 6, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 4, 16, 16, generator=torch.Generator().manual_seed(seed))


def network(seed: int = 0, classes: int = 5) -> ResNet3D:
    """Two stages, with running statistics that are not those of a fresh network."""

    def build() -> ResNet3D:
        net = ResNet3D(classes, width=4, blocks=(1, 1), stem_kernel=(3, 3, 3), stem_stride=(1, 2, 2))
        for module in net.modules():
            if isinstance(module, nn.BatchNorm3d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.3, 0.3)
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 2.0)
        return net

    return build_seeded(build, seed).eval()


def distinct(shortcuts: bool = False, select: str = "soft") -> MultiBN:
    """Branches that differ from one another."""
    net = MultiBN(network(), network(1, len(BRANCHES)), shortcuts, select).eval()
    generator = torch.Generator().manual_seed(3)
    for module in net.modules():
        if isinstance(module, Branches):
            for branch in module.branches:
                for value in branch.state_dict().values():
                    if value.is_floating_point():
                        value.mul_(0.8 + 0.4 * torch.rand(value.shape, generator=generator))
    return net


def of_branch(net: MultiBN, k: int) -> nn.Module:
    """The plain network that one branch is."""
    plain = copy.deepcopy(net.classifier)
    for path, module in list(plain.named_modules()):
        if isinstance(module, Branches):
            parent, _, name = path.rpartition(".")
            setattr(plain.get_submodule(parent), name, module.branches[k])
    return plain


def test_branches_start_as_copies_of_the_layer_they_replace() -> None:
    plain, net = network(), MultiBN(network(), network(1, 3)).eval()
    for k in range(len(BRANCHES)):
        assert torch.equal(net.through(clips(), k), plain(clips()))
    torch.testing.assert_close(net(clips()), plain(clips()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shortcuts", [False, True])
def test_hard_routing_is_the_network_of_each_branch(shortcuts: bool) -> None:
    net = distinct(shortcuts)
    branch = torch.tensor([0, 2, 1, 1, 0, 2])
    found = net.through(clips(), branch)
    for k in range(len(BRANCHES)):
        torch.testing.assert_close(found[branch == k], of_branch(net, k)(clips()[branch == k]), rtol=1e-5, atol=1e-6)


def test_a_named_branch_is_taken_for_all_clips() -> None:
    for k, name in enumerate(BRANCHES):
        net = distinct(select=name)
        torch.testing.assert_close(net(clips()), of_branch(net, k)(clips()), rtol=1e-5, atol=1e-6)


def test_soft_routing_weighs_the_normalised_features() -> None:
    route = Route()
    layer = Branches(nn.BatchNorm3d(4), 3, route).eval()
    generator = torch.Generator().manual_seed(1)
    for branch in layer.branches:
        for name, value in branch.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + ("var" in name))
    x = torch.randn(2, 4, 2, 3, 3, generator=generator)
    weights = torch.tensor([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]])
    route.weights = weights
    expected = torch.zeros_like(x)
    for b in range(2):
        for k, branch in enumerate(layer.branches):
            assert isinstance(branch, nn.BatchNorm3d)
            assert branch.running_mean is not None
            assert branch.running_var is not None
            for c in range(4):
                z = (x[b, c] - branch.running_mean[c]) / (branch.running_var[c] + branch.eps) ** 0.5
                expected[b, c] += weights[b, k] * (branch.weight[c] * z + branch.bias[c])
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)
    layer.train()  # no branch learns: the same values by the other path
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)


def test_a_certain_selection_is_hard_routing() -> None:
    net = distinct()
    sure = torch.tensor([[0.0, 200.0, 0.0]]).expand(6, 3)
    torch.testing.assert_close(net.mixed(clips(), sure), net.through(clips(), 1), rtol=1e-4, atol=1e-5)


def test_only_the_learning_branch_learns() -> None:
    net = distinct().train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net.mixed(clips(), net.selection(clips()), learning=2)
    moved = {k for k, v in net.state_dict().items() if "running" in k and not torch.equal(v, before[k])}
    assert any(".branches.2." in k for k in moved)
    assert not any(".branches.0." in k or ".branches.1." in k for k in moved)


def test_a_packed_batch_teaches_each_branch_its_own_part() -> None:
    net = distinct().train()
    alone = copy.deepcopy(of_branch(net, 1)).train()
    branch = torch.tensor([0, 1, 1, 2, 1, 0])
    net.through(clips(), branch)
    alone(clips()[branch == 1])
    stem = net.classifier.get_submodule("stem.1")
    assert isinstance(stem, Branches)
    torch.testing.assert_close(stem.branches[1].running_mean, alone.get_submodule("stem.1").running_mean)


@pytest.mark.slow
def test_the_gradient_passes_through_the_selection() -> None:
    net = distinct().double()
    x = clips(1).double().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda v: net(v)[:, :2], (x[..., :8, :8].detach().requires_grad_(True),), atol=1e-6)
    with_selection = torch.autograd.grad(net(x).sum(), x)[0]
    fixed = torch.autograd.grad(net.mixed(x, net.selection(x).detach()).sum(), x)[0]
    assert (with_selection - fixed).abs().max() > 1e-6


def test_shortcuts_are_shared_unless_told_otherwise() -> None:
    few, many = (sum(isinstance(m, Branches) for m in distinct(s).classifier.modules()) for s in (False, True))
    shortcuts = sum("downsample" in n and isinstance(m, nn.BatchNorm3d) for n, m in network().named_modules())
    assert shortcuts == 1
    assert many - few == shortcuts


def test_the_published_layout_is_renamed() -> None:
    route = Route()
    net = branched(network(), route)
    state = net.state_dict()
    published = {}
    for name, value in state.items():
        for k, suffix in enumerate(("", "_b", "_c")):
            name = name.replace(f".branches.{k}.", f"{suffix}.")
        published[name] = value
    assert {k: v.tolist() for k, v in from_published(published).items()} == {k: v.tolist() for k, v in state.items()}


def test_nothing_stays_behind_after_a_pass() -> None:
    net = distinct()
    assert torch.equal(net(clips()), net(clips()))
    with pytest.raises(ZeroDivisionError), net.routed(branch=torch.zeros(6).long()):
        raise ZeroDivisionError
    assert net._route == Route()


def test_wrapping_depends_on_the_seed_alone() -> None:
    one, two, other = (fingerprint(multibn(network(), seed, selector="resnet3d_tiny")) for seed in (0, 0, 1))
    assert one == two != other


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MultiBN(nn.Conv3d(3, 3, 1), None, select="clean"), "needs batch normalisation, and Conv3d has none"),
        (lambda: MultiBN(network(), None, select="soft"), "give one, or name a branch"),
        (lambda: MultiBN(network(), None, select="l2"), "no branch 'l2': choose soft, clean, lp, physical"),
    ],
)
def test_bad_input(make: Any, says: str) -> None:
    with pytest.raises(BenchError, match=says):
        make()
