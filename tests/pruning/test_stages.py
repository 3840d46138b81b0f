"""Pruners in stages: lists, and methods that drop at several layers."""

from dataclasses import replace

import pytest
import torch

from photon.model.attention import SharedPlan
from photon.model.generate import generate
from photon.packing import Segments
from photon.pruning.baselines.fastv import AttentionPruner
from photon.pruning.baselines.pyramiddrop import PyramidDropPruner
from photon.pruning.baselines.sparsevlm import SparseVLMPruner, rated, raters, text_relevance
from photon.pruning.baselines.visionzip import VisionZipPruner
from photon.pruning.baselines.vscan_both import VScanBothPruner
from photon.pruning.its import PhotonPruner
from photon.pruning.named import pruner_of, spec_of
from photon.pruning.stages import PrunerStages, falling_counts
from tests.helpers import FAMILIES, builder, photon_model, random_batch, talkative

TIGHT = {"atol": 1e-9, "rtol": 1e-9}


def listed(keep=0.4, before=0.5, tail="question"):
    torch.manual_seed(1)
    ours = PhotonPruner(keep=keep, hidden=8, tail=tail, direction="gate").double()
    return PrunerStages({"before": VisionZipPruner(before), "inside": ours})


MADE = {
    "pyramiddrop": lambda keep: PyramidDropPruner((0.25, 0.5, 0.75), keep),
    "pyramiddrop before": lambda keep: PyramidDropPruner((0.25, 0.25, 0.75), keep),
    "sparsevlm": lambda keep: SparseVLMPruner((0.25, 0.5, 0.75), keep),
    "vscan_both": lambda keep: VScanBothPruner(keep=keep),
    "list": lambda keep: listed(keep, min(1.0, 2 * keep)),
}


def alone(volumes, prompts):
    return [
        builder()([volume], [[prompt]])
        for volume, group in zip(volumes, prompts, strict=True)
        for prompt in group
    ]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", MADE)
def test_a_batch_is_answered_as_one_question_at_a_time(name, family):
    """Mixed volumes and questions: what is kept, logits, and the counts of every stage."""
    model = photon_model(pruner=MADE[name](0.4), family=family).eval()
    batch, volumes, prompts = random_batch()
    together = model(batch)
    one = [model(single) for single in alone(volumes, prompts)]
    assert torch.equal(together.selection.keep, torch.cat([o.selection.keep for o in one]))
    assert (together.selection.counts < batch.pairs.counts * 0.5).all()
    logits = torch.cat([o.answers.logits for o in one])
    torch.testing.assert_close(together.answers.logits, logits, **TIGHT)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", MADE)
def test_keeping_all_is_the_unpruned_model(name, family):
    model = photon_model(pruner=MADE[name](1.0), family=family).eval()
    batch, _, _ = random_batch()
    kept = model(batch, "hard")
    assert bool(kept.selection.keep.all())
    torch.testing.assert_close(kept.answers.logits, model(batch, "off").answers.logits, **TIGHT)


@pytest.mark.parametrize("name", MADE)
def test_answers_are_those_of_the_kept_tokens(name):
    """Decoding over the caches of all stages says what the forward pass would, token by token."""
    model = talkative(photon_model(pruner=MADE[name](0.3)))
    batch, volumes, prompts = random_batch(n_answer=None)
    out = generate(model, batch, end_id=7, max_new_tokens=4)
    asked = [(v, p) for v, group in zip(volumes, prompts, strict=True) for p in group]
    for (volume, prompt), tokens in zip(asked, out.tokens, strict=True):
        single = builder()([volume], [[prompt]])
        assert generate(model, single, end_id=7, max_new_tokens=4).tokens == [tokens]
        told = replace(prompt, suffix=[*prompt.suffix, *tokens, 7])
        logits = model(builder()([volume], [[told]])).answers.logits
        assert logits.argmax(-1).tolist()[: len(tokens)] == tokens
    unpruned = generate(model, batch, end_id=7, max_new_tokens=4, stage="off").tokens
    assert out.tokens != unpruned


