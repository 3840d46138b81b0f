"""3D-RAD: what each protocol accepts, the means of Table 1, and the constant-answer control."""

import csv
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from photon.benchmarks.rad3d import FOLDERS, Rad3D, judge, task_of
from photon.benchmarks.scoring import blind_controls, score_benchmark
from tests.benchmarks.rows import choice, free

YES_NO = ("Yes", "No")
RAD3D = Rad3D()


def closed(prediction, answer="B. No", subtask="Atelectasis", task="existence_detection", id=0):
    return choice(id, prediction, "B", YES_NO, task, subtask, answer)


@pytest.mark.parametrize(
    ("prediction", "official", "paper", "strict"),
    [
        ("B. No", 1, 1, 1),
        ("b.  no", 0, 1, 1),  # official looks for the capital letter with its full stop
        ("No", 0, 0, 1),
        ("B", 0, 0, 1),
        ("(B)", 0, 0, 1),
        ("A. Yes", 0, 0, 0),
        ("A. Yes or B. No", 1, 0, 0),  # several letters pass the substring test
        ("The answer is vitamin B.", 1, 0, 1),  # so does any sentence that ends in the letter
        ("B. Yes", 1, 0, 0),  # letter and text name two options
        ("", 0, 0, 0),
        (None, 0, 0, 0),
    ],
)
def test_what_each_protocol_accepts(prediction, official, paper, strict):
    row = closed(prediction)
    got = [judge(row, name).value for name in ("official", "paper", "strict")]
    assert got == [official, paper, strict]


def test_a_right_answer_in_the_wrong_form_is_unread_and_not_another_class():
    assert judge(closed("No"), "official").predicted == "(unread)"
    assert judge(closed("A. Yes"), "official").predicted == "yes"
    assert judge(closed("B. No"), "official").predicted == "no"


def test_the_paper_compares_with_the_supervised_answer_whatever_its_form():
    assert judge(closed("no", answer="No"), "paper").value == 1
    assert judge(closed("B", answer="B"), "paper").value == 1
    assert judge(closed("B. No", answer="B"), "paper").value == 0


def test_tasks_of_all_spellings_go_to_the_rows_of_table_1():
    names = {task_of({"task": folder}) for folder in FOLDERS}
    names |= {task_of({"task": title}) for title, _ in FOLDERS.values()}
    assert names == {
        "Image Observation", "Anomaly Detection", "Medical Measurement", "Existence Detection",
        "Stat. Temp. Diag.", "Longit. Temp. Diag.",
    }  # fmt: skip


def test_subtasks_count_alike():
    rows = [closed("B. No", subtask="a", id=i) for i in range(9)]
    rows += [closed("A. Yes", subtask="b", id=9)]
    scored = RAD3D.score(rows, "strict")
    assert scored.measures["Existence Detection", "Accuracy"].value() == 0.5
    assert scored.confusion["Existence Detection"] == {"no": {"no": 9, "yes": 1}}


def test_open_tasks_by_hand():
    task = {"task": "medical_measurement"}
    rows = [
        free(0, "30x13 mm", "30x13 mm", subtask="Size", **{}) | task,
        free(1, "5 mm", "30x13 mm", subtask="Size") | task,
        free(2, "12 mm", "12 mm", subtask="Diameter") | task,
    ]
    scored = RAD3D.score(rows, "strict")
    # Size: 3 of 4 words; Diameter: 2 of 2.
    assert scored.measures["Medical Measurement", "BLEU"].value() == pytest.approx((0.75 + 1) / 2)
    # ROUGE-1 F of "5 mm" to "30x13 mm" is 1/2.
    assert scored.measures["Medical Measurement", "ROUGE"].value() == pytest.approx(
        ((1 + 0.5) / 2 + 1) / 2
    )
    assert scored.measures["Medical Measurement", "BERT Score"] is None
    assert any("not computed" in note for note in scored.notes)


def test_bertscore_is_averaged_over_subtasks_where_there_is_an_encoder():
    rows = [free(i, "a", "b", "image_observation", "xxy"[i]) for i in range(3)]
    scored = RAD3D.score(rows, "strict", lambda p, r: np.array([0.2, 0.4, 0.9]))
    assert scored.measures["Image Observation", "BERT Score"].value() == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("prediction", "answer", "published", "strict"),
    [
        ("", "nan", 1.0, 0.0),  # pandas reads an empty cell as NaN, whose text is "nan"
        ("None", "n/a", 1.0, 0.0),  # both are NaN to pandas
        ("12 mm", "12 mm", 1.0, 1.0),
        ('say "a", b', 'say "a", b', 1.0, 1.0),  # quotes and commas survive the CSV file
    ],
)
def test_published_scripts_read_answers_through_a_csv_file(prediction, answer, published, strict):
    rows = [
        free(0, prediction, answer, "image_observation"),
        free(1, "x", "x", "image_observation"),
    ]
    key = ("Image Observation", "ROUGE")
    got = {p: RAD3D.score(rows, p).measures[key].stats[0, 0] for p in ("paper", "strict")}
    assert got == {"paper": published, "strict": strict}


