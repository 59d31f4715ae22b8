"""In which numbers networks compute."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bench import BenchError
from bench.modes import check_precision, computing, float32_by_default

CPU = torch.device("cpu")


class Seen(nn.Module):
    """Keeps the dtype in which its product is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.dtypes: list[torch.dtype] = []

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        self.dtypes.append(y.dtype)
        return y


def test_bf16_is_for_products_alone_and_ends_with_the_block() -> None:
    net, x = Seen(), torch.rand(2, 4)
    with computing("bf16", CPU):
        assert torch.zeros(1).dtype == torch.float32
        rounded = net(x).detach()
    assert net.dtypes == [torch.bfloat16]
    plain = net(x).detach()
    assert net.dtypes[1] == torch.float32
    # Eight bits of mantissa: close, and not equal.
    assert 0 < float((rounded - plain).abs().max()) < 0.05


def test_fp32_is_so_inside_of_others_mixed_precision() -> None:
    net, x = Seen(), torch.rand(2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16), computing("fp32", CPU):
        net(x)
    assert net.dtypes == [torch.float32]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_products_on_cuda(precision: str) -> None:
    """What cuBLAS and cuDNN are told; they get their own settings back."""
    cudnn, matrices = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, matrices.fp32_precision, cudnn.allow_tf32
    with computing(precision, CPU):  # type: ignore[arg-type]
        assert cudnn.allow_tf32 == matrices.allow_tf32 == (precision == "tf32")
        with cudnn.flags(enabled=False):  # which raises where convolutions and recurrent layers differ
            pass
    assert (cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision, matrices.fp32_precision, cudnn.allow_tf32) == before


@pytest.mark.parametrize("word", ["highest", "high", "medium"])
def test_the_precision_of_matrix_products_is_put_back(word: str) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(word)
        with computing("fp32", CPU):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == word
    finally:
        torch.set_float32_matmul_precision(before)


def test_what_there_is_not() -> None:
    with pytest.raises(BenchError, match="Unknown precision 'fp16': choose fp32, tf32 or bf16"):
        check_precision("fp16")
    with pytest.raises(BenchError, match="tf32 is a way of NVIDIA GPUs"):
        check_precision("tf32", "cpu")
    check_precision("tf32", "cuda")
    check_precision("bf16", "cpu")


def test_float32_by_default() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        with float32_by_default():
            assert torch.zeros(1).dtype == torch.float32
        assert torch.zeros(1).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
