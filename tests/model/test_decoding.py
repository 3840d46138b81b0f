"""Decoding is exact: greedy, sampled, by beams, over full and compact caches."""

from dataclasses import replace

import pytest
import torch
from transformers import GenerationConfig

from photon.model.decoding import Sampling
from photon.model.generate import answer, begin, generate, read_for
from photon.model.photon import PhotonModel
from photon.pruning.baselines.fastv import AttentionPruner
from photon.pruning.baselines.random import RandomPruner
from photon.pruning.baselines.uniform import UniformPruner
from photon.weights.hf import PhotonForVolumeQuestions
from tests.helpers import FAMILIES, backbone, builder, photon_model, random_batch, talkative
from tests.model.stock import NAMES, stock_inputs, stock_tokens, visual_batch
from tests.model.test_engine import alone
from tests.model.test_oracle import hooked

END = 38  # a token that the models of these tests say, sooner or later


@pytest.fixture(scope="module")
def pruned():
    return talkative(photon_model(layer=0.5))


@pytest.fixture(scope="module")
def prompts():
    """A batch of six questions about three volumes, and the volumes and prompts behind it."""
    return random_batch(n_answer=None)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_unpruned_decoding_equals_stock_generate(family, num_beams):
    """Images, videos and volumes in one batch, against the stock class one question at a time."""
    batch = visual_batch(NAMES, answered=False)
    model = talkative(PhotonModel(backbone(family=family)))
    ours = generate(model, batch, END, max_new_tokens=6, num_beams=num_beams).tokens
    for question, tokens in enumerate(ours):
        beams = {"num_beams": num_beams}
        assert tokens == stock_tokens(model.backbone, batch, NAMES, question, 6, END, **beams)
    assert len({tuple(row) for row in ours}) > 4
    if num_beams > 1:
        assert ours != generate(model, batch, END, max_new_tokens=6).tokens


def recomputed(model, volume, prompt, stage, end):
    """Greedy tokens by running the sequence anew from its first row at every step."""
    tokens = []
    while len(tokens) < 6:
        suffix = [*prompt.suffix, *tokens, 9]
        grown = replace(prompt, suffix=suffix, answer_start=len(suffix) - 1)
        with torch.no_grad():
            token = int(model(builder()([volume], [[grown]]), stage).answers.logits[-1].argmax())
        if token == end:
            break
        tokens.append(token)
    return tokens


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("stage", ["off", "hard"])
def test_cached_decoding_equals_full_recomputation(prompts, stage, family):
    """Different kept counts, different answer lengths, several volumes in one batch.

    With layer 0.25, Qwen3-VL adds features above the cut.
    """
    batch, volumes, texts = prompts
    pruned = talkative(photon_model(layer=0.25, family=family))
    endless = generate(pruned, batch, -1, max_new_tokens=6, stage=stage).tokens
    end = max(sum(endless, []), key=lambda token: len({(*t, token).index(token) for t in endless}))
    got = generate(pruned, batch, end, max_new_tokens=6, stage=stage)
    pairs = [(v, text) for v, group in zip(volumes, texts, strict=True) for text in group]
    assert got.tokens == [recomputed(pruned, volume, text, stage, end) for volume, text in pairs]
    assert len({len(tokens) for tokens in got.tokens}) > 1
    if stage == "hard":
        assert len(set(got.kept_tokens)) > 1
        assert [int(m.sum()) for m in got.keep_masks] == got.kept_tokens


@pytest.mark.parametrize("tail", ["question", "all"])
def test_a_batch_of_questions_decodes_like_one_at_a_time(pruned, prompts, monkeypatch, tail):
    monkeypatch.setattr(pruned.pruner, "tail", tail)
    batch, volumes, texts = prompts
    together = generate(pruned, batch, END, max_new_tokens=5).tokens
    apart = [generate(pruned, one, END, max_new_tokens=5) for one in alone(volumes, texts)]
    assert together == [one.tokens[0] for one in apart]


def test_budgets_and_another_pruner_at_inference(pruned, prompts):
    batch, _, _ = prompts
    counts = torch.tensor([1, 2, 3, 4, 5, 6])
    photon = generate(pruned, batch, END, keep=counts)
    random = generate(pruned, batch, END, pruner=RandomPruner(layer=0.5), keep=counts)
    assert photon.kept_tokens == random.kept_tokens == counts.tolist()
    assert any(
        not torch.equal(a, b) for a, b in zip(random.keep_masks, photon.keep_masks, strict=True)
    )


