"""Constants by hand: the best of the answers they were learnt from, for each metric."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from photon.evaluation.blind import Blind, constants
from photon.evaluation.metrics import bleu1, mean_relative_accuracy, rouge1_one
from photon.evaluation.scores import summarize


def score(records, blind: Blind, metric="accuracy", variant="score") -> float:
    return summarize(blind.rows([vars(r) for r in records], variant))["overall"][metric]


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
    control = constants(shuffled)["test"]
    assert control.chosen == {"s": {"option": "no"}}
    assert score(shuffled, control) == pytest.approx(5 / 6)
    assert control.answers["score"] == ["A", "A", "A", "B", "B", "A"]
    # all letters A, texts half and half: the letter rule wins
    biased = [yes_no(i, "no" if i % 2 else "yes", swapped=bool(i % 2)) for i in range(6)]
    control = constants(biased)["test"]
    assert control.chosen == {"s": {"letter": "A"}} and set(control.answers["score"]) == {"A"}
    assert score(biased, control) == 1.0


def test_training_majorities_are_used_and_the_test_set_is_the_bound():
    train = [yes_no(i, "yes", swapped=i % 2 == 0) for i in range(10)]
    test = [yes_no(i, "no", swapped=i % 2 == 0) for i in range(4)]
    both = constants(test, train)
    assert both["train"].source == "train"
    # Chosen by the training answers, of which "yes" is right throughout and a letter half the time.
    assert both["train"].chosen == {"s": {"option": "yes"}}
    assert score(test, both["train"]) == 0.0
    assert score(test, both["test"]) == 1.0
    assert list(constants(test)) == ["test"]


def test_constants_are_per_subtask_and_fall_back_to_all_of_the_kind():
    train = [yes_no(i, "yes", False, "a") for i in range(3)]
    train += [yes_no(i, "no", False, "b") for i in range(2)] + [yes_no(9, "yes", False, "d")]
    test = [yes_no(0, "yes", False, "a"), yes_no(1, "no", False, "b"), yes_no(2, "yes", False, "c")]
    control = constants(test, train)["train"]
    assert control.answers["score"] == ["A", "B", "A"]  # "c" is new: all of them, a subtask each


def four(i, letter, **choices):
    return rec(i, choices=choices, answer=letter, answer_letter=letter)


def test_text_rule_takes_the_majority_text_and_else_the_majority_letter():
    train = [four(i, "A", A="liver", B="spleen") for i in range(3)]
    train.append(four(4, "B", A="x", B="lung"))
    test = [four(0, "B", A="lung", B="Liver"), four(1, "A", A="heart", B="lung")]
    control = constants(test, train)["train"]
    assert control.chosen["s"] == {"option": "liver"}
    assert control.answers["score"] == ["B", "A"]  # liver where it is offered, else A


def test_the_upper_bound_does_not_look_answers_up():
    """Each right number occurs once: a constant must not find it among the options."""
    rng = np.random.default_rng(0)
    records = []
    for i in range(200):
        letter = "ABCD"[int(rng.integers(4))]
        options = {c: f"{1000 * i + n} mL" for n, c in enumerate("ABCD")}
        records.append(four(i, letter, **options))
    assert (
        score(records, constants(records)["test"])
        == max(Counter(r.answer for r in records).values()) / 200
        < 0.35
    )


def free(i, answer, subtask="s", task="t", value=None):
    return rec(i, question_type="free", answer=answer, subtask=subtask, task=task, value=value)


def test_a_numeric_constant_maximises_the_relative_accuracy():
    values = [100.0, 110.0, 120.0, 400.0, 900.0]
    records = [free(i, f"{v} mL", value=v) for i, v in enumerate(values)]
    control = constants(records)["test"]

    def mean(constant):
        return np.mean([mean_relative_accuracy(constant, value) for value in values])

    best = max(values, key=mean)
    assert best != np.median(values) and control.answers["score"] == [f"{best:g}"] * 5
    assert score(records, control, "mra") == pytest.approx(mean(best))


SIZES = ["30x13 mm", "7x5 mm", "Small", "Small", "4 mm", "5 mm", "12 mm"]


def test_each_text_metric_has_its_own_best_constant():
    """The commonest answer is "Small"; a loop over all says which one each metric wants."""
    records = [free(i, answer) for i, answer in enumerate(SIZES)]
    control = constants(records)["test"]
    n = len(SIZES)
    loops = {
        "bleu1": lambda text: bleu1([text] * n, SIZES),
        "rouge1": lambda text: np.mean([rouge1_one(text, answer) for answer in SIZES]),
    }
    assert set(control.answers["score"]) == {"Small"}
    for metric, loop in loops.items():
        best = max(map(loop, SIZES))
        assert score(records, control, metric, metric) == pytest.approx(best), metric
        assert best > loop("Small") + 0.05


def test_one_constant_a_task_is_best_over_its_subtasks_and_not_over_its_questions():
    records = [yes_no(i, "no", False, "big") for i in range(9)]
    records += [yes_no(9 + i, "yes", False, name) for i, name in enumerate("ab")]
    for record in records:
        record.task = "t"
    control = constants(records, per="task")["test"]
    assert control.chosen == {"t": {"option": "yes"}}  # 2 of 3 subtasks, though 2 of 11 questions
    each = constants(records)["test"]
    assert score(records, each) == 1.0


def test_a_shared_subtask_name_does_not_lose_its_training_answers():
    train = [yes_no(i, "no", False, "b") for i in range(3)]
    for r in train:
        r.task = "static"
    others = [yes_no(i, "yes", False, "b") for i in range(5)]
    for r in others:
        r.task = "longitudinal"
    test = [yes_no(9, "no", False, "b")]
    test[0].task = "static"
    control = constants(test, train + others)["train"]
    assert score(test, control) == 1.0


def test_rows_and_records_are_treated_alike():
    records = [yes_no(i, "no", swapped=i < 2) for i in range(5)]
    rows = [vars(r) for r in records]
    one, other = constants(records)["test"], constants(rows)["test"]
    assert one == other
    assert Counter(one.answers["score"]) == {"A": 2, "B": 3} and score(records, one) == 1.0
