"""Scoring of rows and the means over subtasks and tasks."""

import pytest

from photon.errors import InputError
from photon.evaluation.scores import score_row, subtask_names, summarize

YES_NO = {"A": "yes", "B": "no"}


def choice(prediction, letter, subtask="existence", choices=YES_NO, **extra):
    return {"id": "q", "question_type": "choice", "choices": choices, "answer_letter": letter,
            "answer": letter, "prediction": prediction, "subtask": subtask, **extra}  # fmt: skip


def free(prediction, answer, subtask="attenuation", **extra):
    return {"id": "q", "question_type": "free", "answer": answer, "prediction": prediction,
            "subtask": subtask, "value": None, **extra}  # fmt: skip


def test_each_kind_is_scored_by_its_rule():
    right = score_row(choice("B. no", "B"))
    assert (right.kind, right.correct, right.mra, right.gold) == ("choice", True, None, "no")
    text = score_row(free("Low.", "low"))
    assert (text.kind, text.correct, text.mra) == ("text", True, None)
    number = score_row(free("about 75 mL", "100 mL", value=100.0))
    assert (number.kind, number.correct, number.mra) == ("number", None, 0.5)
    assert score_row(free("1,200", "1200", value=1200)).mra == 1.0


def test_a_choice_without_letter_takes_it_from_the_answer():
    assert score_row(choice("A", None, answer="A. yes")).correct
    assert score_row(choice("A", "", answer="yes")).correct
    with pytest.raises(InputError, match="question q"):
        score_row(choice("A", None, answer="perhaps"))
    with pytest.raises(InputError, match="answer_letter='D'"):
        score_row(choice("A", "D"))


@pytest.mark.parametrize(
    "row",
    [
        free("1", "one", value="many"),
        free("1", "one", value=float("nan")),
        free("yes", None),
        {**free("a", "a"), "question_type": "open"},
    ],
)
def test_an_unusable_truth_names_the_question(row):
    with pytest.raises(InputError, match="question q"):
        score_row(row)


def test_empty_answers_are_wrong_and_counted():
    rows = [choice(None, "A"), free(" ", "low"), free("", "5 mL", value=5.0), choice("A", "A")]
    overall = summarize(rows)["overall"]
    assert (overall["n"], overall["n_empty"], overall["n_judged"]) == (4, 3, 3)
    assert overall["accuracy"] == pytest.approx(1 / 3)
    assert overall["mra"] == 0.0


def test_numbers_never_enter_the_accuracy():
    rows = [choice("A", "A"), choice("A", "B"), free("75", "100", "volume", value=100.0)]
    result = summarize(rows)
    assert result["overall"]["accuracy"] == 0.5
    assert result["overall"]["score"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert result["subtasks"]["volume"]["accuracy"] is None
    assert result["subtasks"]["volume"]["mra"] == 0.5
    assert result["subtasks"]["existence"]["mra"] is None
    assert result["macro"]["accuracy"] == 0.5  # of the one subtask that has an accuracy
    assert result["macro"]["score"] == 0.5  # (0.5 + 0.5) / 2


def test_macro_counts_each_subtask_once_and_each_task_once():
    rows = [choice("A", "A", "a", task="t1")] * 8 + [choice("A", "B", "b", task="t1")] * 2
    rows += [choice("A", "B", "c", task="t2")] * 10
    result = summarize(rows)
    assert result["overall"]["accuracy"] == pytest.approx(0.4)
    assert result["macro"]["accuracy"] == pytest.approx(1 / 3)
    assert result["tasks"]["t1"]["accuracy"] == pytest.approx(0.8)
    assert result["tasks"]["t1"]["macro"]["accuracy"] == pytest.approx(0.5)
    assert result["macro"]["tasks"]["accuracy"] == pytest.approx(0.25)


def test_balanced_accuracy_uses_the_content_not_the_letter():
    swapped = {"A": "no", "B": "yes"}
    # always answers "no": 3 of 3 for no, 0 of 1 for yes; by letters it would be 2/3 and 1/1
    rows = [choice("B", "B"), choice("B", "B"), choice("A", "A", choices=swapped), choice("B", "A")]
    assert summarize(rows)["overall"]["balanced_accuracy"] == pytest.approx(0.5)


def test_subtasks_of_one_name_in_two_tasks_stay_apart():
    rows = [{"task": "static", "subtask": "b"}, {"task": "longitudinal", "subtask": "b"},
            {"task": "static", "subtask": "c"}, {"task": "x", "subtask": None}, {}]  # fmt: skip
    assert subtask_names(rows) == ["static/b", "longitudinal/b", "c", "x", "all"]


def test_order_of_the_rows_does_not_matter():
    rows = [choice("A", "A"), choice("B", "A"), free("low", "low"), free("3", "4", value=4.0)]
    assert summarize(rows) == summarize(rows[::-1])
