"""Ours against what the authors' released functions gave on the same inputs (tests/data).

Shape suffixes: T instruction tokens, V visual tokens, N heads, H head size, L positions, D width.
"""

from functools import cache

import numpy as np
import pytest
import torch

from photon.losses import answer_loss, band_loss, flip_loss, robust_loss
from photon.packing import Segments
from photon.pruning.base import PruneContext
from photon.pruning.its import PhotonPruner
from photon.pruning.surrogate import DropTokens, SurrogateConfig, surrogate_gradient
from photon.pruning.threshold import threshold_features
from photon.questions.prompts import build_prompt
from photon.questions.record import Record
from photon.weights.checkpoints import load_tokenizer
from photon.weights.official import PRUNER_PROFILE
from tests.conftest import ROOT

EXACT = {"atol": 1e-6, "rtol": 1e-6}
RELEASED = SurrogateConfig("paper", "all", True)


@cache
def archive():
    return np.load(ROOT / "tests" / "data" / "photon_golden.npz")


def golden(part, case):
    def value(name):
        array = archive()[f"{part}_{case}_{name}"]
        return torch.from_numpy(array.astype(np.int64) if array.dtype == np.int16 else array)

    return value


def pruner(value, **changes):
    """The released profile with the case's threshold predictor."""
    made = PhotonPruner(**{**PRUNER_PROFILE, "hidden": len(value("mlp_0_bias")), **changes})
    state = {name: value("mlp_" + name[14:].replace(".", "_")) for name in made.state_dict()}
    made.load_state_dict(state)
    return made


def context(value, dtype=torch.float32):
    q, k, seen = (value(name).transpose(0, 1).to(dtype) for name in ("q_text", "k_text", "k_vis"))
    text, visual = Segments([len(q)]), Segments([len(seen)])
    return PruneContext(q, k, seen, text, visual, visual, [0])