PRUNERS = {
    "photon": lambda: None,
    "random": lambda: RandomPruner(layer=0.5),
    "uniform": lambda: UniformPruner(layer=0.5),
    "fastv": lambda: AttentionPruner(layer=0.25),
}
CASES = [("qwen2_5", "photon", None, "question"), ("qwen3", "photon", None, "question")]
CASES += [("qwen2_5", name, 3, "question") for name in PRUNERS]
CASES += [("qwen2_5", "photon", None, "union"), ("qwen3", "photon", None, "all")]
CASES += [("qwen2_5", "random", 3, "all")]


def uncached_logits(model, batch, masks, cut, tokens, tail):
    """Logits (vocabulary,) after the answer's `tokens`: the stock model over all rows, masked.

    masks (2, tokens): what each of the two questions keeps; the first is asked. Dropped tokens are
    hidden above the cut (in a shared tail from the suffix alone, where some question keeps them or
    `all` is kept); `compact` hides them from the answer's rows below it.
    """
    inputs = stock_inputs(batch, ["volume"], 0)
    answer_ids = torch.tensor([tokens], dtype=torch.long)
    ids = torch.cat([inputs["input_ids"], answer_ids], 1)
    at = inputs["position_ids"]
    following = at[..., -1:] + 1 + torch.arange(len(tokens))
    n, n_prompt = ids.shape[1], inputs["input_ids"].shape[1]
    gone, absent = torch.zeros(2, n, dtype=torch.bool)
    runs = {"question": masks[0], "union": masks.any(0), "all": torch.ones_like(masks[0])}[tail]
    gone[: batch.prefixes.total][batch.visual] = ~masks[0]
    absent[: batch.prefixes.total][batch.visual] = ~runs
    causal, own = torch.ones(n, n).tril().bool(), torch.eye(n).bool()
    answers = torch.arange(n)[:, None] >= n_prompt
    below = causal & ~(answers & gone) if model.kv == "compact" else causal
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs["position_ids"] = torch.cat([at, following], -1)
    layers = model.backbone.model.language_model.layers
    suffix = torch.arange(n)[:, None] >= batch.prefixes.total
    above = causal & ~absent & ~(suffix & gone) | own
    with hooked(layers[:cut], masked(below)), hooked(layers[cut:], masked(above)):
        return model.backbone(**inputs, use_cache=False).logits[0, -1]


def masked(mask):
    """A hook that gives a layer its attention mask (N, N)."""
    return lambda module, args, kwargs: (args, {**kwargs, "attention_mask": mask[None, None]})


@pytest.mark.parametrize("kv", ["full", "compact"])
@pytest.mark.parametrize("family, name, keep, tail", CASES)
@torch.no_grad()
def test_caches_equal_masking_the_stock_layers(
    double_islands, monkeypatch, kv, family, name, keep, tail
):
    """Each step's logits, for every pruner, with the learned threshold and a budget."""
    model = talkative(photon_model(layer=0.5, family=family))
    monkeypatch.setattr(model, "kv", kv)
    pruner = PRUNERS[name]() or model.pruner
    pruner.tail = tail
    batch = visual_batch(["volume"], answered=False)
    reading = read_for(model, batch, "hard", pruner)
    decoding, selection = begin(model, reading, "hard", keep, pruner)
    masks = selection.keep.view(2, -1)
    assert 0 < int(masks[0].sum()) < masks.shape[1]
    cut, tokens = reading.cache.n_layers, []
    for token in (9, 50, 33, 9):
        expected = uncached_logits(model, batch, masks, cut, tokens, tail)
        torch.testing.assert_close(decoding.logits[0], expected, atol=1e-10, rtol=1e-10)
        decoding.step(torch.tensor([token, token + 1]))
        tokens.append(token)
    monkeypatch.setattr(model, "kv", "compact" if kv == "full" else "full")
    other = uncached_logits(model, batch, masks, cut, tokens, tail)
    assert not torch.allclose(decoding.logits[0], other, atol=1e-3)


def test_what_hugging_face_offers_beside_decoding_works_on_our_caches():
    """Processors that read the prompt, several sequences and penalties, against the stock class."""
    model = talkative(PhotonModel(backbone()))
    batch = visual_batch(["volume"], answered=False)
    options = {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.3}
    options |= {"repetition_penalty": 1.5, "eos_token_id": END, "pad_token_id": END}
    options |= {"max_new_tokens": 6, "do_sample": False, "bad_words_ids": [[9]]}
    wrapped = PhotonForVolumeQuestions(model)
    ours = wrapped.generate(batch, stage="off", **options)[2:]  # the longer question: no padding
    stock = model.backbone.generate(**stock_inputs(batch, ["volume"], 1), **options)
    assert torch.equal(ours, stock) and len({tuple(row) for row in ours.tolist()}) == 2
    with pytest.raises(ValueError, match="stateful"):
        wrapped.generate(batch, prompt_lookup_num_tokens=3, max_new_tokens=4)


