"""DeepTumorVQA of both versions: reading, prompts, what each protocol accepts, the means."""

import json
from collections import Counter

import pytest

from photon.benchmarks.deeptumorvqa import SUBTYPES, DeepTumorVQA, first_number, split_options
from photon.benchmarks.deeptumorvqa_v2 import DeepTumorVQA2, first_letter, yes_or_no
from photon.errors import InputError
from photon.questions.record import Record
from tests.benchmarks.published import (
    abdomenatlas,
    deeptumor,
    deeptumor_number,
    deeptumor_row,
    write_csv,
    write_json,
)
from tests.benchmarks.rows import choice, free

V1, V2 = DeepTumorVQA(), DeepTumorVQA2()


def by_id(records: list[Record]) -> dict[str, Record]:
    return {record.id: record for record in records}


def number(id, prediction, answer, subtask="organ volume measurement", task="measurement"):
    return free(id, prediction, answer, task, subtask)


def existence(id, prediction, answer, subtask="kidney tumor existence"):
    return free(id, prediction, answer, "recognition", subtask)


def clinical(pairs, protocol, benchmark=V1):
    rows = [existence(i, prediction, answer) for i, (prediction, answer) in enumerate(pairs)]
    scored = benchmark.score(rows, protocol)
    values = [scored.measures["Kidney tumor", name].value()
              for name in ("Sensitivity", "Specificity", "Accuracy")]  # fmt: skip
    return values, [note for note in scored.notes if "Kidney" in note]


def test_subtypes_of_both_versions() -> None:
    first = [subtype for subtype in SUBTYPES.values() if subtype.since == 1]
    assert (len(first), len(SUBTYPES)) == (29, 42)
    assert Counter(subtype.task for subtype in first) == {
        "measurement": 3, "recognition": 6, "visual_reasoning": 14, "medical_reasoning": 6,
    }  # fmt: skip
    assert sum(subtype.answer == "number" for subtype in first) == 9


def test_deeptumor_v1(tmp_path) -> None:
    deeptumor(tmp_path, {"train": [1, 2], "test": [3]})
    test = by_id(DeepTumorVQA(str(tmp_path)).read("test").records)
    train = by_id(DeepTumorVQA(str(tmp_path), form="free").read("train").records)
    assert list(test) == ["test/30", "test/31"] and len(train) == 4
    choice = test["test/30"]
    assert choice.choices == {"A": "left kidney", "B": "the same", "C": "right kidney"}
    assert (choice.answer, choice.subtask, choice.task) == (
        "A", "kidney volume comparison", "visual_reasoning")  # fmt: skip
    assert choice.question.startswith("Which kidney is larger?\nA. left kidney\n")
    assert choice.volume == "AbdomenAtlas/image_only/BDMAP_00000003/ct.nii.gz"
    number, text = train["train/11"], train["train/10"]
    assert (number.value, number.subtask) == (1500.5, "organ volume measurement")
    assert (text.value, text.answer, text.question_type) == (None, "left kidney", "free")


def test_deeptumor_official_prompts(tmp_path) -> None:
    """v2's prompt.py: modality, patient, spacing of numeric questions, question, closing."""
    deeptumor(tmp_path, {"train": [1], "test": [3]})
    modality = "You are given the full 3D abdominal CT volume (NIfTI, native voxel spacing)."
    test = DeepTumorVQA(str(tmp_path), prompt="official").read("test").records
    assert test[0].system.startswith("You are a radiology AI assistant.")
    assert test[0].question.split("\n") == [
        modality,
        "Patient: sex=F, age=61.",
        "Which kidney is larger? A: left kidney B: the same C: right kidney",
        "Answer with ONLY the single letter (A, B, C, or D).",
    ]
    free = DeepTumorVQA(str(tmp_path), prompt="official", form="free").read("test").records
    assert free[0].question.endswith("larger?\nAnswer with the most appropriate short phrase.")
    assert free[1].question.split("\n")[2:] == [
        "Voxel spacing (mm): [0.82 0.82 2.5 ].  Volume shape: (512, 512, 339).",
        "What is the volume of the liver?",
        "Answer with a single number (no units, no extra words).",
    ]