@pytest.mark.parametrize("case", ["c2", "c4"])
def test_selection(case):
    """c4: tokens hardly reinforce each other, so that the released code divides by 1 (Eq. 4)."""
    value = golden("select", case)
    chosen, asked = pruner(value), context(value)
    u = chosen.saliency(asked)
    torch.testing.assert_close(u, value("u"), **EXACT)
    features = threshold_features(u, value("rho"), asked.pairs)[0]
    torch.testing.assert_close(features, value("features12"), **EXACT)
    selection = chosen.select(asked)
    torch.testing.assert_close(selection.scores, value("rho"), atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(selection.theta, value("theta").reshape(1), **EXACT)
    torch.testing.assert_close(selection.prob, value("prob"), atol=2e-6, rtol=1e-5)
    assert torch.equal(selection.keep, value("mask").bool())


def test_our_own_numbers_differ_where_the_weights_do_not_sum_to_one():
    value = golden("select", "c4")
    ours = pruner(value, as_released=False).saliency(context(value))
    assert ours.abs().max() > 20 * value("u").abs().max()


def test_a_single_instruction_token_keeps_one_visual_token_where_the_released_code_keeps_none():
    value = golden("select", "c6")
    made = PhotonPruner(**PRUNER_PROFILE)
    assert not value("u").any()
    assert torch.equal(made.saliency(context(value)), value("u"))
    assert made.select(context(value)).keep.sum() == 1


def test_in_a_bfloat16_model_saliency_and_threshold_are_rounded_as_released():
    """Written out again from the released code: u and the predictor in bfloat16, rho in float32."""
    value = golden("select", "c2")
    asked = context(value, torch.bfloat16)
    selection = pruner(value).select(asked)
    exact = pruner(value, as_released=False).saliency(asked)
    u = exact.bfloat16().float()
    rho = (u - u.min()) / (u.max() - u.min() + 1e-8)
    assert torch.equal(selection.scores, rho)
    mlp = [value(f"mlp_{i}_{kind}").bfloat16() for i in (0, 2) for kind in ("weight", "bias")]
    z = threshold_features(u, rho, asked.pairs).bfloat16()
    hidden = torch.nn.functional.gelu(torch.nn.functional.linear(z, *mlp[:2]))
    theta = torch.nn.functional.linear(hidden, *mlp[2:]).sigmoid().float() * 0.9
    assert torch.equal(selection.theta, theta[0])
    assert torch.equal(selection.keep, torch.sigmoid((rho - theta[0]) / 0.2) > 0.5)


def surrogate(value, config, rows=...):
    """dL/dp at every position, from the gradient of the compacted sequence."""
    x, present, visual = (value(n)[rows] for n in ("x", "presence", "vision_mask"))
    present, visual = present.bool(), visual.bool()
    gradient = torch.zeros_like(x)
    gradient[present] = value("grad_out")[rows][: int(present.sum())]
    torch.testing.assert_close(gradient, value("grad_x")[rows], atol=0, rtol=0)
    product = (x * gradient)[visual]
    scores = product.sum(-1), product.abs().sum(-1)
    pairs, prob = Segments([len(product)]), value("prob")[rows][visual]
    out = torch.zeros(len(x))
    out[visual] = surrogate_gradient(*scores, prob, present[visual], pairs, config)
    return out


@pytest.mark.parametrize("case", ["c0", "c4"])
def test_surrogate_gradient(case):
    """c4: gradients so small that epsilon shows beside their mean (Eq. 16)."""
    value = golden("surrogate", case)
    got = surrogate(value, RELEASED)
    torch.testing.assert_close(got, value("grad_prob_default"), **EXACT)
    got = surrogate(value, SurrogateConfig("taylor", "all", False))
    torch.testing.assert_close(got, value("grad_prob_strict"), **EXACT)


@pytest.mark.parametrize("case", ["c0", "c2"])
def test_surrogate_gradient_of_rows_that_keep_different_numbers(case):
    value = golden("compact", case)
    for row in range(len(value("x"))):
        got = surrogate(value, RELEASED, row)
        torch.testing.assert_close(got, value("grad_prob_default")[row], **EXACT)


@pytest.mark.parametrize("case", ["c1", "c3"])
def test_a_batch_of_rows_that_keep_different_numbers_in_one_call(case):
    """Three and four samples, packed without padding: what is gathered, and both gradients."""
    value = golden("compact", case)
    present, visual = value("presence").bool(), value("vision_mask").bool()
    hidden = value("x").flatten(0, 1).requires_grad_()
    q = value("prob")[visual].requires_grad_()
    rows, kept = present.flatten().nonzero()[:, 0], present[visual].nonzero()[:, 0]
    at = visual.flatten()[rows].nonzero()[:, 0]
    pairs, weight = Segments(visual.sum(1).tolist()), torch.ones(len(visual))
    out = DropTokens.apply(hidden, q, rows, at, kept, weight, pairs, RELEASED, {})
    real = torch.arange(value("out").shape[1]) < present.sum(1, keepdim=True)
    assert torch.equal(out, value("out")[real]) and not value("out")[~real].any()
    out.backward(value("grad_out")[real])
    assert torch.equal(hidden.grad, value("grad_x").flatten(0, 1))
    torch.testing.assert_close(q.grad, value("grad_prob_default")[visual], **EXACT)


def test_where_the_released_flip_loss_is_rounded_ours_is_nearer_the_exact_one():
    """Two answers with 1 - p below 2e-7, where float32 has steps of 6e-8 beside eps = 1e-6."""
    value = golden("losses", "c3")
    labels = value("labels")
    rows = labels != -100

    def released(logits):
        p = logits[rows].softmax(-1).gather(1, labels[rows, None])
        return -torch.log(1 - p + 1e-6).mean()

    logits = value("logits")
    stored, exact = value("flip_loss").reshape(()), released(logits.double())
    torch.testing.assert_close(released(logits), stored, **EXACT)
    ours = flip_loss(logits[rows], labels[rows], Segments([int(rows.sum())]))[0]
    assert abs(stored - exact) > 2e-3 and abs(ours - exact) < 3e-4


@pytest.mark.parametrize("case", ["c0", "c4"])
@pytest.mark.parametrize("name", ["robust", "flip", "ce"])
def test_losses_and_their_gradients(case, name):
    value = golden("losses", case)
    logits, labels = value("logits").requires_grad_(), value("labels")
    rows = labels != -100
    given = logits[rows], labels[rows], Segments([int(rows.sum())])
    loss = {
        "robust": lambda: robust_loss(given[0], given[2]),
        "flip": lambda: flip_loss(*given),
        "ce": lambda: answer_loss(*given),
    }[name]()
    loss.sum().backward()
    torch.testing.assert_close(loss[0], value(f"{name}_loss").reshape(()), **EXACT)
    torch.testing.assert_close(logits.grad, value(f"{name}_grad"), **EXACT)


@pytest.mark.parametrize("case", ["c0", "c4", "b3"])
def test_band_and_its_gradient(case):
    """b3: three samples, the mean of their penalties."""
    value = golden("losses", case)
    delta = value("band_delta").requires_grad_()
    samples = delta.reshape(-1, delta.shape[-1])
    ratio = Segments([samples.shape[1]] * len(samples)).mean((samples / 0.2).sigmoid().flatten())
    torch.testing.assert_close(ratio, value("band_ratio"), **EXACT)
    loss = band_loss(ratio, 0.3, 0.8).mean()
    loss.backward()
    torch.testing.assert_close(loss, value("band_loss").reshape(()), **EXACT)
    torch.testing.assert_close(delta.grad, value("band_grad"), **EXACT)


def between(ids, start, stop):
    """The released rule: strictly between each `start` and the next `stop`, or the end."""
    mask = [False] * len(ids)
    for i in [i for i, token in enumerate(ids) if token == start]:
        j = next((j for j in range(i, len(ids)) if ids[j] == stop), len(ids))
        mask[i + 1 : j] = [True] * (j - i - 1)
    return mask


def test_the_instruction_is_what_the_released_rule_marks():
    for i in range(5):
        value = golden("compact", f"qm{i}")
        assert between(value("ids").tolist(), 8, 6) == value("mask").bool().tolist()
    words = load_tokenizer("tiny")
    start, stop = words.convert_tokens_to_ids(["<|vision_end|>", "<|im_end|>"])
    prompt = build_prompt(Record("a", "v", "Is the liver large?", answer="Yes"), words, True)
    ids = prompt.head + [words.convert_tokens_to_ids("<|video_pad|>")] * 4
    first = len(ids) + len(prompt.after)
    marked = between(ids + prompt.after + prompt.suffix, start, stop)
    ours = range(*(first + end for end in prompt.instruction))
    assert [i for i, on in enumerate(marked) if on] == list(ours)
