"""Turns about volumes that are read once equal the same turns asked from scratch."""

import pytest
import torch

from photon.batch.dataset import Collate, Item
from photon.model.decoding import Sampling
from photon.model.dialogue import Dialogue
from photon.model.generate import answer, generate, read, read_on
from photon.pruning.its import PhotonPruner
from photon.questions.record import Record
from photon.weights.checkpoints import build_model
from tests.helpers import FAMILIES, TEXT, TEXT3, VISION, VISION3, talkative

SIZE = (28, 112, 112)
PREPARATION = {"spacing": (3, 3, 3), "crop": SIZE, "size": SIZE}
PATCH = {"patch_size": 14, "temporal_patch_size": 14}
ASKED = ["How large is the liver?", "Is it dense?", "How large is the liver?"]


def small_model(family="qwen2_5", pruner=True):
    """A model with the tiny tokenizer, whose answers depend on what was asked."""
    tower = {"qwen2_5": VISION | {"window_size": 56}, "qwen3": VISION3}[family]
    text, vision = {"qwen2_5": TEXT, "qwen3": TEXT3}[family], tower | PATCH
    text = {k: v for k, v in text.items() if not k.endswith("_id") and k != "vocab_size"}
    text["tie_word_embeddings"] = False
    torch.manual_seed(4)
    pruner = PhotonPruner(hidden=8, layer=0.25) if pruner else None
    if pruner is not None:
        torch.nn.init.normal_(pruner.predictor.mlp[2].weight, std=0.5)
    names = {"qwen2_5": "qwen2_5_vl", "qwen3": "qwen3_vl"}
    model = build_model(
        text, vision, PREPARATION, pruner, tokenizer="tiny", family=names[family], seed=1
    )
    with torch.no_grad():
        for name, parameter in model.backbone.named_parameters():
            if "norm" not in name and "ln_q" not in name:
                parameter.mul_(4)
    return talkative(model)


def volumes(n=1):
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(SIZE, generator=generator) for _ in range(n)]


def from_scratch(model, scans, turns, question, **choice):
    record = Record("a", "", question, history=tuple((t.question, t.answer) for t in turns))
    batch = Collate(model.builder, model.tokenizer, False)([Item(tuple(scans), [record])])
    return generate(model, batch, max_new_tokens=5, **choice)


@pytest.mark.parametrize(
    "family, tail, n_scans",
    [
        *((family, "question", 1) for family in FAMILIES),
        ("qwen2_5", "question", 2),
        ("qwen2_5", None, 1),
        ("qwen3", "all", 2),
        ("qwen2_5", "union", 1),
    ],
)
def test_turns_equal_records_with_history(family, tail, n_scans):
    """The same question twice: the second time its own history stands before it."""
    pruner = tail is not None
    model, scans = small_model(family, pruner).double(), volumes(n_scans)
    if pruner:
        model.pruner.tail = tail
    dialogue, choices = Dialogue(model, scans), [{}, {"num_beams": 2}, {}]
    kept = []
    for question, choice in zip(ASKED, choices, strict=True):
        expected = from_scratch(model, scans, dialogue.turns, question, **choice)
        turn = dialogue.ask(question, max_new_tokens=5, **choice)
        assert turn.generation.tokens == expected.tokens and turn.answer
        assert torch.equal(turn.generation.keep_masks[0], expected.keep_masks[0])
        kept.append(turn.generation.keep_masks[0].tolist())
    assert dialogue.turns[0].generation.tokens != dialogue.turns[2].generation.tokens
    if pruner:
        assert kept[0] != kept[1] and not all(kept[0])


@pytest.mark.parametrize("layer, tail", [(0, "question"), (0, "all"), (-1, "all")])
def test_a_volume_is_encoded_and_its_prefix_run_once(layer, tail):
    """Up to l; with tail `all` in the layers above as well."""
    model, rows, encoded = small_model(), [], []
    model.pruner.tail = tail
    layer = model.backbone.model.language_model.layers[layer]
    layer.input_layernorm.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    model.encoder.register_forward_hook(lambda *_: encoded.append(1))
    dialogue = Dialogue(model, volumes())
    for question in ASKED:
        dialogue.ask(question, max_new_tokens=1)
    assert len(encoded) == 1
    suffixes = [len(dialogue._first.batch.suffix_ids), *rows[1:]]
    assert rows[0] == dialogue._first.batch.prefixes.total + suffixes[0]
    assert suffixes[0] < suffixes[1] < suffixes[2] < rows[0]


@pytest.mark.parametrize("stage", ["off", "hard"])
def test_reading_on_for_many_volumes_and_questions(stage):
    """Other questions, another number of them, after a pass that stopped at l."""
    model = small_model().double()
    scans = [tuple(volumes(2)[1:]), tuple(volumes(2))]
    collate = Collate(model.builder, model.tokenizer, False)

    def ask(*groups):
        items = zip(scans, groups, strict=True)
        return collate([Item(s, [Record(q, "", q) for q in group]) for s, group in items])

    first = ask(["Is it dense?"], ["Is there a lesion?", "How many?"])
    other = ask(["How many?", "Is there any fluid?"], ["Is it dense?"])
    fresh = answer(model, read(model, other, model.cut), -1, 4, stage)
    followed = read_on(model, read(model, first, model.cut), other)
    assert answer(model, followed, -1, 4, stage).tokens == fresh.tokens


def test_a_sampled_turn_can_be_repeated():
    model, sampling = small_model(), Sampling(temperature=2.0, seed=5)
    one, two = (Dialogue(model, volumes()) for _ in range(2))
    said = [[d.ask(q, 5, sampling=sampling).answer for q in ASKED] for d in (one, two)]
    assert said[0] == said[1]