@pytest.mark.parametrize("subtype", [subtype.name for subtype in SUBTYPES.values()])
def test_the_official_prompt_does_not_depend_on_the_answer(tmp_path, subtype) -> None:
    questions = []
    for answer in ("yes", "12", "left kidney 3"):
        row = deeptumor_row(5, "BDMAP_00000009", question_subtype=subtype, answer=answer)
        write_json(tmp_path / "DeepTumorVQA" / "benchmark" / "test_qa.json", {"questions": [row]})
        reader = DeepTumorVQA2(str(tmp_path), prompt="official", form="free")
        questions += [record.question for record in reader.read("test").records]
    assert len(questions) >= 2 and len(set(questions)) == 1


def test_version_1_does_not_swallow_the_training_file_of_version_2(tmp_path) -> None:
    deeptumor(tmp_path, {"train": [1, 2], "test": [3]})
    row = deeptumor_row(5, "BDMAP_00000009")
    path = tmp_path / "DeepTumorVQA" / "train" / "train_qa.csv"
    write_csv(path, list(row), [list(row.values())])
    first = DeepTumorVQA(str(tmp_path)).read("train")
    assert len(first.records) == 4 and path not in first.files
    (second,) = DeepTumorVQA2(str(tmp_path)).read("train").records
    assert second.patient == "BDMAP_00000009"
    assert DeepTumorVQA2(str(tmp_path)).expected("test") == 10_000


def test_thousands_in_a_true_number(tmp_path) -> None:
    row = {**deeptumor_number(5, "BDMAP_00000009"), "answer": "1,234.5 cm^3"}
    write_json(tmp_path / "DeepTumorVQA" / "validation.json", {"questions": [row]})
    (record,) = DeepTumorVQA(str(tmp_path), form="free").read("test").records
    assert record.value == 1234.5


def test_deeptumor_v2_files_and_spellings(tmp_path) -> None:
    folder = tmp_path / "DeepTumorVQA"
    row = deeptumor_row(5, "BDMAP_00000009", question_subtype="Kidney Volume-Comparison")
    v2 = {"qid": row.pop("question_id"), "mc_question": row.pop("multiple_choice_question"), **row}
    write_json(folder / "benchmark" / "test_qa.json", {"questions": [v2]})
    (folder / "benchmark" / "test_qa.jsonl").write_text(json.dumps(v2) + "\n")
    renamed = {"Image ID" if key == "image_id" else key.replace("_", " "): v2[key] for key in v2}
    write_csv(folder / "train" / "train_qa.csv", list(renamed), [list(renamed.values())])
    reader = DeepTumorVQA2(str(tmp_path))
    (test,), (train,) = reader.read("test").records, reader.read("train").records
    assert test.subtask == train.subtask == "kidney volume comparison"
    assert test.answer_letter == train.answer_letter == "A" and test.id == "test/5"
    with pytest.raises(InputError, match="no file of deeptumorvqa_v2 val"):
        reader.read("val")


def test_deeptumor_divided_by_institution(tmp_path) -> None:
    """Table 6: the published id files decide, whichever part a row was published in."""
    deeptumor(tmp_path, {"train": [1, 2], "test": [3]})
    abdomenatlas(tmp_path, {"train": [3], "test": [1, 2]})
    reader = DeepTumorVQA(str(tmp_path), ids="OOD")
    assert {r.patient for r in reader.read("test").records} == {"BDMAP_00000001", "BDMAP_00000002"}
    assert {r.patient for r in reader.read("train").records} == {"BDMAP_00000003"}
    assert reader.expected("test") is None
    (tmp_path / "AbdomenAtlas" / "TrainTestIDS" / "OOD_test.csv").unlink()
    with pytest.raises(InputError, match="OOD_test.csv: cannot be read"):
        reader.read("test")


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (deeptumor_row(1, "../BDMAP_00000001"), "path"),
        (deeptumor_row(1, "case 1"), "path"),
        (deeptumor_row(1, "BDMAP_00000001", question_subtype="kidney mood"), "subtype"),
        (deeptumor_row(1, "BDMAP_00000001", correct_option="D"), "choice"),
        (deeptumor_row(1, "BDMAP_00000001", multiple_choice_question=""), "choice"),
        (deeptumor_row(1, "BDMAP_00000001", multiple_choice_question="Which?"), "choice"),
        (deeptumor_row(9, "BDMAP_00000001"), "duplicate_id"),
    ],
)
def test_bad_deeptumor_rows(tmp_path, row, kind) -> None:
    path = tmp_path / "DeepTumorVQA" / "train.jsonl"
    path.parent.mkdir()
    rows = [deeptumor_row(9, "BDMAP_00000001"), row, deeptumor_number(8, "BDMAP_00000002")]
    path.write_text("".join(json.dumps(r) + "\r\n" for r in rows))
    reading = DeepTumorVQA(str(tmp_path)).read("train")
    assert [r.id for r in reading.records] == ["train/9", "train/8"]
    assert reading.counts() == {kind: 1} and reading.problems[0].where == f"{path}:2"


