"""Dropping tokens equals hiding them: the whole stock model, its attention masked from layer l.

A token that is dropped is a key that no other row sees; its own row goes on and is never read.
"""

from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F

from photon.batch.batch import IGNORE
from photon.pruning.baselines.random import RandomPruner
from tests.helpers import FAMILIES, photon_model
from tests.model.stock import stock_inputs, visual_batch

NAMES = ["image and volume", "frames", "volume"]


@contextmanager
def hooked(modules, hook):
    """Forward pre-hooks (module, args, kwargs) -> (args, kwargs) while the block runs."""
    handles = [m.register_forward_pre_hook(hook, with_kwargs=True) for m in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def hiding(gone, from_all, n_prefix):
    """A hook that masks keys (N,): `gone` from the suffix, `from_all` from all rows but their own.

    The first rows are the prefix.
    """
    n = len(gone)
    hidden = from_all.expand(n, n).clone()
    hidden[n_prefix:] |= gone
    mask = torch.ones(n, n, dtype=torch.bool).tril() & ~hidden | torch.eye(n, dtype=torch.bool)

    def hook(module, args, kwargs):
        return args, {**kwargs, "attention_mask": mask[None, None]}

    return hook


def of_question(batch, values, question):
    """(N,) of one question's rows: `values` at its visual tokens, zero (false) at text."""
    item = batch.volume_of[question]
    rows = list(batch.prefixes)[item]
    n = len(batch.suffix_ids[list(batch.suffixes)[question]])
    out = values.new_zeros(batch.prefixes.lengths[item] + n)
    lengths = [batch.visual_lengths[v] for v in batch.volume_of]
    out[: batch.prefixes.lengths[item]][batch.visual[rows]] = values.split(lengths)[question]
    return out


def loss_of(logits, targets):
    return F.cross_entropy(logits, targets)


def stock_rows(model, batch, question):
    """The stock class's logits of a question's supervised rows, and their targets."""
    suffix = list(batch.suffixes)[question]
    inputs = stock_inputs(batch, NAMES, question)
    logits = model.backbone(**inputs, use_cache=False).logits[0, -len(batch.targets[suffix]) :]
    use = batch.targets[suffix] != IGNORE
    return logits[use], batch.targets[suffix][use]


def gradients(model):
    found = {k: p.grad.clone() for k, p in model.backbone.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


CASES = [("off", 0.5, "question"), ("hard", 0.25, "question"), ("hard", 0.5, "question")]
CASES += [("hard", 0.25, "union"), ("hard", 0.25, "all")]


@pytest.mark.parametrize("stage, layer, tail", CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_dropping_equals_hiding_in_logits_and_gradients(double_islands, family, stage, layer, tail):
    """Qwen3-VL's second features are added above l at layer 0.25, to the rows that are left.

    Dropped tokens are hidden from every row (`question`), from the suffix (`all`), or from the
    suffix, and those that no question of the item keeps from every row (`union`).
    """
    model = photon_model(pruner=RandomPruner(layer=layer, keep=0.4, tail=tail), family=family)
    batch = visual_batch(NAMES)
    out = model(batch, stage)
    answers = out.answers
    pairs = sum(batch.visual_lengths[v] for v in batch.volume_of)
    keep = torch.ones(pairs, dtype=torch.bool) if stage == "off" else out.selection.keep
    sum(loss_of(answers.logits[r], answers.targets[r]) for r in answers.questions).backward()
    ours = gradients(model)
    layers = model.backbone.model.language_model.layers[model.cut :]
    gone = [of_question(batch, ~keep, question) for question in range(len(answers.questions))]
    for question, rows in enumerate(answers.questions):
        n_prefix = batch.prefixes.lengths[batch.volume_of[question]]
        mates = [i for i, v in enumerate(batch.volume_of) if v == batch.volume_of[question]]
        union = torch.stack([gone[i][:n_prefix] for i in mates]).all(0)
        from_all = {"question": gone[question].clone(), "all": torch.zeros_like(gone[question])}
        from_all["union"] = torch.zeros_like(gone[question])
        from_all["union"][:n_prefix] = union
        with hooked(layers, hiding(gone[question], from_all[tail], n_prefix)):
            logits, targets = stock_rows(model, batch, question)
        torch.testing.assert_close(answers.logits[rows], logits, atol=1e-9, rtol=1e-9)
        loss_of(logits, targets).backward()
    stock = gradients(model)
    assert ours.keys() == stock.keys() and len(ours) > 60
    for name, gradient in stock.items():
        torch.testing.assert_close(ours[name], gradient, atol=1e-9, rtol=1e-9, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_soft_stage_scales_rows_and_the_features_that_they_receive_above(
    double_islands, monkeypatch, family
):
    model = photon_model(layer=0.25, family=family).eval()
    batch = visual_batch(NAMES)
    out = model(batch, "soft")
    language = model.backbone.model.language_model
    add = getattr(language, "_deepstack_process", None)
    for question, rows in enumerate(out.answers.questions):
        q = of_question(batch, out.selection.prob.detach().double(), question)
        is_visual = of_question(batch, torch.ones_like(out.selection.prob).bool(), question)
        scale = torch.where(is_visual, q, 1.0)
        calls = []

        def scaled(hidden, where, features, q=q, is_visual=is_visual, calls=calls):
            calls.append(1)
            above = len(calls) > model.cut
            return add(hidden, where, features * q[is_visual, None] if above else features)

        def hook(module, args, kwargs, scale=scale):
            return (args[0] * scale[:, None], *args[1:]), kwargs

        if add is not None:
            monkeypatch.setattr(language, "_deepstack_process", scaled)
        with hooked([language.layers[model.cut]], hook), torch.no_grad():
            logits, _ = stock_rows(model, batch, question)
        assert len(calls) == (2 if family == "qwen3" else 0)
        torch.testing.assert_close(out.answers.logits[rows], logits, atol=1e-9, rtol=1e-9)