def test_hugging_face_generate_is_the_same_greedy_decoding(pruned, prompts):
    batch, _, _ = prompts
    ours = generate(pruned, batch, END, max_new_tokens=6, keep=0.4).tokens
    ids = PhotonForVolumeQuestions(pruned).generate(
        batch, keep=0.4, max_new_tokens=6, do_sample=False, eos_token_id=END, pad_token_id=END
    )
    start = batch.prompt_ids(0).shape[1]
    for row, tokens in zip(ids[:, start:].tolist(), ours, strict=True):
        assert row[: len(tokens)] == tokens and set(row[len(tokens) :]) <= {END}


def test_beams_of_a_batch_equal_beams_one_at_a_time(pruned, prompts):
    batch, volumes, texts = prompts
    together = generate(pruned, batch, END, max_new_tokens=5, num_beams=3)
    apart = [
        generate(pruned, one, END, max_new_tokens=5, num_beams=3) for one in alone(volumes, texts)
    ]
    assert together.tokens == [one.tokens[0] for one in apart]
    assert together.kept_tokens == [one.kept_tokens[0] for one in apart]


def test_beams_find_what_an_exhaustive_search_over_uncached_passes_finds():
    """Width 64 over 2 steps sees every continuation, so the best of 64 * 64 must come out."""
    model = talkative(photon_model(layer=0.5))
    batch, volumes, texts = random_batch(questions=((4,),), n_answer=None)
    got = generate(model, batch, 0, max_new_tokens=2, num_beams=64).tokens[0]
    prompt = texts[0][0]

    def log_probs(tokens):
        grown = replace(
            prompt, suffix=[*prompt.suffix, *tokens, 9], answer_start=len(prompt.suffix)
        )
        with torch.no_grad():
            out = model(builder()([volumes[0]], [[grown]]), "hard").answers
        return out.logits[-1].log_softmax(-1)

    first = log_probs([])
    second = torch.stack([log_probs([token]) for token in range(len(first))])
    total = first[:, None] + second
    total[0] = -torch.inf  # token 0 ends here, and longer answers win on their mean
    best = divmod(int(total.argmax()), len(first))
    assert got == [token for token in best if token]


