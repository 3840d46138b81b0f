"""What the words of a question give away is found without a scan."""

import numpy as np

from photon.evaluation.scores import summarize
from photon.evaluation.text_rule import text_rule

CHANGES = {"A": "Refractory", "B": "Resolved", "C": "New", "D": "No Abnormality"}


def histories(n, split, seed):
    """3D-RAD's longitudinal questions: the right option follows from the values in the text."""
    rng, out = np.random.default_rng(seed), []
    for i in range(n):
        past = rng.integers(0, 2, rng.integers(1, 4)).tolist()
        letter = "D" if not any(past) else "A" if past[-1] else "B"
        if rng.random() < 0.1:
            letter = "C"  # what no text says
        question = f"Lung nodule had: {past} in earlier scans. What is it now?"
        out.append(
            {
                "id": f"{split}{i}", "volume": f"{split}{i}", "patient": f"{split}{i // 2}",
                "task": "t", "subtask": "b", "question": question, "question_type": "choice",
                "choices": CHANGES, "answer": letter, "answer_letter": letter, "value": None,
            }
        )  # fmt: skip
    return out


def test_a_history_in_the_question_answers_it():
    train, test = histories(400, "train", 0), histories(200, "test", 1)
    rule = text_rule(test, train)
    accuracy = summarize(rule.rows(test))["overall"]["accuracy"]
    assert accuracy > 0.85 and rule.chosen["b"]["rule"] in ("nearest", "words")


def test_nothing_is_learnt_from_the_test_answers():
    train, test = histories(100, "train", 0), histories(50, "test", 1)
    swapped = [{**row, "answer": "A", "answer_letter": "A"} for row in test]
    assert text_rule(test, train).answers == text_rule(swapped, train).answers


def test_free_text_takes_the_nearest_questions_answer_and_numbers_the_constant():
    def free(i, question, answer, value=None):
        return {
            "id": str(i), "volume": str(i), "patient": str(i), "task": "t", "subtask": "s",
            "question": question, "question_type": "free", "choices": None, "answer": answer,
            "answer_letter": None, "value": value,
        }  # fmt: skip

    train = [free(i, f"What organ is {w} the chest, number {i}?", a)
             for i, (w, a) in enumerate([("above", "neck"), ("below", "liver")] * 6)]  # fmt: skip
    train += [free(20 + i, "How large is it?", "5 mm", 5.0) for i in range(3)]
    test = [free(90, "What organ is below the chest?", "x"), free(91, "How large?", "9 mm", 9.0)]
    assert text_rule(test, train).answers["score"] == ["liver", "5"]
