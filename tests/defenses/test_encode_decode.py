"""Encoding and decoding alone."""

from __future__ import annotations

import torch
from kit.rendered import clips_of

from bench import ClipRandom
from bench.defenses.encode_decode import EncodeDecode


def test_encode_decode_in_pixel_space_is_the_identity() -> None:
    clips = clips_of(1, 4)
    torch.testing.assert_close(EncodeDecode("pixel_tiny").purify(clips, ClipRandom([0])), clips, rtol=0, atol=1e-6)