class TestSampling:
    def test_nucleus_and_temperature_by_hand(self):
        logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64).log()
        near = {"atol": 1e-6, "rtol": 1e-6}
        half = Sampling(temperature=0.5).probabilities(logits)[0]
        squares = torch.tensor([0.25, 0.09, 0.0225, 0.0025], dtype=torch.float64)
        torch.testing.assert_close(half, squares / squares.sum(), **near)
        nucleus = Sampling(top_p=0.7).probabilities(logits)[0]
        torch.testing.assert_close(nucleus, torch.tensor([0.625, 0.375, 0, 0]).double(), **near)
        three = Sampling(top_k=3).probabilities(logits)[0]
        torch.testing.assert_close(three, torch.tensor([10, 6, 3, 0]).double() / 19, **near)

    def test_draws_follow_the_distribution(self, prompts):
        """Chi-square of 3,000 draws over 5 tokens, the last of probability 0."""
        batch, _, _ = random_batch(questions=((4,),), n_answer=None)
        wanted = torch.tensor([0.4, 0.3, 0.2, 0.1, 0.0], dtype=torch.float64)
        choose = Sampling(seed=11).chooser(batch)
        drawn = torch.cat([choose(wanted.log()[None], [0]) for _ in range(3000)])
        counts = drawn.bincount(minlength=5)
        assert counts[4] == 0
        expected = 3000 * wanted[:4]
        chi2 = float(((counts[:4] - expected) ** 2 / expected).sum())
        assert chi2 < 16.27  # 0.999 of 3 degrees of freedom

    def test_a_sample_depends_on_its_seed_and_not_on_its_neighbours(self, pruned, prompts):
        batch, volumes, texts = prompts
        options = {"end_id": END, "max_new_tokens": 6}
        sampling = Sampling(temperature=1.5, top_p=0.95, seed=1)
        state = torch.random.get_rng_state()
        together = generate(pruned, batch, **options, sampling=sampling).tokens
        assert torch.equal(state, torch.random.get_rng_state())
        again = generate(pruned, batch, **options, sampling=sampling).tokens
        apart = [
            generate(pruned, one, **options, sampling=sampling).tokens[0]
            for one in alone(volumes, texts)
        ]
        assert together == again == apart
        other = Sampling(temperature=1.5, top_p=0.95, seed=2)
        assert together != generate(pruned, batch, **options, sampling=other).tokens

    def test_almost_no_temperature_is_greedy(self, pruned, prompts):
        cold = generate(pruned, prompts[0], END, 5, sampling=Sampling(temperature=1e-4)).tokens
        assert cold == generate(pruned, prompts[0], END, 5).tokens

    def test_the_repetition_penalty_is_that_of_stock_generate(self):
        """Prompts count, visual tokens too; top_k 1 takes the likeliest of what is left."""
        batch = visual_batch(NAMES, answered=False)
        model, sampling = (
            talkative(PhotonModel(backbone())),
            Sampling(top_k=1, repetition_penalty=4),
        )
        ours = generate(model, batch, END, max_new_tokens=6, sampling=sampling).tokens
        for question, tokens in enumerate(ours):
            stock = {"repetition_penalty": 4.0}
            assert tokens == stock_tokens(model.backbone, batch, NAMES, question, 6, END, **stock)
        assert ours != generate(model, batch, END, max_new_tokens=6).tokens

    def test_what_a_checkpoint_asks_for(self):
        """The released Qwen2.5-VL configuration; without do_sample, the likeliest token."""
        qwen = GenerationConfig(do_sample=True, temperature=1e-6, repetition_penalty=1.05)
        assert Sampling.of_checkpoint(qwen, 7) == Sampling(1e-6, 1.0, 50, 7, 1.05)
        plain = GenerationConfig(do_sample=False, repetition_penalty=1.2)
        assert Sampling.of_checkpoint(plain) == Sampling(top_k=1, repetition_penalty=1.2)
        wide = GenerationConfig(do_sample=True, top_k=0, top_p=0.9)
        assert Sampling.of_checkpoint(wide) == Sampling(top_p=0.9)

    @pytest.mark.parametrize(
        "wrong", [{"temperature": 0}, {"top_p": 0}, {"top_k": -1}, {"repetition_penalty": 0}]
    )
    def test_values_out_of_range_are_named(self, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Sampling(**wrong)


class Tape:
    """A streamer that keeps what it is told."""

    def __init__(self):
        self.heard, self.ended = [], False

    def put(self, value):
        self.heard.append(value)

    def end(self):
        self.ended = True


def test_a_streamer_hears_what_hugging_face_would_tell_it(pruned):
    batch, _, _ = random_batch(questions=((4,),), n_answer=None)
    tape, stock = Tape(), Tape()
    tokens = generate(pruned, batch, END, max_new_tokens=5, streamer=tape).tokens[0]
    PhotonForVolumeQuestions(pruned).generate(
        batch, max_new_tokens=5, do_sample=False, eos_token_id=END, pad_token_id=END, streamer=stock
    )
    assert tape.ended and [t.tolist() for t in tape.heard] == [t.tolist() for t in stock.heard]
    said = [int(t) for t in tape.heard[1:]]
    assert said in (tokens, [*tokens, END]) and tape.heard[0].shape == batch.prompt_ids(0).shape


@pytest.mark.parametrize(
    "options, told",
    [
        ({"num_beams": 2, "sampling": Sampling()}, "with sampling"),
        ({"num_beams": 2, "streamer": Tape()}, "with a streamer"),
        ({"num_beams": 0}, "num_beams=0"),
        ({"streamer": Tape()}, "the batch has 6"),
    ],
)
def test_choices_that_do_not_go_together(pruned, prompts, options, told):
    with pytest.raises(ValueError, match=told):
        generate(pruned, prompts[0], END, **options)


def test_one_reading_begins_often(pruned, prompts):
    """Greedy, beams and samples from the same prefix pass, in any order."""
    batch, _, _ = prompts
    reading = read_for(pruned, batch)
    first = answer(pruned, reading, END, 4).tokens
    answer(pruned, reading, END, 4, num_beams=2)
    answer(pruned, reading, END, 4, sampling=Sampling(seed=3))
    assert answer(pruned, reading, END, 4).tokens == first == generate(pruned, batch, END, 4).tokens


def test_a_reading_runs_all_rows_above_once(pruned, prompts, monkeypatch):
    """With nothing dropped, or tail `all`, whatever is selected: then only suffixes run."""
    monkeypatch.setattr(pruned.pruner, "tail", "all")
    batch, _, _ = prompts
    options = [{"stage": "off"}, {}, {"keep": 3}, {"keep": 0.5}]
    expected = [generate(pruned, batch, END, 4, **one).tokens for one in options]
    assert expected[0] != expected[1] != expected[2]
    rows = []
    norm = pruned.backbone.model.language_model.layers[-1].input_layernorm
    with hooked([norm], lambda _, args, kwargs: (rows.append(len(args[0])), (args, kwargs))[1]):
        reading = read_for(pruned, batch)
        for one, tokens in zip(options, expected, strict=True):
            assert answer(pruned, reading, END, 4, **one).tokens == tokens
    prompt_passes = [n for n in rows if n > len(batch.suffixes)]
    suffix = batch.suffixes.total
    assert prompt_passes == [batch.prefixes.total + suffix, *[suffix] * 3]
