"""Controls: constants by hand, derangements by their properties, random masks by their counts."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from photon.errors import InputError
from photon.evaluation import controls
from photon.questions.record import Record


def rec(i=0, **values):
    base = dict(id=f"q{i}", volume="v", patient="p", task=None, subtask="s", question_type="choice",
                question="?", answer=None, choices=None, answer_letter=None, value=None, unit=None,
                organ=None)  # fmt: skip
    return SimpleNamespace(**{**base, **values})


def yes_no(i, answer, swapped, subtask="s"):
    choices = {"A": "no", "B": "yes"} if swapped else {"A": "yes", "B": "no"}
    letter = next(k for k, v in choices.items() if v == answer)
    return rec(i, choices=choices, answer=letter, answer_letter=letter, subtask=subtask)


def test_the_better_of_letter_and_text_is_reported():
    # letters A, A, A, B, B, B; texts: no five times of six: the text rule wins
    shuffled = [yes_no(i, "no", swapped=i < 3) for i in range(5)] + [yes_no(5, "yes", True)]
    control = controls.constant_control(shuffled)["test"]
    assert control.rules == {"s": "text"}
    assert control.summary["overall"]["accuracy"] == pytest.approx(5 / 6)
    assert control.predictions == ["A", "A", "A", "B", "B", "A"]
    # all letters A, texts half and half: the letter rule wins
    biased = [yes_no(i, "no" if i % 2 else "yes", swapped=bool(i % 2)) for i in range(6)]
    control = controls.constant_control(biased)["test"]
    assert control.rules == {"s": "letter"} and set(control.predictions) == {"A"}
    assert control.summary["overall"]["accuracy"] == 1.0


def test_training_majorities_are_used_and_the_test_set_is_the_bound():
    train = [yes_no(i, "yes", swapped=i % 2 == 0) for i in range(10)]
    test = [yes_no(i, "no", swapped=i % 2 == 0) for i in range(4)]
    both = controls.constant_control(test, train)
    assert both["train"].source == "train"
    assert both["train"].answers["s"]["option"] == "yes"
    # the training letter is right for two of four, the training text for none
    assert both["train"].summary["overall"]["accuracy"] == 0.5
    assert both["test"].summary["overall"]["accuracy"] == 1.0
    assert list(controls.constant_control(test)) == ["test"]


def test_constants_are_per_subtask_and_fall_back_to_all_of_the_kind():
    train = [yes_no(i, "yes", False, "a") for i in range(3)]
    train += [yes_no(i, "no", False, "b") for i in range(2)]
    test = [yes_no(0, "yes", False, "a"), yes_no(1, "no", False, "b"), yes_no(2, "yes", False, "c")]
    control = controls.constant_control(test, train)["train"]
    assert control.predictions == ["A", "B", "A"]  # "c" is new: the majority of all


def four(i, letter, **choices):
    return rec(i, choices=choices, answer=letter, answer_letter=letter)


def test_text_rule_takes_the_majority_text_and_else_the_majority_letter():
    train = [four(i, "A", A="liver", B="spleen") for i in range(3)]
    train.append(four(4, "B", A="x", B="lung"))
    test = [four(0, "B", A="lung", B="Liver"), four(1, "A", A="heart", B="lung")]
    control = controls.constant_control(test, train)["train"]
    assert control.rules["s"] == "text"
    assert control.predictions == ["B", "A"]  # liver where it is offered, else A


def test_the_upper_bound_does_not_look_answers_up():
    """Each right number occurs once: a constant must not find it among the options."""
    rng = np.random.default_rng(0)
    records = []
    for i in range(200):
        letter = "ABCD"[int(rng.integers(4))]
        options = {c: f"{1000 * i + n} mL" for n, c in enumerate("ABCD")}
        records.append(four(i, letter, **options))
    score = controls.constant_control(records)["test"].summary["overall"]["accuracy"]
    assert score == max(Counter(r.answer for r in records).values()) / 200 < 0.35


def test_free_text_takes_the_mode_and_numbers_the_median():
    texts = [rec(i, question_type="free", answer=a) for i, a in enumerate(["Low", "low.", "high"])]
    values = [
        rec(i + 3, question_type="free", answer=f"{v} mL", value=v, subtask="volume")
        for i, v in enumerate([100.0, 200.0, 900.0])
    ]
    control = controls.constant_control(texts + values)["test"]
    assert control.predictions == ["Low", "Low", "Low", "200", "200", "200"]
    assert control.summary["subtasks"]["s"]["accuracy"] == pytest.approx(2 / 3)
    # |200-100|/100 = 1 -> 0; exact -> 1; 7/9 -> 0
    assert control.summary["subtasks"]["volume"]["mra"] == pytest.approx(1 / 3)


def test_a_shared_subtask_name_does_not_lose_its_training_answers():
    train = [yes_no(i, "no", False, "b") for i in range(3)]
    for r in train:
        r.task = "static"
    others = [yes_no(i, "yes", False, "b") for i in range(5)]
    for r in others:
        r.task = "longitudinal"
    test = [yes_no(9, "no", False, "b")]
    test[0].task = "static"
    control = controls.constant_control(test, train + others)["train"]
    assert control.summary["overall"]["accuracy"] == 1.0


def volumes(counts):
    return [
        rec(f"{p}{v}{q}", volume=f"{p}/{v}", patient=p)
        for p, n in counts.items()
        for v in range(n)
        for q in range(2)
    ]


@pytest.mark.parametrize("counts", [{"a": 1, "b": 1}, {"a": 2, "b": 1, "c": 1}, {"a": 3, "b": 3},
                                    {c: 1 + ord(c) % 3 for c in "abcdefghij"}])  # fmt: skip
@pytest.mark.parametrize("seed", range(5))
def test_every_volume_is_swapped_for_another_patients(counts, seed):
    records = volumes(counts)
    mapping = controls.shuffled_volumes(records, seed)
    assert set(mapping) == {r.volume for r in records}
    assert sorted(mapping.values()) == sorted(mapping)  # a permutation
    assert all(v.split("/")[0] != o.split("/")[0] for v, o in mapping.items())


def test_two_scans_of_a_patient_move_together():
    def scans(patient, n):
        names = [f"{patient}-{i}" for i in range(n)]
        more = tuple(names[1:])
        return Record(f"q{patient}", names[0], "Q?", patient=str(patient), more_volumes=more)

    mapping = controls.shuffled_volumes([scans(p, 1 + p % 2) for p in range(12)], seed=3)
    assert len(set(mapping.values())) == len(mapping) == 18
    assert all(a.split("-")[0] != b.split("-")[0] for a, b in mapping.items())
    pairs = [(mapping[f"{p}-0"], mapping[f"{p}-1"]) for p in range(1, 12, 2)]
    together = [a.split("-")[0] == b.split("-")[0] and a < b for a, b in pairs]
    assert sum(together) >= 5, pairs


def test_shuffling_depends_on_the_seed_and_not_on_the_order():
    records = volumes(dict.fromkeys("abcdefgh", 2))
    assert controls.shuffled_volumes(records, 1) == controls.shuffled_volumes(records[::-1], 1)
    assert controls.shuffled_volumes(records, 1) != controls.shuffled_volumes(records, 2)


def test_one_dominating_patient_repeats_volumes_with_a_warning():
    with pytest.warns(UserWarning, match="3 of 4 volumes"):
        mapping = controls.shuffled_volumes(volumes({"a": 3, "b": 1}))
    assert {mapping[f"a/{i}"] for i in range(3)} == {"b/0"}
    assert mapping["b/0"].startswith("a/")


def test_shuffling_needs_two_patients_and_consistent_records():
    with pytest.raises(InputError, match="two patients"):
        controls.shuffled_volumes(volumes({"a": 3}))
    with pytest.raises(InputError, match="volume x belongs to two patients"):
        controls.shuffled_volumes([rec(volume="x", patient="a"), rec(volume="x", patient="b")])
    anonymous = [rec(volume=v, patient=None) for v in "xyz"]
    assert all(a != b for a, b in controls.shuffled_volumes(anonymous).items())


def test_random_keep_spends_what_photon_spent():
    rows = [{"id": "q0", "kept_tokens": 3}, {"id": "q1", "kept_tokens": 0}]
    assert controls.random_keep_counts(rows) == {"q0": 3, "q1": 0}
    with pytest.raises(InputError, match="question q2 has no kept_tokens"):
        controls.random_keep_counts([{"id": "q2", "kept_tokens": None}])


def test_random_masks_are_seeded_per_question_and_uniform():
    mask = controls.random_keep_mask("q0", 5, 40)
    assert mask.dtype == bool and mask.sum() == 5 and mask.shape == (40,)
    assert (mask == controls.random_keep_mask("q0", 5, 40)).all()
    assert (mask != controls.random_keep_mask("q1", 5, 40)).any()
    assert (mask != controls.random_keep_mask("q0", 5, 40, seed=1)).any()
    hits = sum(controls.random_keep_mask(f"q{i}", 5, 40) for i in range(2000))
    assert hits.min() > 180 and hits.max() < 320  # 250 expected, standard deviation 15
    assert controls.random_keep_mask("q", 40, 40).all()
    with pytest.raises(ValueError, match="count=41"):
        controls.random_keep_mask("q", 41, 40)


def test_rows_and_records_are_treated_alike():
    records = [yes_no(i, "no", swapped=i < 2) for i in range(5)]
    rows = [vars(r) for r in records]
    one, other = controls.constant_control(records)["test"], controls.constant_control(rows)["test"]
    assert one.predictions == other.predictions
    assert Counter(one.predictions) == {"A": 2, "B": 3}
    assert np.isclose(one.summary["overall"]["accuracy"], 1.0)
