"""DeepTumorVQA, AbdomenAtlas, SLAKE, MedFrameQA, NExT-QA, M3D and ms-swift files."""

import json
from collections import Counter
from pathlib import Path

import pytest

from photon.benchmarks.abdomenatlas import AbdomenAtlas
from photon.benchmarks.deeptumorvqa import SUBTYPES, DeepTumorVQA, split_options
from photon.benchmarks.deeptumorvqa_v2 import DeepTumorVQA2
from photon.benchmarks.m3d import M3D
from photon.benchmarks.medframeqa import MedFrameQA
from photon.benchmarks.nextqa import NextQA
from photon.benchmarks.registry import benchmarks, find_benchmark
from photon.benchmarks.slake import Slake
from photon.benchmarks.swift_files import SwiftFiles
from photon.errors import InputError
from photon.questions.record import Record
from photon.volume.images.reading import read_image
from tests.benchmarks.published import (
    abdomenatlas,
    deeptumor,
    deeptumor_number,
    deeptumor_row,
    medframe_row,
    medframes,
    slake_row,
    write_csv,
    write_json,
)


def by_id(records: list[Record]) -> dict[str, Record]:
    return {record.id: record for record in records}


# DeepTumorVQA and AbdomenAtlas --------------------------------------------------------------------


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


def test_abdomenatlas_reports_and_archive_folders(tmp_path) -> None:
    abdomenatlas(tmp_path, {"train": [1, 2], "test": [3]})
    images = tmp_path / "AbdomenAtlas" / "image_only"
    (images / "AbdomenAtlas3_images_1_232" / "BDMAP_00000001").mkdir(parents=True)
    (images / "BDMAP_00000002").mkdir()
    train = AbdomenAtlas(str(tmp_path)).read("train", "reports").records
    assert [r.volume for r in train] == [
        "AbdomenAtlas/image_only/AbdomenAtlas3_images_1_232/BDMAP_00000001/ct.nii.gz",
        "AbdomenAtlas/image_only/BDMAP_00000002/ct.nii.gz",
    ]
    assert {r.answer for r in train} == {"The liver is normal."}
    structured = AbdomenAtlas(str(tmp_path), report="structured").read("test").records
    assert [r.answer for r in structured] == ["Liver:\nnormal"]  # a line break within a cell
    fusion = AbdomenAtlas(str(tmp_path), report="fusion narrative").read("train")
    assert not fusion.records and fusion.counts() == {"empty": 2}
    assert [p.where.rsplit(":", 1)[1] for p in fusion.problems] == ["2", "4"]


# 2D images and videos -----------------------------------------------------------------------------


def test_test_images_that_another_language_trains_on_are_said(tmp_path) -> None:
    folder = tmp_path / "SLAKE"
    write_json(folder / "train.json", [slake_row(1, q_lang="zh")])
    write_json(folder / "test.json", [slake_row(2), slake_row(3, img_name="xmlab2/source.jpg")])
    both = Slake(str(tmp_path), languages=("en", "zh")).read("test")
    (note,) = [note for note in both.notes if note.kind == "overlap"]
    assert note.message.startswith("1 of 2 test questions are about its images")
    assert not Slake(str(tmp_path)).read("test").notes  # one language by default


def test_m3d_rows_that_contradict_their_letter_are_left_out(tmp_path) -> None:
    header = "Image Path,Text,Question Type,Question,Choice A,Choice B,Choice C,Choice D,Answer"
    row = ["1/a.npy", "", "1", "Plane?", "axial", "coronal", "sagittal", "none"]
    rows = [[*row, "Coronal.", "B"], [*row, "axial", "B"]]
    path = tmp_path / "M3D-VQA" / "M3D_VQA_test.csv"
    write_csv(path, [*header.split(","), "Answer Choice"], rows)
    reading = M3D(str(tmp_path)).read("test")
    assert [r.answer_letter for r in reading.records] == ["B"]
    assert [str(problem).split(": ")[0] for problem in reading.problems] == [f"{path}:3"]
    assert len(M3D(str(tmp_path), form="free").read("test").records) == 2


