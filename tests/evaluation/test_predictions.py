"""Files of predictions: torn, continued, mixed up, foreign."""

import json
import warnings
from types import SimpleNamespace

import pytest

from photon.errors import InputError
from photon.evaluation import predictions
from photon.evaluation.predictions import PredictionWriter, join_predictions, read_predictions
from photon.evaluation.scores import summarize


def record(i, letter="A"):
    return SimpleNamespace(
        id=f"q{i}", volume="v", patient="p", task=None, subtask="s", question_type="choice",
        question="?", answer=letter, choices={"A": "yes", "B": "no"}, answer_letter=letter,
        value=None, unit=None, organ=None,
    )  # fmt: skip


def scored(path, records):
    rows = join_predictions(path, records)
    return rows, summarize(rows)


GOOD = {"id": "q0", "response": "A"}


def row(i, text="A"):
    return predictions.prediction_row(record(i), text, "photon", 3, 8, 0.5, 0.25)


def lines(path, *objects):
    text = "".join((o if isinstance(o, str) else json.dumps(o)) + "\n" for o in objects)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_row_has_the_keys_of_the_contract():
    assert list(row(0)) == [
        "id", "volume", "patient", "task", "subtask", "question_type", "question", "answer",
        "choices",
        "answer_letter", "value", "unit", "organ", "prediction", "condition", "kept_tokens",
        "visual_tokens", "coverage", "theta",
    ]  # fmt: skip


def test_lines_are_on_disk_before_the_writer_closes(tmp_path):
    path = tmp_path / "deep" / "predictions.jsonl"
    writer = PredictionWriter(path)
    writer.write(row(0, "\u53f3"))
    assert read_predictions(path) == [row(0, "\u53f3")]
    writer.close()


@pytest.mark.parametrize("cut", [1, 5, 60])
def test_a_killed_run_is_continued_without_its_torn_line(tmp_path, cut):
    path = tmp_path / "p.jsonl"
    with PredictionWriter(path) as writer:
        writer.write(row(0))
        writer.write(row(1))
    whole = path.read_bytes()
    path.write_bytes(whole[: -1 - cut])  # cuts into the last object
    with pytest.warns(UserWarning, match=r"p\.jsonl:2: the last line is incomplete"):
        writer = PredictionWriter(path)
    assert writer.has("q0") and not writer.has("q1")
    assert [i for i in range(3) if not writer.has(record(i).id)] == [1, 2]
    writer.write(row(1))
    writer.close()
    assert path.read_bytes() == whole


