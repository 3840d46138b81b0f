"""Fixtures of the model tests."""

import pytest
import torch
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen2_5
from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen3


@pytest.fixture
def double_islands(monkeypatch):
    """The stock forward casts to float32 inside norms and the vision rotary; float64 parity to
    1e-10 needs both implementations to run without those roundings."""

    def norm(self, x):
        return (
            self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        )

    def rotary(q, k, cos, sin):
        cos, sin = cos.unsqueeze(-2).to(q.dtype), sin.unsqueeze(-2).to(q.dtype)
        return q * cos + qwen3.rotate_half(q) * sin, k * cos + qwen3.rotate_half(k) * sin

    monkeypatch.setattr(qwen2_5.Qwen2_5_VLRMSNorm, "forward", norm)
    monkeypatch.setattr(qwen3.Qwen3VLTextRMSNorm, "forward", norm)
    for stock in (qwen2_5, qwen3):
        monkeypatch.setattr(stock, "apply_rotary_pos_emb_vision", rotary)
