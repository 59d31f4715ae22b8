"""AstFocus: where it moves, what its agents learn, and what it finds where the best clip is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from kit.draws import draw
from kit.queried import Two, left_of_close_calls, target_of, zeros
from torch import Tensor, nn

from bench import AttackResult, Budget, ClipRandom, Survivors, Target
from bench.attacks.astfocus import Agents, AstFocus, focus
from bench.attacks.noise import UniformNoise

SHAPE = (3, 4, 6, 6)


def attack(
    model: nn.Module | Target, clips: Tensor, size: float, labels: Tensor | None = None, **how: Any
) -> AttackResult:
    labels = zeros(len(clips)) if labels is None else labels
    return AstFocus(**how)(model, clips, labels, Budget("linf", size), ClipRandom(range(len(clips))))


def clips_of(count: int) -> Survivors:
    clips = torch.zeros(count, 3, 16, 2, 2)
    return Survivors(clips, zeros(count), Budget(), ClipRandom(range(count)))


# --- where it moves -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "share"), [(112, 112, 0.58), (9, 14, 0.5), (6, 6, 1.0), (3, 3, 0.1)])
def test_regions_lie_on_a_grid_of_seven_by_seven(height: int, width: int, share: float) -> None:
    places = torch.arange(49).reshape(7, 7)
    found = focus(torch.ones(7, 7).bool(), places, share, height, width)
    tall, wide = max(1, round(share * height)), max(1, round(share * width))
    if height == 112:
        assert tall == 65  # as published
    for row in range(7):
        for column in range(7):
            top, left = math.floor(row / 6 * (height - tall)), math.floor(column / 6 * (width - wide))
            expected = torch.zeros(height, width)
            expected[top : top + tall, left : left + wide] = 1
            assert torch.equal(found[row, 0, column], expected)


def test_only_key_frames_move() -> None:
    frames = torch.tensor([[True, False, True]])
    found = focus(frames, torch.zeros(1, 3, dtype=torch.int64), 0.5, 4, 4)
    assert found.sum((1, 3, 4)).tolist() == [[4, 0, 4]]


def test_points_and_steps_stay_in_the_focus() -> None:
    clips = draw(1, 3, 16, 12, 12, seed=1, low=0.4, high=0.6)
    model = Two(draw(3, 16, 12, 12, seed=2, low=-1), -1e4)
    attack(model, clips, 0.1, queries=1 + 5 * 30, samples=4)
    looks = torch.cat(model.seen[::5])
    counts, places = set(), set()
    for i in range(30):
        up, down = model.seen[1 + 5 * i][0], model.seen[2 + 5 * i][0]
        moved = (looks[i + 1] - looks[i]).abs().amax(0)
        tried = (up - down).abs().amax(0) > 0
        keys = tried.flatten(1).any(1)
        counts.add(int(keys.sum()))
        for t in range(16):
            rows, columns = torch.where(tried[t])
            if keys[t]:
                box = (int(rows.min()), int(columns.min()))
                assert (int(rows.max()) - box[0] + 1, int(columns.max()) - box[1] + 1) == (7, 7)  # 0.58 of 12
                places.add(box)
            assert not bool((moved[t] > 0)[~tried[t]].any())
    assert counts <= set(range(2, 11))
    assert len(counts) > 3
    assert len(places) > 20


# --- the agents -----------------------------------------------------------------------------------------------


def test_an_agent_picks_between_an_eighth_and_five_eighths_of_the_frames() -> None:
    agents, left = Agents.new(50, 16), clips_of(50)
    agents.frames[:10] = -3.0  # one frame in twenty
    counts = torch.stack([agents.act(left)[0].sum(1) for _ in range(20)])
    assert ((counts >= 2) & (counts <= 10)).all()
    assert counts[:, :10].double().mean() < 4 < 7 < counts[:, 10:].double().mean() < 9
    agents.frames[:] = 60.0  # all of them, ten times out of ten
    keys = agents.act(left)[0]
    assert (keys.sum(1) == 8).all()
    assert len({tuple(k.tolist()) for k in keys}) > 40


def test_places_follow_their_weights() -> None:
    agents, left = Agents.new(400, 16), clips_of(400)
    agents.regions[..., 5] = math.log(49.0)  # 49 of 97
    places = agents.act(left)[1]
    assert places.min() == 0
    assert places.max() == 48
    assert float((places == 5).double().mean()) == pytest.approx(49 / 97, abs=4 * math.sqrt(0.25 / places.numel()))


def test_agents_learn_by_the_policy_gradient() -> None:
    """The rules in plain numbers, for two clips of which the second is looked at half as often."""
    agents, left, rate = Agents.new(2, 16), clips_of(2), 0.7
    standings = draw(2, 9, seed=3, low=0.4, high=2.7).double()
    frames, regions = [[0.0] * 16 for _ in range(2)], [[[0.0] * 49 for _ in range(16)] for _ in range(2)]
    before, baseline, rewards = [math.nan] * 2, [0.0] * 2, [[], []]
    keys, places = torch.zeros(2, 16).bool(), torch.zeros(2, 16, dtype=torch.int64)
    for turn in range(9):
        rows = torch.tensor([0, 1] if turn % 2 == 0 else [0])
        agents.learn(rows, standings[rows, turn], rate)
        for i in rows.tolist():
            now = float(standings[i, turn])
            if not math.isnan(before[i]):
                reward = (now - before[i]) / before[i]
                rewards[i].append(reward)
                baseline[i] = 0.9 * baseline[i] + 0.1 * sum(rewards[i]) / len(rewards[i])
                gain, n = reward - baseline[i], int(keys[i].sum())
                for t in range(16):
                    chance = 1 / (1 + math.exp(-frames[i][t]))
                    frames[i][t] += rate * (0.2 * gain - 0.8 * ((n - 8) / 16) ** 2) * (int(keys[i, t]) - chance)
                    if keys[i, t]:
                        total = sum(math.exp(w) for w in regions[i][t])
                        odds = [math.exp(w) / total for w in regions[i][t]]
                        for place in range(49):
                            regions[i][t][place] += rate * gain * (int(place == places[i, t]) - odds[place])
            before[i] = now
        torch.testing.assert_close(agents.frames, torch.tensor(frames).double(), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(agents.regions, torch.tensor(regions).double(), rtol=1e-4, atol=1e-6)
        keys, places = agents.act(left)
    assert agents.frames.abs().max() > 0.01


def test_agents_come_to_prefer_what_pays() -> None:
    """Only frame 3 gains anything, and only in the upper half of its places."""
    agents, left = Agents.new(8, 16), clips_of(8)
    standing = torch.ones(8).double()
    agents.learn(left.rows, standing, 4.0)
    for _ in range(300):
        keys, places = agents.act(left)
        standing = standing * torch.where(keys[:, 3] & (places[:, 3] < 28), 1.5, 1.0)
        agents.learn(left.rows, standing, 4.0)
    others = agents.frames[:, [t for t in range(16) if t != 3]]
    assert agents.frames[:, 3].mean() > 1 > others.mean() + 0.5
    chance = agents.regions.softmax(2)[:, :, :28].sum(2).mean(0)
    assert chance[3] > 0.75
    assert (chance[[t for t in range(16) if t != 3]] - 28 / 49).abs().max() < 0.2


# --- what it finds --------------------------------------------------------------------------------------------


def test_it_goes_a_good_part_of_the_way_to_the_best_clip_of_a_linear_classifier() -> None:
    """A random corner of the ball gains nothing on average; the best one is known."""
    clips, weight = draw(4, *SHAPE, seed=5, low=0.2, high=0.8), draw(*SHAPE, seed=6, low=-1)
    result = attack(Two(weight, -100.0), clips, 0.1, queries=1500)
    gain = ((result.clips - clips) * weight).flatten(1).sum(1) / (0.1 * weight.abs().sum())
    assert (gain > 0.4).all()
    assert (gain <= 1 + 1e-5).all()


def test_it_begins_at_the_clip() -> None:
    clips, model = draw(2, *SHAPE), Two(draw(*SHAPE, seed=6, low=-1), -100.0)
    attack(model, clips, 0.1, queries=4)
    assert torch.equal(model.seen[0], clips)


def test_it_breaks_clips_that_noise_does_not() -> None:
    assert left_of_close_calls(AstFocus(queries=300)) < left_of_close_calls(UniformNoise())


@pytest.mark.parametrize("kind", ["decisive", "transfer", "stochastic"])
def test_result_does_not_depend_on_the_batch(kind: str) -> None:
    clips, weight = draw(3, *SHAPE, seed=14), draw(*SHAPE, seed=15, low=-1)
    scores = (clips.double() * weight.double()).flatten(1).sum(1)
    model, how = Two(weight, -float(scores.median()) - 0.3), {"queries": 200, "samples": 8}
    target = target_of(model, 3, kind)
    together = attack(target, clips, 0.05, **how).clips
    assert torch.equal(together, attack(target_of(model, 3, kind), clips, 0.05, **how).clips)
    assert (len(set(target.forwards.tolist())) > 1) is (kind == "decisive")
    for i in range(3):
        one = target_of(model, 1, kind)
        alone = AstFocus(**how)(one, clips[i : i + 1], zeros(1), Budget("linf", 0.05), ClipRandom([i])).clips
        assert torch.equal(together[i : i + 1], alone)
        assert one.forwards[0] == target.forwards[i]


def test_settings_that_make_no_sense_are_refused() -> None:
    for region in (0.0, 1.5, math.nan):
        with pytest.raises(ValueError, match="region must lie in"):
            AstFocus(region=region)
    for rate in (-1.0, math.nan):
        with pytest.raises(ValueError, match="rate must not be negative"):
            AstFocus(rate=rate)