def test_a_line_that_only_lacks_its_line_break_is_kept(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(row(0)), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with PredictionWriter(path) as writer:
            writer.write(row(1))
    assert read_predictions(path) == [row(0), row(1)]


def test_reading_a_torn_file_does_not_change_it(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes((json.dumps(row(0)) + "\n" + '{"id": "q1", "pre\xc3').encode("latin-1"))
    before = path.read_bytes()
    with pytest.warns(UserWarning, match="incomplete"):
        assert read_predictions(path) == [row(0)]
    assert path.read_bytes() == before


@pytest.mark.parametrize("bad", ["{oops", "[1]", "3", "{'id': 1}"])
def test_a_bad_line_inside_names_file_and_line(tmp_path, bad):
    path = lines(tmp_path / "p.jsonl", row(0), "", bad, row(1))
    with pytest.raises(InputError, match=r"p\.jsonl:3: "):
        read_predictions(path)
    with pytest.raises(InputError, match=r"p\.jsonl:3: "):
        PredictionWriter(path)
    assert len(path.read_text().splitlines()) == 4  # nothing was thrown away


def test_missing_file_and_double_answers(tmp_path):
    with pytest.raises(InputError, match="none.jsonl: cannot be read"):
        read_predictions(tmp_path / "none.jsonl")
    path = lines(tmp_path / "p.jsonl", row(0), row(1), row(0))
    with pytest.raises(InputError, match=r"p\.jsonl:3: question q0 .* line 1"):
        PredictionWriter(path)
    with PredictionWriter(tmp_path / "new.jsonl") as writer:
        writer.write(row(0))
        with pytest.raises(ValueError, match="q0 is answered already"):
            writer.write(row(0))
        with pytest.raises(ValueError):
            writer.write({**row(1), "theta": float("nan")})
    assert read_predictions(tmp_path / "new.jsonl") == [row(0)]


def test_answers_of_two_models_are_not_mixed(tmp_path):
    path = tmp_path / "p.jsonl"
    with PredictionWriter(path, {"weights": "a"}) as writer:
        writer.write(row(0))
    with PredictionWriter(path, {"weights": "a"}) as writer:
        assert writer.has("q0")
    with pytest.raises(InputError, match="another model"):
        PredictionWriter(path, {"weights": "b"})
    path.unlink()
    with PredictionWriter(path, {"weights": "b"}) as writer:
        assert not writer.has("q0")


@pytest.mark.parametrize("key", ["prediction", "response", "answer"])
def test_any_models_answers_are_joined_by_id(tmp_path, key):
    records = [record(0, "A"), record(1, "B"), record(2, "B")]
    path = lines(tmp_path / "r.jsonl", *({"id": f"q{i}", key: "B"} for i in (2, 0, 1)))
    rows, summary = scored(path, records)
    assert [r["id"] for r in rows] == ["q0", "q1", "q2"]
    assert summary["overall"]["accuracy"] == pytest.approx(2 / 3)


def test_without_ids_the_order_counts(tmp_path):
    records = [record(0, "A"), record(1, "B")]
    path = lines(tmp_path / "r.jsonl", {"response": "A"}, "", {"response": "A"})
    assert scored(path, records)[1]["overall"]["accuracy"] == 0.5
    with pytest.raises(InputError, match="2 answers without ids for 3 questions"):
        scored(path, [*records, record(2)])


def test_own_files_score_as_they_were_scored(tmp_path):
    records = [record(i, "AB"[i % 2]) for i in range(4)]
    with PredictionWriter(tmp_path / "p.jsonl") as writer:
        for i in range(4):
            writer.write(predictions.prediction_row(records[i], "A", "photon", i, 8, None, 0.1))
    rows, summary = scored(tmp_path / "p.jsonl", records)
    assert rows == writer.rows
    assert summary["overall"]["accuracy"] == 0.5


def test_an_absent_answer_is_wrong_and_warned_about(tmp_path):
    path = lines(tmp_path / "r.jsonl", {"id": "q1", "answer": "A", "prediction": None})
    with pytest.warns(UserWarning, match="1 of 2 questions have no answer"):
        _, summary = scored(path, [record(0), record(1)])
    assert summary["overall"]["accuracy"] == 0.0
    assert summary["overall"]["n_empty"] == 2


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (
            ({"id": "q0", "response": "A"}, {"id": "zz", "response": "A"}),
            r":2: question zz is not in",
        ),
        (
            ({"id": "q0", "response": "A"}, {"id": "q0", "response": "A"}),
            r":2: question q0 .* line 1",
        ),
        (({"id": "q0", "response": "A"}, {"response": "A"}), r":2: no id"),
        (({"id": "q0", "text": "A"},), r":1: no answer.*prediction, pred_answer"),
        (({"id": "q0", "response": ["A"]},), r":1: response is list"),
        ((), "0 answers without ids for 2"),
    ],
)
def test_a_file_that_does_not_fit_says_where(tmp_path, objects, message):
    path = lines(tmp_path / "r.jsonl", *objects)
    with pytest.raises(InputError, match=message):
        scored(path, [record(0), record(1)])


def test_numbers_as_answers_are_read_as_text(tmp_path):
    numeric = record(0)
    numeric.question_type, numeric.value, numeric.answer, numeric.choices = "free", 40.0, "40", None
    path = lines(tmp_path / "r.jsonl", {"id": "q0", "response": 30})
    assert scored(path, [numeric])[1]["overall"]["mra"] == 0.5


def test_lines_in_another_order_than_the_records_are_refused(tmp_path):
    """Joined by line they scored 0.018 in silence."""
    records = [record(0, "A"), record(1, "B")]
    lines = [{"response": "yes", "labels": "A. yes"}, {"response": "B", "labels": "B"}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows, result = scored(path, records)
    assert result["overall"]["accuracy"] == 1.0
    path.write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)))
    with pytest.raises(InputError, match=r"a.jsonl:1: says that the answer to question q0 is 'B'"):
        scored(path, records)
