"""Records on disk: ms-swift's layouts in, canonical rows out, nothing lost."""

import json
import warnings

import pytest

from photon.errors import InputError
from photon.questions.record import Record, choice_text, read_records, write_records

CT = "ct/a.nii.gz"
CHAT = [{"role": "user", "content": "<video>How large?"}, {"role": "assistant", "content": "large"}]


def read(tmp_path, *rows, **options):
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_records(path, **options)


LAYOUTS = {
    "messages": {"messages": CHAT, "videos": [CT]},
    "string video": {"messages": CHAT, "video": CT},
    "image": {"messages": [dict(CHAT[0], content="<image>How large?"), CHAT[1]], "image": CT},
    "images": {"messages": CHAT, "images": [{"path": CT}]},
    "no tag": {"messages": [dict(CHAT[0], content="How large?"), CHAT[1]], "videos": [CT]},
    "newline": {"messages": [dict(CHAT[0], content="<video>\nHow large?"), CHAT[1]], "video": CT},
    "sharegpt": {
        "conversations": [
            {"from": "human", "value": "<video>How large?"},
            {"from": "gpt", "value": "large"},
        ],
        "videos": [CT],
    },
    "pairs": {"conversation": [{"human": "How large?", "assistant": "large"}], "videos": [CT]},
    "query": {"query": "<video>How large?", "response": "large", "videos": [CT]},
    "alpaca": {"instruction": "How", "input": "", "output": "large", "videos": [CT]},
    "question": {"question": "How large?", "answer": "large", "volume": CT},
    "parts": {
        "messages": [
            {
                "role": "user",
                "content": [{"type": "video", "video": CT}, {"type": "text", "text": "How large?"}],
            },
            CHAT[1],
        ]
    },
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_read_alike(tmp_path, layout):
    records, problems = read(tmp_path, LAYOUTS[layout])
    assert not problems
    (record,) = records
    question = "How" if layout == "alpaca" else "How large?"
    assert (record.question, record.answer, record.volume) == (question, "large", CT)
    assert record.question_type == "free" and record.id == "q:1" and record.extra == {}


def test_system_and_history(tmp_path):
    turns = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "<video>First?"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "Second?"},
    ]
    (record,), _ = read(tmp_path, {"messages": turns, "videos": [CT]})
    assert record.system == "Be short." and record.history == (("First?", "one"),)
    assert record.question == "Second?" and record.answer is None
    row = {"system": "S", "query": "Q?", "response": "A", "history": [["a", "b"]], "videos": [CT]}
    (record,), _ = read(tmp_path, row)
    assert record.system == "S" and record.history == (("a", "b"),)


def test_round_trip_keeps_everything(tmp_path):
    record = Record(
        id="x-1",
        volume=CT,
        question=choice_text("How large is the liver?", {"A": "small", "B": "large"}),
        answer="B",
        system="Be short.",
        patient="p",
        task="t",
        subtask="size",
        question_type="choice",
        choices={"A": "small", "B": "large"},
        answer_letter="B",
        labels="labels/a.nii.gz",
        evidence=(5, 15),
        organ="liver",
        value=1420.0,
        unit="mL",
        history=(("before?", "yes"),),
        extra={"split": "train", "objects": {"bbox": [[1, 2]]}, "deep": {"x": [None, "\u00e9"]}},
    )
    path = tmp_path / "deep" / "q.jsonl"
    assert write_records(path, [record]) == 1
    (again,), problems = read_records(path)
    assert not problems and again == record
    assert "\u00e9" in path.read_text("utf-8")
    write_records(path, [again])
    assert read_records(path)[0] == [record]


def test_bom_crlf_and_blank_lines(tmp_path):
    path = tmp_path / "q.jsonl"
    lines = [json.dumps({"query": f"Q{i}?", "response": "A", "videos": [CT]}) for i in range(2)]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(lines).encode() + b"\r\n")
    records, problems = read_records(path)
    assert [r.question for r in records] == ["Q0?", "Q1?"] and not problems
    assert [r.id for r in records] == ["q:1", "q:3"], "ids name the line"


def test_json_list(tmp_path):
    path = tmp_path / "q.json"
    path.write_text(json.dumps([LAYOUTS["query"], LAYOUTS["messages"]]))
    assert [r.id for r in read_records(path)[0]] == ["q:1", "q:2"]
    path.write_text('{"query": "Q?"}')
    with pytest.raises(InputError, match="must hold a JSON list"):
        read_records(path)


def test_choices_from_a_list_and_letter_from_the_answer(tmp_path):
    row = {"query": "Q?", "response": "B", "videos": [CT], "choices": ["yes", "no"]}
    (record,), _ = read(tmp_path, row)
    assert record.choices == {"A": "yes", "B": "no"} and record.answer_letter == "B"
    assert record.question_type == "choice"


