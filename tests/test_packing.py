"""Segment reductions against torch on each segment, ragged and equal lengths alike."""

import pytest
import torch

from photon.model.attention import AttentionPlan
from photon.packing import Segments


def rows(n, *shape):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("lengths", [[3, 1, 5], [4, 4], [7]])
@pytest.mark.parametrize("name", ["sum", "mean", "std", "max", "min", "q25"])
def test_reductions(lengths, name):
    segments = Segments(lengths)
    x = rows(segments.total)
    reference = {
        "sum": torch.sum,
        "mean": torch.mean,
        "std": lambda v: v.std(unbiased=False),
        "max": torch.amax,
        "min": torch.amin,
        "q25": lambda v: torch.quantile(v, 0.25),
    }[name]
    got = segments.quantile(x, 0.25) if name == "q25" else getattr(segments, name)(x)
    torch.testing.assert_close(got, torch.stack([reference(x[part]) for part in segments]))


def test_pad_and_unpad_are_inverse():
    segments = Segments([2, 0, 3])
    x = rows(5, 4)
    padded = segments.pad(x, fill=7.0)
    assert padded.shape == (3, 3, 4) and bool((padded[1] == 7).all())
    assert torch.equal(segments.unpad(padded), x)


def test_gradient_of_a_zero_spread_is_zero_and_finite():
    x = torch.ones(4, dtype=torch.float64, requires_grad=True)
    Segments([4]).std(x).sum().backward()
    assert torch.equal(x.grad, torch.zeros(4, dtype=torch.float64))


def loop_attention(q, k, v, plan_rows, lengths, causal):
    out, start = [], 0
    for n, keys in zip(lengths, plan_rows, strict=True):
        for i in range(n):
            see = keys[: len(keys) - n + i + 1] if causal else keys
            heads = []
            for h in range(q.shape[1]):
                g = h // (q.shape[1] // k.shape[1])
                weight = (k[see, g] @ q[start + i, h] * 0.3).softmax(0)
                heads.append(weight @ v[see, g])
            out.append(torch.stack(heads))
        start += n
    return torch.stack(out)


@pytest.mark.parametrize("causal", [True, False])
def test_attention_plan_equals_a_loop(causal):
    """Ragged segments that fall into several blocks, shared keys, grouped queries."""
    lengths = [2, 9, 1, 2, 8, 3]
    generator = torch.Generator().manual_seed(1)
    keys = [
        torch.cat([torch.randperm(25, generator=generator)[: 3 * i], torch.arange(n)])
        for i, n in enumerate(lengths)
    ]
    q, k, v = rows(25, 4, 6), rows(25, 2, 6), rows(25, 2, 6) * 2
    plan = AttentionPlan(lengths, keys, causal)
    assert len(plan._blocks) > 2
    expected = loop_attention(q, k, v, keys, lengths, causal)
    torch.testing.assert_close(plan.attend(q, k, v, 0.3), expected)


def test_one_query_rows_over_ragged_keys():
    """A decoding step: no row may look past its own keys."""
    keys = [torch.arange(n) for n in (3, 5, 4)]
    q, k, v = rows(3, 2, 4), rows(6, 2, 4), rows(6, 2, 4)
    expected = loop_attention(q, k, v, keys, [1, 1, 1], True)
    torch.testing.assert_close(AttentionPlan([1] * 3, keys).attend(q, k, v, 0.3), expected)


@pytest.mark.skipif(torch.cuda.is_available(), reason="here they can run")
@pytest.mark.parametrize("name", ["flash", "varlen", "other"])
def test_an_attention_that_cannot_run_here_says_what_to_do(name):
    from photon.model.attention import check_backend

    with pytest.raises(ValueError, match=f"model.attention={name}|model.attention='{name}'"):
        check_backend(name)