@torch.no_grad()
def slow_pyramid(model, batch, layers, counts):
    """Logits of one question by a loop: plain causal rows, attention row by row, rows taken out."""
    decoder, n = model.decoder.layers, batch.prefixes.total
    visual = model.encode(batch)
    hidden = decoder.embed(batch.prefix_ids).index_copy(0, batch.visual_rows, visual.tokens)
    hidden = torch.cat([hidden, decoder.embed(batch.suffix_ids)])
    rows, start = list(range(len(hidden))), 0
    last = n + int(batch.last_prompt_rows[0])
    tokens = [i for i in rows if i < n and bool(batch.visual[i])]
    for layer, count in [*zip(layers, counts, strict=True), (len(decoder.model.layers), None)]:
        plan = SharedPlan([len(rows)], [], [])
        where = batch.positions[:, rows]
        hidden, (q, k) = decoder.run(hidden, where, plan, start, layer)
        start = layer
        if count is None:
            break
        cos, sin = decoder.rope(where)

        def turn(x, i, cos=cos, sin=sin):
            half = x.shape[-1] // 2
            swapped = torch.cat([-x[..., half:], x[..., :half]], -1)
            return x * cos[i] + swapped * sin[i]

        at = rows.index(last)
        groups = q.shape[1] // k.shape[1]
        score = {}
        for h in range(q.shape[1]):
            query = turn(q[at, h], at)
            logits = (
                torch.stack([(query @ turn(k[i, h // groups], i)) for i in range(at + 1)])
                * q.shape[-1] ** -0.5
            )
            weights = logits.softmax(0)
            for i, row in enumerate(rows[: at + 1]):
                score[row] = score.get(row, 0) + float(weights[i])
        best = sorted(tokens, key=lambda row: -score[row])[:count]
        tokens = sorted(best)
        stay = [
            i for i, row in enumerate(rows) if row in tokens or row >= n or not batch.visual[row]
        ]
        hidden, rows = hidden[stay], [rows[i] for i in stay]
    suffix = hidden[len(rows) - batch.suffixes.total :]
    return model.logits(suffix[batch.supervised_rows]), [row in tokens for row in range(n)]


def test_pyramiddrop_is_the_slow_loop():
    model = photon_model(pruner=PyramidDropPruner((0.25, 0.5, 0.75), 0.4)).eval()
    for single in alone(*random_batch()[1:]):
        counts = [int(c) for c in model.pruner.budgets(None, single.pairs)]
        logits, kept = slow_pyramid(model, single, (1, 2, 3), counts)
        out = model(single)
        assert int(out.selection.counts) == counts[-1] < counts[0]
        torch.testing.assert_close(out.answers.logits, logits, **TIGHT)
        assert out.selection.keep.tolist() == [kept[row] for row in single.visual_rows]


def test_raters_and_what_they_attend_to_are_the_slow_loop():
    torch.manual_seed(0)
    visual, words, asked = Segments([5, 7]), Segments([3, 1, 4]), [0, 0, 1]
    tokens, text = torch.randn(12, 6, dtype=torch.float64), torch.randn(8, 6, dtype=torch.float64)
    q, k = (torch.randn(n, h, 4, dtype=torch.float64) for n, h in ((8, 4), (12, 2)))
    relevance = text_relevance(tokens, text, visual, words, asked)
    rates = raters(relevance, words)
    found = rated(q, k, rates, words, visual, asked).split([5, 5, 7])
    for n, (v, rows) in enumerate(zip(asked, words)):
        own, mine = list(range(*visual.offsets[v : v + 2])), list(range(rows.start, rows.stop))
        match = [0.0] * len(mine)
        for i in own:
            all_words = [float(torch.exp(tokens[i] @ text[j])) for j in mine]
            match = [m + a / sum(all_words) / len(own) for m, a in zip(match, all_words)]
        assert relevance[rows].tolist() == pytest.approx(match)
        chosen = [j for j, m in zip(mine, match) if m > sum(match) / len(match)] or mine
        assert chosen == [j for j in mine if rates[j]]
        score = torch.zeros(len(own), dtype=torch.float64)
        for j in chosen:
            for h in range(4):
                weights = torch.stack([torch.exp(q[j, h] @ k[i, h // 2] / 2) for i in own])
                score += weights / weights.sum() / 4 / len(chosen)
        torch.testing.assert_close(found[n], score)


def test_falling_counts_meet_the_budget():
    pairs = Segments([1000, 400, 3, 0])
    counts = torch.tensor([292, 40, 1, 0])
    found = falling_counts(counts, pairs, [1 / 3] * 3)
    assert [c[0].item() for c in found] == [500, 250, 125]
    mean = torch.stack(found).double().mean(0)
    assert torch.allclose(mean[:2], counts[:2].double(), atol=0.7)
    assert [c[2:].tolist() for c in found] == [[2, 0], [1, 0], [1, 0]]
    assert all(
        torch.equal(c, pairs.counts) for c in falling_counts(pairs.counts, pairs, [0.5, 0.5])
    )


def test_a_list_is_its_stages_one_after_the_other():
    """The last stage sees the model on a batch that never held what the first dropped."""
    model = photon_model(pruner=listed()).eval()
    batch, _, _ = random_batch()
    whole = model(batch).selection
    first = model.arrive(trunk(model, batch), pruner=model.pruner.first).selection
    kept = first.keep
    assert bool((whole.keep <= kept).all())
    assert whole.counts.tolist() == [round(0.4 * n) for n in batch.pairs.lengths]
    assert bool((whole.scores[~kept] == 0).all() and (whole.prob[~kept] == 0).all())
    assert first.counts.tolist() == [round(0.5 * n) for n in batch.pairs.lengths]


def trunk(model, batch):
    return model.trunk(batch, model.encode(batch, (1.0,)), 0)


def test_the_threshold_behind_a_list_learns():
    model = photon_model(pruner=listed(keep=None, before=0.6))
    batch, _, _ = random_batch()
    for stage in ("soft", "hard"):
        model.zero_grad()
        out = model(batch, stage, flip=torch.tensor([True] + [False] * 5))
        (out.answers.logits.square().mean() + out.selection.soft_ratio.mean()).backward()
        assert model.pruner.last.predictor.mlp[2].weight.grad.abs().sum() > 0
        assert model.backbone.model.visual.patch_embed.proj.weight.grad.abs().sum() > 0


def test_spans_say_what_is_read_in_each_layer():
    model = photon_model(pruner=PyramidDropPruner((0.25, 0.5, 0.75), 0.4)).eval()
    batch, _, _ = random_batch(n_answer=None)
    out = generate(model, batch, end_id=7, max_new_tokens=1)
    assert [n for n, _ in out.spans] == [1, 1, 1, 1]
    assert out.spans[0][1] == batch.pairs.lengths and out.spans[-1][1] == out.kept_tokens
    heads = model.decoder.layers.n_kv_heads * model.decoder.layers.head_size * 2 * 8
    suffix = batch.suffixes.total
    first = batch.prefixes.total + suffix
    text = sum(batch.prefixes.lengths[v] - batch.visual_lengths[v] for v in batch.volume_of)
    above = sum(sum(counts) + text + suffix for _, counts in out.spans[1:])
    assert out.cache_bytes == heads * (first + above)


def test_lists_and_stages_are_exported():
    for pruner in (listed(), PyramidDropPruner((0.25, 0.5), 0.2), VScanBothPruner(keep=7)):
        again = pruner_of(spec_of(pruner))
        assert type(again) is type(pruner) and spec_of(again) == spec_of(pruner)
        again.load_state_dict(pruner.state_dict())
    with pytest.raises(ValueError, match="in the order of layers"):
        PrunerStages({"a": AttentionPruner(0.5), "b": VisionZipPruner()})
