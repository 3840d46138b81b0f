"""3D-RAD: all 92 files, every fault named by file and line, and survived."""

from pathlib import Path

import pytest

from photon.benchmarks.benchmark import Reading
from photon.benchmarks.rad3d import FOLDERS, Rad3D
from photon.errors import InputError
from photon.evaluation.scores import score_row
from tests.benchmarks.published import RAD3D, rad3d, rad3d_rows, write_csv, yes_no

EXISTENCE = "Task4_Existence_Detection"
NODULE = "Lung nodule"
SCAN = "test_7_a_1.nii.gz"


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return rad3d(tmp_path_factory.mktemp("data"), {"train": [1, 2], "test": [7]})


def one_file(root: Path, rows: list[list[str]], text: str | None = None, **settings) -> Reading:
    """The reading of a tree with one existence file."""
    path = root / "3D-RAD" / "3DRAD" / "test" / EXISTENCE / f"{NODULE}.csv"
    write_csv(path, RAD3D, rows)
    if text is not None:
        path.write_bytes(text.encode())
    return Rad3D(str(root), **settings).read("test")


def good(n: int = 1) -> list[list[str]]:
    return [yes_no(10, SCAN, NODULE, "No") for _ in range(n)]


def test_all_files_of_both_splits(tree) -> None:
    reader = Rad3D(str(tree))
    train, test = reader.read("train"), reader.read("test")
    assert (len(train.files), len(test.files)) == (51, 41)  # 92
    assert (len(train.records), len(test.records)) == (102, 82)
    assert not (train.problems or train.notes or test.problems or test.notes)
    tasks = {record.task for record in test.records}
    assert tasks == {task for task, _ in FOLDERS.values()} and len(tasks) == 6
    assert len({record.id for record in test.records}) == 82


def test_records_say_what_the_rows_say(tree) -> None:
    records = {record.id: record for record in Rad3D(str(tree)).read("test").records}
    closed = records[f"test/{EXISTENCE}/{NODULE}:3"]
    assert closed.choices == {"A": "Yes", "B": "No"} and closed.answer_letter == "B"
    assert closed.question.endswith("A. Yes\nB. No\nAnswer with the letter.")
    assert closed.answer == "B"
    assert (closed.task, closed.subtask, closed.patient) == (
        "existence_detection", NODULE, "valid_7")  # fmt: skip
    folder = "CT-RATE/dataset/valid_fixed/valid_7/valid_7_a"
    assert closed.volume == f"{folder}/valid_7_a_1.nii.gz"
    opened = records["test/Task3_Medical_Computation/Size:2"]
    assert (opened.question_type, opened.answer, opened.choices) == ("free", "30x13 mm", None)
    history = records["test/Task6_Longitudinal_Temporal_Diagnosis/b:2"]
    assert history.question.startswith("Earlier scans: [1, 0].") and len(history.choices) == 4


def test_official_prompt_and_target(tree) -> None:
    reader = Rad3D(str(tree), prompt="official")
    records = {record.id: record for record in reader.read("test").records}
    closed = records[f"test/{EXISTENCE}/{NODULE}:3"]
    assert closed.question == (
        "Does the CT scan demonstrate lung nodule?\nChoices: A. Yes B. No C. - D. -\nAnswer:"
    )
    assert closed.answer == "B. No"
    row = {**vars(closed), "prediction": "B. No"}
    assert score_row(row).correct and not score_row({**row, "prediction": "A. Yes"}).correct
    assert records["test/Task3_Medical_Computation/Size:2"].question.endswith("how large is it?")


def test_the_repository_may_come_without_its_upper_folder(tree, tmp_path) -> None:
    (tmp_path / "3D-RAD").mkdir()
    for split in ("train", "test"):
        (tmp_path / "3D-RAD" / split).symlink_to(tree / "3D-RAD" / "3DRAD" / split)
    assert len(Rad3D(str(tmp_path)).read("test").records) == 82


def test_byte_order_mark_and_crlf_change_nothing(tmp_path) -> None:
    plain = one_file(tmp_path / "a", good(2))
    path = plain.files[0]
    text = "\ufeff" + path.read_text().replace("\n", "\r\n")
    marked = one_file(tmp_path / "b", good(), text=text)
    assert not marked.problems and len(marked.records) == 2
    assert [r.question for r in marked.records] == [r.question for r in plain.records]


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"VolumeName": "../../etc/passwd"}, "path", "leads out of the data root"),
        ({"VolumeName": "/etc/test_7_a_1.nii.gz"}, "path", "leads out of the data root"),
        ({"VolumeName": "C:\\test_7_a_1.nii.gz"}, "path", "leads out of the data root"),
        ({"VolumeName": "scan.nii.gz"}, "path", "is not a CT-RATE name"),
        ({"VolumeName": ""}, "empty", "VolumeName is empty"),
        ({"Question": " "}, "empty", "question is empty"),
        ({"Answer": ""}, "empty", "answer is empty"),
        ({"AnswerChoice": "C"}, "choice", r"answer choice 'C' is not among the options \(A, B\)"),
        ({"AnswerChoice": "A"}, "choice", "answer 'No' is not the text of option A"),
        ({"Choice B": ""}, "choice", "fewer than two options"),
        ({"QuestionType": "Both"}, "row", "neither Open nor Close"),
        ({"Task": "5"}, "row", "task '5' stands in Task4_Existence_Detection"),
    ],
)
def test_a_bad_row_is_named_counted_and_survived(tmp_path, change, kind, says) -> None:
    rows = good(3)
    for column, value in change.items():
        rows[1][RAD3D.index(column)] = value
    reading = one_file(tmp_path, rows)
    assert len(reading.records) == 2 and reading.counts() == {kind: 1}
    (problem,) = reading.problems
    assert problem.where.endswith(f"{NODULE}.csv:3")
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(problem.message)


