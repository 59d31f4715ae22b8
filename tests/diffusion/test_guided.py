"""Guided Diffusion's checkpoint format, against a plain computation from the published names of the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kit.guided import Plain, small

from bench import BenchError
from bench.diffusion.guided import build_guided, convert
from bench.weights.files import load_strictly


@torch.no_grad()
def test_a_converted_checkpoint_computes_what_the_published_network_does() -> None:
    plain, x = Plain(), torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    expected = plain(x, 101)
    network = small()
    load_strictly(network, convert(plain.state, network), Path("small.pt"))
    found = network(x, 101).sample
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_published_size() -> None:
    """Fact: 552.8 million weights."""
    with torch.device("meta"):
        network = build_guided()
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(552.8e6, rel=1e-3)


def test_other_networks_are_refused() -> None:
    plain = Plain()
    with torch.no_grad():
        plain(torch.zeros(1, 3, 16, 16), 1)
    with pytest.raises(BenchError, match="has no label_emb"):
        convert({**plain.state, "label_emb.weight": torch.zeros(10, 64)}, small())
    del plain.state["middle_block.1.qkv.weight"]
    with pytest.raises(BenchError, match=r"missing keys: mid_block\.attentions\.0\.to_k\.weight"):
        load_strictly(small(), convert(plain.state, small()), Path("small.pt"))