def test_options_are_split_in_order_only() -> None:
    question, choices = split_options("Which segment? A: segment B: B: segment C D: none")
    assert question == "Which segment?"
    assert choices == {"A": "segment", "B": "B: segment C D: none"}
    assert split_options("x? (A) 1 (B) 2")[1] == {"A": "1", "B": "2"}


def test_a_numeric_answer_without_a_number(tmp_path) -> None:
    path = tmp_path / "DeepTumorVQA" / "train.jsonl"
    path.parent.mkdir()
    row = deeptumor_number(1, "BDMAP_00000001") | {"answer": "unknown"}
    path.write_text(json.dumps(row) + "\n")
    reading = DeepTumorVQA(str(tmp_path), form="free").read("train")
    assert not reading.records and "holds no number" in reading.problems[0].message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12-14", 12), ("T-12", -12), ("1,234", 1), ("2e3 mL", 2000), ("about .5", 0.5),
        ("12. ", 12), ("+3", 3), ("none", None), ("", None),
    ],
)  # fmt: skip
def test_the_papers_number_is_the_first_with_its_sign(text, expected):
    assert first_number(text) == expected


@pytest.mark.parametrize(
    ("prediction", "answer", "official", "strict"),
    [
        ("75", "100", 0.5, 0.5),
        ("about 75 cm^3", "100 cm^3", 0.5, 0.5),
        ("1,234", "1234", 0.0, 1.0),  # a thousands separator ends the paper's number
        ("lots", "100", 0.0, 0.0),
        ("", "100", 0.0, 0.0),
        ("0", "0", 1.0, 1.0),
        ("left-40", "-40", 1.0, 0.0),  # a dash inside a word is no minus sign
    ],
)
def test_numbers_score_by_mra(prediction, answer, official, strict):
    row = number(0, prediction, answer)
    assert V1.judge(row, "official").value == pytest.approx(official)
    assert V1.judge(row, "strict").value == pytest.approx(strict)


@pytest.mark.parametrize(
    ("prediction", "official", "strict"),
    [
        ("left kidney", 1, 1),
        ("Left kidney", 0, 1),
        ("left kidney.", 0, 1),
        ("right", 0, 0),
        ("", 0, 0),
    ],
)
def test_free_text_is_compared_to_the_character_or_normalised(prediction, official, strict):
    row = free(0, prediction, "left kidney", "visual_reasoning", "kidney volume comparison")
    assert V1.judge(row, "official").value == official
    assert V1.judge(row, "strict").value == strict


@pytest.mark.parametrize(
    ("prediction", "official", "strict"),
    [("C", 1, 1), ("C.", 0, 1), ("c", 0, 1), ("right kidney", 0, 1), ("A or C", 0, 0), ("A", 0, 0)],
)
def test_choices(prediction, official, strict):
    options = ("left kidney", "the same", "right kidney")
    row = choice(0, prediction, "C", options, "visual_reasoning", "kidney volume comparison")
    assert V1.judge(row, "official").value == official
    assert V1.judge(row, "strict").value == strict


def test_means_count_each_subtype_once():
    rows = [number(i, "100", "100", "organ_volume_measurement") for i in range(8)]
    rows += [number(8, "1", "100", "organ_HU_measurement")]
    rows += [existence(9, "yes", "yes", "liver lesion existence")]
    measures = V1.score(rows, "official").measures
    assert measures["Meas.", "Average"].value() == pytest.approx((1 + 0) / 2)
    assert measures["Recog.", "Average"].value() == 1.0
    # Over the three subtypes, not over the two types.
    assert measures["Total", "Average"].value() == pytest.approx((1 + 0 + 1) / 3)


