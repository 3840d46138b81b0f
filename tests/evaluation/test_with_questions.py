"""Scoring together with the question generator: its true answers must score in full."""

import pytest

from photon.evaluation.blind import constants
from photon.evaluation.predictions import prediction_row
from photon.evaluation.scores import kind_of, summarize
from photon.phantoms.phantom import make_phantom
from photon.questions.from_masks import generate_questions


@pytest.fixture(scope="module")
def records():
    out = []
    for seed in range(6):
        case = make_phantom(seed)
        out += generate_questions(
            case.array, case.labels, case.affine, case.names, volume=f"v{seed}", seed=seed
        )
    return out


def test_true_answers_of_every_kind_score_in_full(records):
    rows = [prediction_row(record, record.answer) for record in records]
    assert {kind_of(row) for row in rows} == {"choice", "text", "number"}
    result = summarize(rows)
    assert result["overall"]["accuracy"] == 1.0 and result["overall"]["mra"] == 1.0
    assert all(group["score"] == 1.0 for group in result["subtasks"].values())


def test_option_texts_and_sentences_score_like_letters(records):
    choice = [record for record in records if record.question_type == "choice"]
    for form in ("{letter}. {text}", "({letter})", "Answer: {letter}", "{text}", "{text}."):
        texts = [form.format(letter=r.answer, text=r.choices[r.answer]) for r in choice]
        rows = [prediction_row(r, t) for r, t in zip(choice, texts, strict=True)]
        assert summarize(rows)["overall"]["accuracy"] == 1.0, form


def test_wrong_letters_score_nothing(records):
    choice = [record for record in records if record.question_type == "choice"]
    wrong = [next(k for k in r.choices if k != r.answer) for r in choice]
    rows = [prediction_row(r, t) for r, t in zip(choice, wrong, strict=True)]
    assert summarize(rows)["overall"]["accuracy"] == 0.0


def test_constants_take_records(records):
    control = constants(records, records)
    assert control["train"].answers == control["test"].answers
    rows = [prediction_row(record, "") for record in records]
    assert summarize(control["test"].rows(rows))["overall"]["accuracy"] < 0.7