def test_a_file_with_a_wrong_column_does_not_stop_the_others(tmp_path) -> None:
    rows = rad3d_rows("Task3_Medical_Computation", 1, "Size", SCAN)
    folder = tmp_path / "3D-RAD" / "3DRAD" / "test" / "Task3_Medical_Computation"
    write_csv(folder / "Size.csv", RAD3D, rows)
    write_csv(folder / "Diameter.csv", ["Image", *RAD3D[3:]], [row[2:] for row in rows])
    reading = Rad3D(str(tmp_path)).read("test")
    assert len(reading.records) == 2 and reading.counts() == {"column": 1}
    assert str(reading.problems[0]).startswith(f"{folder / 'Diameter.csv'}:1: has no column")
    assert "volumename" in reading.problems[0].message
    absent = [note.where for note in reading.notes if note.kind == "file"]
    assert len(absent) == 39 and str(folder / "Thickness.csv") in absent


def test_columns_are_found_under_other_spellings_and_in_any_order(tmp_path) -> None:
    order = list(reversed(range(len(RAD3D))))
    header = [RAD3D[i].replace(" ", "_").upper() for i in order]
    path = tmp_path / "3D-RAD" / "test" / EXISTENCE / f"{NODULE}.csv"
    write_csv(path, header, [[row[i] for i in order] for row in good()])
    assert Rad3D(str(tmp_path)).read("test").records[0].answer_letter == "B"


def test_broken_lines(tmp_path) -> None:
    header = ",".join(RAD3D)
    row = ",".join(good()[0])
    text = f'{header}\n{row}\n4,1,{SCAN}\n\n{row}\n4,1,"{SCAN}\n{row}\n'
    reading = one_file(tmp_path, good(), text=text)
    assert len(reading.records) == 2
    assert reading.problems[0].where.endswith(":3") and "3 fields" in reading.problems[0].message
    assert reading.problems[-1].where.endswith(":6")  # the open quote swallows what follows
    path = reading.files[0]
    path.write_bytes(f"{header}\n{row}\n".encode() + b"4,1,\xff\n")
    broken = Rad3D(str(tmp_path)).read("test")
    assert str(broken.problems[0]).startswith(f"{path}:3: is not UTF-8") and not broken.records


def test_special_tokens_in_a_question_stay_text(tmp_path) -> None:
    from transformers import AutoTokenizer

    from photon.phantoms.tokenizer import TINY
    from photon.questions.prompts import build_prompt
    from photon.questions.record import read_records, write_records

    rows = good(2)
    rows[0][3] = "Is <|video_pad|> <video> there?"
    reading = one_file(tmp_path, rows)
    assert len(reading.records) == 2 and not reading.problems
    assert [note.kind for note in reading.notes if note.kind != "file"] == ["special_token"] * 2
    where = [note.where for note in reading.notes if note.kind == "special_token"]
    assert all(place.endswith(":2") for place in where)
    record = reading.records[0]
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    pad = tokenizer.convert_tokens_to_ids("<|video_pad|>")
    prompt = build_prompt(record, tokenizer, with_answer=True)
    assert pad not in prompt.head + prompt.after + prompt.suffix
    write_records(tmp_path / "again.jsonl", reading.records)
    again, problems = read_records(tmp_path / "again.jsonl")
    assert not problems and again[0].question == record.question


def test_names_with_spaces_and_letters_of_other_scripts(tmp_path) -> None:
    name = "Aufnahme \u00fc \u80ba 1.nii.gz"
    rows = good(2)
    rows[0][2] = name
    reading = one_file(tmp_path, rows, scans="flat")
    (tmp_path / "CT-RATE").mkdir()
    (tmp_path / "CT-RATE" / name).write_bytes(b"")
    reading.require(tmp_path)
    assert [record.volume for record in reading.records] == [f"CT-RATE/{name}"]
    (missing,) = reading.problems
    assert missing.kind == "missing_volume" and missing.where.endswith(":3")
    assert SCAN in missing.message


def test_what_is_not_there_says_where_it_belongs(tmp_path) -> None:
    with pytest.raises(InputError, match=r"no file of rad3d test questions under .*3DRAD/"):
        Rad3D(str(tmp_path)).read("test")
    with pytest.raises(InputError, match="rad3d has no val questions: splits are train, test"):
        Rad3D(str(tmp_path)).read("val")


def test_the_published_sample_files(shared_data) -> None:
    """All 92 files as their authors wrote them, 5 and 15 rows each."""
    reader = Rad3D(str(shared_data), files="qa/3D-RAD")
    train, test = reader.read("train"), reader.read("test")
    assert (len(train.files), len(test.files)) == (51, 41)
    assert (len(train.records), len(test.records)) == (5 * 51, 15 * 41)
    assert not (train.problems or train.notes or test.problems or test.notes)
    assert not {r.patient for r in train.records} & {r.patient for r in test.records}