def test_slake_subsets_and_languages(tmp_path) -> None:
    rows = [
        slake_row(1),
        slake_row(2, q_lang="zh", question="\u56fe\u4e2d\u662f\u4ec0?", answer="\u809d\u810f"),
        slake_row(3, modality="CT", answer_type="CLOSED", answer="Yes"),
        slake_row(1),
        slake_row(4, img_name="../../x.jpg"),
        slake_row(5, answer=""),
        slake_row(6, answer_type="MAYBE"),
    ]
    write_json(tmp_path / "SLAKE" / "test.json", rows)
    mri = Slake(str(tmp_path), languages=("en", "zh")).read("test")
    assert [r.id for r in mri.records] == ["test/1", "test/2"]
    assert mri.records[1].answer == "\u809d\u810f"
    assert mri.records[1].extra["q_lang"] == "zh" and mri.records[0].subtask == "organ"
    assert mri.counts() == {"duplicate_id": 1, "path": 1, "empty": 1, "row": 1}
    assert mri.problems[0].where.endswith("test.json[4]")
    both = Slake(str(tmp_path), modality=None, languages=("en",)).read("test")
    assert [(r.id, r.task) for r in both.records] == [("test/1", "open"), ("test/3", "closed")]
    whole = {"languages": ("en", "zh")}
    assert Slake(**whole).expected("test") == 489 and Slake().expected("test") == 228
    assert Slake(modality=None, **whole).expected("test") == 2_094