BAD = {
    "not json": ("{", "not valid JSON"),
    "not an object": ("[1]", "one JSON object a line"),
    "no question": ('{"videos": ["a"]}', "has no question"),
    "empty question": (
        '{"videos": ["a"], "messages": [{"role": "user", "content": "<video> "}]}',
        "question has no text",
    ),
    "no volume": ('{"query": "Q?", "response": "A"}', "names 0 volumes and images"),
    "tags": (
        '{"query": "<video>Q?", "videos": ["a", "b"]}',
        "2 volumes or images and holds 1 <",
    ),
    "maps": ('{"query": "Q?", "videos": ["a", "b"], "labels": "l"}', "1 maps for 2 volumes"),
    "unknown role": ('{"messages": [{"role": "bad", "content": "x"}], "videos": ["a"]}', "'bad'"),
    "assistant first": (
        '{"messages": [{"role": "assistant", "content": "x"}], "videos": ["a"]}',
        "no user message",
    ),
    "two users": (
        '{"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": "y"}], '
        '"videos": ["a"]}',
        "follow each other",
    ),
    "letter": (
        '{"query": "Q?", "response": "C", "videos": ["a"], "choices": {"A": "x"}, '
        '"answer_letter": "C"}',
        "not among the choices (A)",
    ),
    "value": ('{"query": "Q?", "videos": ["a"], "value": "much"}', "'much' is not a number"),
    "evidence": ('{"query": "Q?", "videos": ["a"], "evidence": "liver"}', "list of label ids"),
    "video path": ('{"query": "Q?", "videos": [7]}', "not a path"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_name_file_and_line_and_spare_the_others(tmp_path, case):
    line, message = BAD[case]
    good = json.dumps(LAYOUTS["query"])
    path = tmp_path / "q.jsonl"
    path.write_text(f"{good}\n{line}\n{good}\n")
    records, problems = read_records(path)
    assert len(records) == 2 and len(problems) == 1
    assert problems[0].startswith(f"{path}:2: ") and message in problems[0]
    with pytest.raises(InputError, match="1 bad rows"):
        read_records(path, strict=True)


def test_double_ids_and_absent_volumes(tmp_path):
    row = {**LAYOUTS["query"], "id": "same"}
    records, problems = read(tmp_path, row, row)
    assert len(records) == 1 and "q.jsonl:1" in problems[0] and "q.jsonl:2:" in problems[0]
    records, problems = read(tmp_path, LAYOUTS["query"], root=tmp_path)
    assert not records and CT in problems[0]
    (tmp_path / "ct").mkdir()
    (tmp_path / CT).touch()
    assert not read(tmp_path, LAYOUTS["query"], root=tmp_path)[1]


def test_absent_file_and_wrong_encoding(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*none.jsonl"):
        read_records(tmp_path / "none.jsonl")
    (tmp_path / "l.jsonl").write_bytes(b'{"query": "a"}\n{"query": "\xe9"}\n')
    with pytest.raises(InputError, match="l.jsonl:2: not UTF-8"):
        read_records(tmp_path / "l.jsonl")


def test_tag_after_the_question_moves_to_the_front_with_one_warning(tmp_path):
    late = {"query": "How large? <video>", "response": "A", "videos": [CT]}
    with pytest.warns(UserWarning, match="2 rows") as caught:
        records, problems = read(tmp_path, late, late, LAYOUTS["query"])
    assert len(caught) == 1 and not problems
    assert [r.question for r in records] == ["How large?"] * 3
    assert records[0].to_row()["messages"][0]["content"] == "<video>How large?"


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "q.jsonl"
    write_records(path, [Record("a", CT, "Q?", "A")])
    before = path.read_bytes()

    def broken():
        yield Record("b", CT, "Q?", "A")
        raise RuntimeError("the generator failed")

    with pytest.raises(RuntimeError):
        write_records(path, broken())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["q.jsonl"], "no temporary file is left"


def test_several_volumes_in_one_row(tmp_path):
    chat = [{"role": "user", "content": "<video><video>What changed?"}]
    row = {"messages": chat, "videos": ["a.nii", "b.nii"], "labels": ["la.nii", "lb.nii"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (record,), problems = read(tmp_path, row)
    assert not problems and record.question == "What changed?"
    assert record.volumes == ("a.nii", "b.nii") and record.label_maps == ("la.nii", "lb.nii")
    assert record.to_row()["messages"][0] == chat[0]
    again, _ = read(tmp_path, record.to_row())
    assert again == [record]


def test_every_volume_of_a_row_must_be_there(tmp_path):
    (tmp_path / "a.nii").touch()
    path = tmp_path / "q.jsonl"
    path.write_text('{"query": "Q?", "videos": ["a.nii", "b.nii"]}\n')
    records, (problem,) = read_records(path, root=tmp_path)
    assert not records and "no volume 'b.nii'" in problem