def test_both_forms_are_columns_of_their_own():
    rows = [choice(0, "A", "A", ("x", "y"), "measurement", "lesion volume measurement")]
    rows += [number(1, "5", "5")]
    assert {name: len(part) for name, part in V1.variants(rows).items()} == {
        "Multi-choice": 1,
        "Free-text": 1,
    }


def test_table_5_by_hand():
    pairs = [("yes", "yes")] * 3 + [("no", "yes")] + [("no", "no")] * 5 + [("Present.", "no")]
    assert clinical(pairs, "official") == ([0.75, 5 / 6, 0.8], [])


def test_an_unreadable_answer_is_skipped_as_published_and_wrong_when_strict():
    pairs = [("yes", "yes"), ("perhaps", "yes"), ("no", "no"), ("", "no")]
    values, notes = clinical(pairs, "official")
    assert values == [1.0, 1.0, 1.0] and "2 of 4" in notes[0]
    assert clinical(pairs, "strict") == ([0.5, 0.5, 0.5], [])
    # v2: what cannot be read is no positive, and yet no right answer.
    assert clinical(pairs, "official", V2)[0] == [0.5, 1.0, 0.5]


def test_synonyms_of_both_languages():
    pairs = [("\u6709", "yes"), ("\u65e0", "no"), ("TRUE", "yes"), ("not exist", "no")]
    assert clinical(pairs, "official")[0] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [("75", 0.75), ("50", 0.5), ("104 mL", 0.96), ("300", 0.0), ("?", 0.0),
     ("<think>9</think> 75", 0.75), ("<think>9 and then", 0.0)],
)  # fmt: skip
def test_v2_scores_numbers_without_thresholds(prediction, expected):
    assert V2.judge(number(0, prediction, "100"), "official").value == pytest.approx(expected)


def test_v2_strict_is_real_mra():
    assert V2.judge(number(0, "75", "100"), "strict").value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("text", "letter"),
    [("B", "B"), ("b)", "B"), ("Both kidneys", "B"), ("The answer is C", "C"), ("E", ""),
     ("", ""), ("Answer: d", "A")],
)  # fmt: skip
def test_v2_takes_a_first_capital_or_the_first_lone_letter(text, letter):
    assert first_letter(text) == letter


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Yes, it is", "yes"), ("nothing", "no"), ("I say no", "no"), ("no or yes", "no"),
     ("well, yes or no", "yes"), ("unknown", ""), ("", "")],
)  # fmt: skip
def test_v2_reads_yes_and_no_in_its_own_way(text, expected):
    assert yes_or_no(text) == expected


def test_v2_weighs_questions_and_reports_tolerance_bands():
    rows = [number(i, "96", "100") for i in range(3)] + [existence(9, "no", "yes")]
    measures = V2.score(rows, "official").measures
    assert measures["Total", "By question"].value() == pytest.approx((3 * 0.96 + 0) / 4)
    assert measures["Total", "Average"].value() == pytest.approx((0.96 + 0) / 2)
    assert measures["Numbers", "Within 5%"].value() == 1.0
    far = V2.score([number(0, "85", "100")], "official").measures
    bands = {name: far["Numbers", f"Within {name}%"].value() for name in (5, 10, 20, 50)}
    assert bands == {5: 0.0, 10: 0.0, 20: 1.0, 50: 1.0}


@pytest.mark.parametrize(
    ("prediction", "answer", "lenient"),
    [
        ("The answer is yes", "yes", 1), ("Yes, there is a tumor.", "yes", 1),
        ("No, yes", "yes", 0),
        ("There is no tumor", "no", 1), ("There is no tumor", "yes", 0), ("perhaps", "no", 0),
        ("It is the left kidney.", "left kidney", 1), ("It is the kidney.", "left kidney", 0),
        ("", "yes", 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("benchmark", [V1, V2])
def test_lenient_reads_an_answer_inside_a_sentence(benchmark, prediction, answer, lenient):
    row = existence(0, prediction, answer, "fatty liver")
    assert benchmark.judge(row, "lenient").value == lenient
    exact = prediction.lower().rstrip(".") == answer
    assert benchmark.judge(row, "strict").value == float(exact)