def test_medframeqa_options_and_divisions(tmp_path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [medframe_row(i, f"v{i // 4}", count=4 + i % 3) for i in range(60)]
    table = pyarrow.Table.from_pylist([r | {"image_1": {"bytes": b"x"}} for r in rows])
    (tmp_path / "MedFrameQA" / "data").mkdir(parents=True)
    parquet.write_table(table, tmp_path / "MedFrameQA" / "data" / "test-0.parquet")

    def parts(**settings) -> tuple[list[Record], list[Record]]:
        reader = MedFrameQA(str(tmp_path), **settings)
        return reader.read("train").records, reader.read("test").records

    train, test = parts()
    assert len(train) + len(test) == 60 and len(test) >= 6
    assert not {r.patient for r in train} & {r.patient for r in test}
    train, test = parts(division="random")
    assert len(test) == 6 and len(train) == 54  # ceil of 10 %
    assert {r.patient for r in train} & {r.patient for r in test}
    assert parts(division="random", seed=1)[1] != test
    assert [len(part) for part in parts(division="all")] == [0, 60]
    six = next(r for r in train if len(r.choices) == 6)
    assert six.answer_letter == "F" and six.choices["F"] == "finding 5"
    assert six.volumes == tuple(f"MedFrameQA/{six.patient}/{i}.jpg" for i in range(3))
    official = MedFrameQA(str(tmp_path), prompt="official").read("test").records[0]
    assert official.answer.startswith("Answer: ") and "Answer: $LETTER" in official.system


def test_medframeqa_frames_are_unpacked_once(tmp_path) -> None:
    medframes(tmp_path, {1: "v1", 2: "v2"})
    reader = MedFrameQA(str(tmp_path), division="all")
    reader.unpack()
    reading = reader.read("test")
    reading.require(tmp_path)
    values = [[read_image(tmp_path / v)[0, 0, 0] for v in r.volumes] for r in reading.records]
    assert values == [[10, 11, 12], [20, 21, 22]] and not reading.problems
    first = tmp_path / reading.records[0].volume
    before = first.stat().st_mtime_ns
    (tmp_path / reading.records[1].volume).unlink()
    reader.unpack()
    assert (tmp_path / reading.records[1].volume).is_file()
    assert first.stat().st_mtime_ns == before


def test_bad_medframeqa_rows(tmp_path) -> None:
    changes = [
        {"options": "A or B"}, {"options": ["one"]}, {"options": ["", "two"]},
        {"correct_answer": "G"}, {"image_url": []}, {"image_url": ["../x.jpg"]},
    ]  # fmt: skip
    rows = [medframe_row(i, "v", **change) for i, change in enumerate([{}, *changes])]
    path = tmp_path / "MedFrameQA" / "test.jsonl"
    path.parent.mkdir()
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    reading = MedFrameQA(str(tmp_path), division="all").read("test")
    assert [r.id for r in reading.records] == ["q0"]
    assert reading.counts() == {"choice": 4, "empty": 1, "path": 1}
    assert [p.where for p in reading.problems] == [f"{path}:{n}" for n in range(2, 8)]


def test_nextqa(tmp_path) -> None:
    header = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4".split(",")
    common = ["300", "640", "480", "what does the man do"]
    options = ["run", "sit", "eat", "sing", "sleep"]
    rows = [
        ["11", *common, "4", "0", "TP", *options],
        ["11", *common, "5", "1", "CW", *options],
        ["11", *common, "1", "2", "XX", *options],
        ["99", *common, "1", "3", "CW", *options],
        ["11", *common, "1", "4", "CW", *options[:4], ""],
        ["11", *common, "1", "0", "CH", *options],
    ]
    folder = tmp_path / "NExT-QA"
    write_csv(folder / "val.csv", header, rows)
    write_json(folder / "map_vid_vidorID.json", {"11": "1201/11"})
    reading = NextQA(str(tmp_path)).read("val")
    (record,) = reading.records
    assert (record.volume, record.task, record.subtask) == ("VidOR/1201/11.mp4", "temporal", "TP")
    assert record.answer_letter == "E" and record.extra["answer_index"] == 4
    (frames,) = NextQA(str(tmp_path), videos="frames").read("val").records
    assert frames.volume == "VidOR/1201/11"
    kinds = ["choice", "subtype", "missing_volume", "empty", "duplicate_id"]
    assert [p.kind for p in reading.problems] == kinds
    assert [p.where[-2:] for p in reading.problems] == [":3", ":4", ":5", ":6", ":7"]


def test_m3d(tmp_path) -> None:
    header = ["Image Path", "Text", "Question Type", "Question", "Choice A", "Choice B"]
    header += ["Choice C", "Choice D", "Answer", "Answer Choice"]
    row = ["ct/1/Axial.npy", "", "3", "Which organ?", "liver", "lung", "heart", "none"]
    row += ["liver", "A"]
    write_csv(tmp_path / "M3D-VQA" / "M3D_VQA_test.csv", header, [row])
    (choice,) = M3D(str(tmp_path), prompt="official").read("test").records
    assert choice.question == "Which organ? Choices: A. liver B. lung C. heart D. none"
    assert (choice.answer, choice.subtask, choice.volume) == (
        "A. liver", "organ", "M3D/ct/1/Axial.npy")  # fmt: skip
    (free,) = M3D(str(tmp_path), form="free").read("test").records
    assert (free.answer, free.choices) == ("liver", None)
    (tmp_path / "M3D" / "ct").mkdir(parents=True)
    (tmp_path / "M3D" / "ct" / "text.txt").write_text("A liver.\n")
    rows = [{"image": "ct/1.npy", "text": "ct/text.txt"}, {"image": "ct/2.npy", "text": "No."}]
    rows += [{"image": "ct/3.npy", "text": "../secret.txt"}, {"image": "ct/4.npy", "text": "x.txt"}]
    captions = {"train": [], "validation": rows, "test": []}
    write_json(tmp_path / "M3D" / "M3D_Cap_npy" / "M3D_Cap.json", captions)
    reading = M3D(str(tmp_path)).read("val", "reports")
    assert [r.answer for r in reading.records] == ["A liver.", "No."]
    assert reading.counts() == {"path": 1, "file": 1}


# ms-swift files, and all together -----------------------------------------------------------------


def test_swift_files_are_confined_to_their_root(tmp_path) -> None:
    rows = [
        {"query": "<video>Is there a liver?", "response": "yes", "videos": [path], "note": 1}
        for path in ("ct/a b.nii.gz", "../a.nii.gz", "/etc/a.nii.gz", "ct/../../a.nii.gz")
    ]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"messages": [\n')
    reader = SwiftFiles(str(tmp_path), train="train.jsonl", reports="train.jsonl")
    reading = reader.read("train")
    (record,) = reading.records
    assert record.volume == "ct/a b.nii.gz" and record.extra == {"note": 1}
    assert reading.counts() == {"row": 1, "path": 3}
    assert str(reading.problems[0]).startswith(f"{path}:5: not valid JSON")
    assert len(reader.read("train", "reports").records) == 1
    with pytest.raises(InputError, match="no file of swift test"):
        reader.read("test")


@pytest.mark.parametrize("name", benchmarks())
def test_every_reader_states_its_facts(name) -> None:
    reader = find_benchmark(name)()
    facts = reader.facts
    assert facts.name == name and all((facts.title, facts.licence, facts.source, facts.layout))
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text()
    assert f"`{name}`" in page
    for count in facts.counts.values():
        assert f"{count:,}" in page, f"docs/benchmarks.md does not state {name}'s {count:,}"


def test_the_published_sample_files(shared_data) -> None:
    qa = {"root": str(shared_data)}
    for split in ("train", "val", "test"):
        slake = Slake(**qa, files="qa/SLAKE", modality=None, languages=("en", "zh")).read(split)
        assert len(slake.records) == 96 and not slake.problems
        assert {r.extra["q_lang"] for r in slake.records} == {"en", "zh"}
    for split in ("val", "test"):
        nextqa = NextQA(**qa, files="qa/NExT-QA").read(split)
        assert len(nextqa.records) == 48 and not nextqa.problems
        assert set(Counter(r.subtask for r in nextqa.records).values()) == {6}
    schema = (shared_data / "qa" / "DeepTumorVQA" / "v2_subtype_schema.csv").read_text()
    published = {line.split(",")[0] for line in schema.splitlines()[1:]}
    assert published == {subtype.name for subtype in SUBTYPES.values()}
