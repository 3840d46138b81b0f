"""What label maps say of a batch, against loops over voxels."""

import numpy as np
import torch

from photon.batch.builder import BatchBuilder
from photon.batch.dataset import Item
from photon.batch.supervision import (
    HintedCollate,
    SupervisedCollate,
    evidence_shares,
    hinted,
    item_statistics,
    places,
)
from photon.questions.record import Record
from photon.weights.checkpoints import load_tokenizer

TOKEN = (2, 4, 4)
CAPTION = "liver: small, low attenuation. spleen: absent."
SPANS = [[7, 29, [4, 14]], [39, 45, []]]


def item(seed, records, volumes=1):
    rng = np.random.default_rng(seed)
    shape = (4, 8, 8)
    return Item(
        tuple(torch.from_numpy(rng.random(shape, dtype=np.float32)) for _ in range(volumes)),
        records,
        tuple(rng.integers(0, 16, shape).astype(np.uint8) for _ in range(volumes)),
    )


def loop_statistics(labels, volume, label):
    """share, mean and extent of one label in every token."""
    rows = []
    for z in range(0, labels.shape[0], TOKEN[0]):
        for y in range(0, labels.shape[1], TOKEN[1]):
            for x in range(0, labels.shape[2], TOKEN[2]):
                box = (slice(z, z + 2), slice(y, y + 4), slice(x, x + 4))
                inside = labels[box] == label
                values = volume[box][inside]
                rows.append((inside.mean(), values.mean() if inside.any() else 0.0))
    share, mean = map(np.array, zip(*rows, strict=True))
    return share, mean, np.full_like(share, share.sum())


def test_statistics_of_two_volumes():
    one = item(0, [], volumes=2)
    found = item_statistics(one, TOKEN)
    for label in (0, 3, 15):
        parts = [
            loop_statistics(m, v.numpy(), label)
            for m, v in zip(one.labels, one.volumes, strict=True)
        ]
        for name, of_both in zip(
            ("share", "mean", "extent"), zip(*parts, strict=True), strict=True
        ):
            expected = torch.from_numpy(np.concatenate(of_both)).float()
            torch.testing.assert_close(getattr(found, name)[:, label], expected)


def test_places_of_a_caption_are_the_tokens_of_what_is_said():
    tokenizer = load_tokenizer("tiny")
    record = Record("a", "v", "Describe this scan.", CAPTION, extra={"spans": SPANS})
    told = places(record, tokenizer)
    ids = tokenizer.encode(CAPTION, add_special_tokens=False)
    for (start, stop, evidence), text in zip(
        SPANS, ("small, low attenuation", "absent"), strict=True
    ):
        assert CAPTION[start:stop] == text
        mine = [ids[token] for token, labels in told if labels == evidence]
        assert tokenizer.decode(mine).strip() == text
    question = Record("b", "v", "How large is the liver?", "small", evidence=(4, 14))
    assert places(question, tokenizer) == [(0, [4, 14])]


def test_pointers_stand_before_what_they_tell():
    tokenizer = load_tokenizer("tiny")
    builder = BatchBuilder((2, 2, 2), 1, 2, 1, tokenizer.convert_tokens_to_ids("<|video_pad|>"))
    question = Record("b", "v", "How large is the liver?", "small", evidence=(4, 14))
    report = Record("c", "w", "Describe this scan.", CAPTION, extra={"spans": SPANS})
    other = Record("d", "w", "How large is the heart?", "normal", evidence=(3,))
    items = [item(1, [question]), item(2, [report, other])]
    batch = SupervisedCollate(builder, tokenizer, with_answer=True)(items)
    pointers = batch.labels.pointers
    said = tokenizer.decode(batch.targets[pointers.rows]).split()
    assert said[0].startswith("small") and said[-1].endswith("normal")
    assert pointers.owner == [0] + [1] * (len(pointers.owner) - 1)
    share = pointers.share.reshape(len(pointers.owner), -1)
    liver = sum(
        loop_statistics(items[0].labels[0], items[0].volumes[0].numpy(), i)[0] for i in (4, 14)
    )
    torch.testing.assert_close(share[0], torch.from_numpy(liver).float())
    heart = loop_statistics(items[1].labels[0], items[1].volumes[0].numpy(), 3)[0]
    torch.testing.assert_close(share[-1], torch.from_numpy(heart).float())
    torch.testing.assert_close(evidence_shares(batch).reshape(3, -1)[[0, 2]], share[[0, -1]])


def test_hints_are_given_to_some_choice_questions_and_leave_the_rest_alone():
    choices = {"A": "small", "B": "large"}
    asked = [
        Record(f"q{i}", "ct", "How large is it?\nA. small\nB. large\nAnswer with the letter.", "B",
               question_type="choice", choices=choices, answer_letter="B")
        for i in range(40)
    ]  # fmt: skip
    free = Record("free", "ct", "How large is it?", "large", evidence=(4,))
    assert hinted(free) is free
    told = [hinted(record) for record in asked]
    given = [record for record in told if record.history]
    assert 10 < len(given) < 30 and len({record.id for record in told}) == 40
    assert all(record.history == (("How large is it?", "large"),) for record in given)
    assert all(new is old for new, old in zip(told, asked, strict=True) if not new.history)
    assert {(r.question, r.answer) for r in told} == {(asked[0].question, "B")}

    words = load_tokenizer("tiny")
    collate = HintedCollate(BatchBuilder(TOKEN, 1, 1, 1, 5), words, with_answer=True)
    batch = collate([item(0, asked)])
    text = [words.decode(batch.suffix_ids[segment]) for segment in batch.suffixes]
    for record, words_of, segment in zip(told, text, batch.suffixes, strict=True):
        assert ("large<|im_end|>" in words_of) == bool(record.history)
        supervised = [int(t) for t in batch.targets[segment] if t != -100]
        assert words.decode(supervised) == "B<|im_end|>"  # the hint itself is not supervised
