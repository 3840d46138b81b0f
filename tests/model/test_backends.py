"""On a CUDA device: the variable-length kernels agree with the dense one that CPUs have tested."""

import pytest
import torch

from photon.model.attention import AttentionPlan

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

LENGTHS = [2, 9, 1, 2, 8, 3]


def outcome(backend, causal, gated, dtype):
    """Output and gradients of ragged grouped-query segments over shared keys, in float32."""
    generator = torch.Generator().manual_seed(1)
    reads = [torch.randperm(25, generator=generator)[: 3 * i] for i in range(len(LENGTHS))]
    keys = [torch.cat([rows, torch.arange(n)]) for rows, n in zip(reads, LENGTHS, strict=True)]
    shapes = [(25, 4, 64), (25, 2, 64), (25, 2, 64), (sum(map(len, keys)),)]
    drawn = [torch.randn(s, generator=generator).bfloat16().to("cuda", dtype) for s in shapes]
    q, k, v, gate = (x.requires_grad_() for x in drawn)
    plan = AttentionPlan(LENGTHS, keys, causal, backend, "cuda")
    out = plan.attend(q, k, v, 0.1, gate if gated else None)
    weight = torch.randn(out.shape, generator=generator).to("cuda", dtype)
    inputs = [q, k, v, gate] if gated else [q, k, v]
    return [x.float() for x in (out, *torch.autograd.grad((out * weight).sum(), inputs))]


@pytest.mark.parametrize("backend", ["flash", "varlen"])
@pytest.mark.parametrize("causal, gated", [(True, False), (False, False), (True, True)])
def test_kernels_agree(backend, causal, gated):
    if backend == "flash":
        pytest.importorskip("flash_attn")
    expected = outcome("sdpa", causal, gated, torch.float32)
    got = outcome(backend, causal, gated, torch.bfloat16)
    for ours, reference in zip(got, expected, strict=True):
        assert reference.abs().max() > 0.05
        torch.testing.assert_close(ours, reference, atol=0.03, rtol=0.03)
