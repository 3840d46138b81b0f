"""Fixtures of the model tests."""

import pytest
import torch
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as stock


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
        return q * cos + stock.rotate_half(q) * sin, k * cos + stock.rotate_half(k) * sin

    monkeypatch.setattr(stock.Qwen2_5_VLRMSNorm, "forward", norm)
    monkeypatch.setattr(stock, "apply_rotary_pos_emb_vision", rotary)