def test_its_script_drops_empty_open_answers():
    rows = [free(0, " ", "nan", "image_observation"), free(1, "x", "x", "image_observation")]
    scored = RAD3D.score(rows, "official")
    assert scored.measures["Image Observation", "ROUGE"].n == 1
    assert any("1 of 2 empty answers left out" in note for note in scored.notes)
    assert RAD3D.score(rows, "strict").measures["Image Observation", "ROUGE"].n == 2


# The constant-answer control --------------------------------------------------------------------


def records(counts, task, options, split="test"):
    """Closed questions: {subtask: [number of each option]}."""
    out = []
    for subtask, numbers in counts.items():
        for letter, number in zip("ABCD", numbers, strict=False):
            for _ in range(number):
                out.append(
                    SimpleNamespace(
                        id=f"{split}/{task}/{subtask}/{len(out)}", task=task, subtask=subtask,
                        question_type="choice", choices=dict(zip("ABCD", options, strict=False)),
                        answer_letter=letter, answer=f"{letter}. {options['ABCD'.index(letter)]}",
                        value=None, volume="v", extra={},
                    )
                )  # fmt: skip
    return out


def accuracy_of_constants(test, train, task):
    rows = [{**vars(r), "prediction": "?"} for r in test]
    columns = score_benchmark(RAD3D, [rows], {}, blind_controls(test, train))
    return {
        (protocol, name): other.measures[task, "Accuracy"].value()
        for (protocol, _), column in columns.items()
        for name, other in column.others.items()
    }


CHANGES = ("Refractory Lesion", "Resolved Lesion", "New Lesion", "No Abnormality")
# Subtasks of unequal size, in one of which another answer is more frequent: as in the test set,
# where always "No Abnormality" scores 64.11 by question, but 46.09 over subtasks.
STATIC = {"b": [10, 5, 5, 80], "c": [3, 1, 2, 4], "d": [5, 0, 1, 2]}


def test_constant_answers_score_what_counting_says_under_every_protocol():
    test = records(STATIC, "static_temporal_diagnosis", CHANGES)
    train = records({"c": [1, 0, 0, 5], "d": [0, 1, 0, 3]}, "static_temporal_diagnosis", CHANGES)
    got = accuracy_of_constants(test, train, "Stat. Temp. Diag.")
    always = (80 / 100 + 4 / 10 + 2 / 8) / 3
    best = (80 / 100 + 4 / 10 + 5 / 8) / 3
    for protocol in RAD3D.protocols:
        # Training answers say "No Abnormality" everywhere; "b" is not among them.
        assert got[protocol, "constant: train, per subtask"] == pytest.approx(always)
        assert got[protocol, "constant: test, per task"] == pytest.approx(always)
        assert got[protocol, "constant: test, per subtask"] == pytest.approx(best)
    assert always != pytest.approx((80 + 4 + 2) / 118)  # not the share of all questions


def test_always_no_scores_the_share_of_no():
    test = records({"x": [18, 82], "y": [10, 90]}, "existence_detection", YES_NO)
    got = accuracy_of_constants(test, None, "Existence Detection")
    assert got["official", "constant: test, per task"] == pytest.approx(0.86)
    assert ("official", "constant: train, per subtask") not in got


def test_constants_of_the_published_test_answers(shared_data):
    """82.01 (existence) and 46.09 (static) on the whole files; a sample is counted as it is."""
    reader = Rad3D(root=str(shared_data / "qa"))
    test = reader.read("test").records
    closed_tasks = ("existence_detection", "static_temporal_diagnosis")
    kept = [r for r in test if r.task in closed_tasks]
    rows = [{**vars(r), "prediction": "?"} for r in kept]
    columns = score_benchmark(RAD3D, [rows], {}, blind_controls(kept, None))
    other = columns["strict", ""].others["constant: test, per task"]
    got = [
        100 * other.measures[title, "Accuracy"].value()
        for title in ("Existence Detection", "Stat. Temp. Diag.")
    ]
    if len(test) == 33_910:
        assert got == pytest.approx([82.01, 46.09], abs=0.005)
        return
    files = {name: sorted((shared_data / "qa").glob(f"3D-RAD/test/{name}*/*.csv"))
             for name in ("Task4", "Task5")}  # fmt: skip
    for value, paths in zip(got, files.values(), strict=True):
        assert value == pytest.approx(100 * _always_the_most_frequent(paths))


def _always_the_most_frequent(paths):
    answers = []
    for path in paths:
        with path.open(encoding="utf-8", newline="") as file:
            answers.append([row["Answer"] for row in csv.DictReader(file)])
    best = Counter(a for part in answers for a in part).most_common(1)[0][0]
    return np.mean([np.mean([a == best for a in part]) for part in answers])
