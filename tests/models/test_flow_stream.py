"""The flow stream sees the flow and nothing else, and lets the gradient through to the pixels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bench import BenchError
from bench.flow.base import Features, FlowEstimator
from bench.models.flow_stream import FlowStream
from bench.models.resnet3d import ResNet3D
from bench.registry import DATASETS, Spec
from bench.training.objectives import classifier
from bench.training.objectives.classifier import Classification, FlowStreamClassification


class RedDifference(FlowEstimator):
    """As flow along x, 20 times the change of red; as flow along y, minus that. Differentiable and checkable."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(20.0))
        self.norm = torch.nn.BatchNorm2d(3)

    def features(self, frames: Tensor) -> Features:
        return (frames[:, 0],)

    def match(self, first: Features, second: Features) -> Tensor:
        change = self.gain * (second[0] - first[0])
        return torch.stack([change, -change], 1)


def stream() -> FlowStream:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FlowStream(
            RedDifference(), ResNet3D(5, width=8, blocks=(1,), stem_stride=(1, 2, 2), channels=2), limit=4.0
        )


def test_flow_is_scaled_and_cut_off_but_never_blind() -> None:
    model = stream()
    clips = torch.zeros(1, 3, 4, 2, 2)
    clips[0, 0, 1] = 0.1  # red rises by 0.1: 2 px per frame, half of the limit; then by 0.8: far beyond it
    clips[0, 0, 2:] = 0.9
    clips.requires_grad_(True)
    seen = model.scaled_flow(clips)
    assert seen.shape == (1, 2, 3, 2, 2)
    expected = torch.tensor([0.5, 1.0, 0.0]).view(3, 1, 1).expand(3, 2, 2)
    torch.testing.assert_close(seen[0, 0], expected)
    torch.testing.assert_close(seen[0, 1], -expected)
    (gradient,) = torch.autograd.grad(seen[0, 0].sum(), clips)
    # Each step has slope 20 / 4 even where the value is cut off; inner frames gain from one and lose to the other.
    assert gradient[0, 0, :, 0, 0].tolist() == [-5.0, 0.0, 0.0, 5.0]
    assert not gradient[0, 1:].any()


def test_logits_depend_on_motion_alone() -> None:
    model = stream().eval()
    clips = torch.rand(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0)) / 2
    logits = model(clips)
    assert logits.shape == (2, 5)
    torch.testing.assert_close(model(clips + 0.25), logits, rtol=1e-3, atol=1e-4)
    assert float((model(clips.flip(2)) - logits).detach().abs().max()) > 1e-3
    torch.testing.assert_close(model.stream.logits(model.scaled_flow(clips)), logits)


def test_training_leaves_the_estimator_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "build_classifier", lambda spec, weights: stream())
    model = Classification().build(str(Spec("flow_stream_tiny")), "motion12")
    assert model.training
    assert not model.get_submodule("estimator").training
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in model.named_parameters() if n.startswith("stream.")}
    assert any(n.startswith("estimator.") for n in model.state_dict())  # the exported file is whole


def test_flow_of_a_training_clip_is_estimated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "build_classifier", lambda spec, weights: stream())
    objective = FlowStreamClassification()
    model = objective.build("flow_stream_tiny", "motion12")
    assert isinstance(model, FlowStream)
    data = DATASETS.create("motion12(split='train', frames=4, size=16, length=6)")
    refs = data.refs()
    calls = []
    estimate = model.scaled_flow
    monkeypatch.setattr(model, "scaled_flow", lambda clips: calls.append(len(clips)) or estimate(clips))
    flow, labels = objective.batch(data, refs[:4])
    again, _ = objective.batch(data, [refs[5], refs[2], refs[1]])
    assert calls == [4, 1]
    assert labels.tolist() == [0, 1, 2, 3]
    assert torch.equal(again[1:], flow[[2, 1]])
    exact = estimate(torch.stack([data.load(r) for r in refs[:4]])).detach()
    torch.testing.assert_close(flow, exact, rtol=1e-3, atol=1e-4)  # kept in half precision

    model.eval()
    loss, figures = objective.loss(model, (exact, labels), torch.Generator())
    logits = model(torch.stack([data.load(r) for r in refs[:4]]))
    expected = (logits.logsumexp(1) - logits.gather(1, labels[:, None])[:, 0]).mean()
    torch.testing.assert_close(loss, expected)
    assert figures == {"accuracy": float((logits.argmax(1) == labels).float().mean())}


def test_flow_is_kept_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "build_classifier", lambda spec, weights: stream())
    one = 2 * 2 * 3 * 16 * 16  # bytes of a clip's flow: half precision, two channels, three pairs
    objective = FlowStreamClassification(keep=2.5 * one / 1e9)
    model = objective.build("flow_stream_tiny", "motion12")
    assert isinstance(model, FlowStream)
    data = DATASETS.create("motion12(split='train', frames=4, size=16, length=6)")
    calls, estimate = [], model.scaled_flow
    monkeypatch.setattr(model, "scaled_flow", lambda clips: calls.append(len(clips)) or estimate(clips))
    first, _ = objective.batch(data, data.refs()[:4])
    again, _ = objective.batch(data, data.refs()[:4])
    assert calls == [4, 2]
    torch.testing.assert_close(again, first)


def test_recipe_of_the_flow_stream_refuses_other_classifiers() -> None:
    with pytest.raises(BenchError, match="which 'nl_tiny' is not"):
        FlowStreamClassification().build("nl_tiny", "motion12")
