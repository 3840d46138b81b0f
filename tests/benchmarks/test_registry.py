"""All benchmarks together: facts, files of your own, and the published samples."""

import json
from collections import Counter
from pathlib import Path

import pytest

from photon.benchmarks.deeptumorvqa import SUBTYPES
from photon.benchmarks.nextqa import NextQA
from photon.benchmarks.registry import benchmarks, find_benchmark
from photon.benchmarks.slake import Slake
from photon.benchmarks.swift_files import SwiftFiles
from photon.errors import InputError


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
