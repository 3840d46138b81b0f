"""A file of perfect answers scores 100 under every protocol of every benchmark.

Perfect is the supervised answer under `prompt=official`. Under `prompt=paper` it is a letter, which
the official protocols of 3D-RAD ("B." is looked for) and MedFrameQA (a lone letter names nothing)
do not read, nor does the paper's of 3D-RAD where the file was trained on "B. No": the last test.
"""

import pytest

from photon.benchmarks.deeptumorvqa import DeepTumorVQA
from photon.benchmarks.deeptumorvqa_v2 import DeepTumorVQA2
from photon.benchmarks.medframeqa import MedFrameQA
from photon.benchmarks.nextqa import NextQA
from photon.benchmarks.rad3d import Rad3D
from photon.benchmarks.scoring import with_extra
from photon.benchmarks.slake import Slake
from photon.evaluation.predictions import prediction_row
from tests.benchmarks import published

CASES = {"train": [1], "test": [3, 4]}
OPTIONS = ["run", "sit", "eat", "sing", "sleep"]
OTHERS = ("Avg. keep tok.", "Avg. keep rate")


def perfect(reader, records) -> dict[str, dict[str, float | None]]:
    """Values of all measures of perfect answers, by protocol."""
    rows = with_extra([prediction_row(record, record.answer) for record in records], records)
    return {
        protocol: {
            f"{variant} {' '.join(key)}": None if measure is None else measure.value()
            for variant, part in reader.variants(rows).items()
            for key, measure in reader.score(part, protocol).measures.items()
            if key[1] not in OTHERS
        }
        for protocol in reader.protocols
    }


def check(reader, records) -> None:
    """Every measure is 1, if it is defined: there may be no positive case, and no encoder."""
    for protocol, values in perfect(reader, records).items():
        known = {key: value for key, value in values.items() if value is not None}
        assert known and known == pytest.approx(dict.fromkeys(known, 1.0)), protocol


def deeptumor_v2(root):
    rows = [
        published.deeptumor_row(1, "BDMAP_00000009"),
        published.deeptumor_number(2, "BDMAP_00000009"),
        published.deeptumor_row(
            3, "BDMAP_00000008", question_subtype="kidney tumor existence", answer="Yes"
        ),
        published.deeptumor_row(
            4, "BDMAP_00000007", question_subtype="kidney tumor existence", answer="No"
        ),
    ]
    file = root / "DeepTumorVQA" / "benchmark" / "test_qa.json"
    published.write_json(file, {"questions": rows})


def slake(root):
    rows = [
        published.slake_row(1),
        published.slake_row(2, answer_type="CLOSED", answer="Yes"),
        published.slake_row(3, answer="Lung, Spinal Cord"),
    ]
    published.write_json(root / "SLAKE" / "test.json", rows)


WRITERS = {
    Rad3D: lambda root: published.rad3d(root, CASES),
    DeepTumorVQA: lambda root: published.deeptumor(root, CASES),
    DeepTumorVQA2: deeptumor_v2,
    MedFrameQA: lambda root: published.medframes(root, {1: "v1", 2: "v2"}),
    NextQA: lambda root: published.nextqa(root, {"test": ["v1", "v2"]}),
    Slake: slake,
}


@pytest.mark.parametrize(
    ("reader", "settings"),
    [
        (Rad3D, {}),
        (DeepTumorVQA, {}),
        (DeepTumorVQA, {"form": "free"}),
        (DeepTumorVQA2, {}),
        (DeepTumorVQA2, {"form": "free"}),
        (MedFrameQA, {"division": "all"}),
        (NextQA, {}),
        (Slake, {}),
    ],
)
def test_perfect_answers_score_100(tmp_path, reader, settings) -> None:
    WRITERS[reader](tmp_path)
    benchmark = reader(str(tmp_path), prompt="official", **settings)
    check(benchmark, benchmark.read("test").records)


@pytest.mark.parametrize("reader", [Rad3D, NextQA, Slake])
def test_perfect_answers_to_the_published_files_score_100(shared_data, reader) -> None:
    benchmark = reader(str(shared_data / "qa"), prompt="official")
    check(benchmark, benchmark.read("test").records[:3000])


def test_what_reads_no_lone_letter(tmp_path) -> None:
    published.rad3d(tmp_path, CASES)
    rad3d = Rad3D(str(tmp_path))
    values = perfect(rad3d, [r for r in rad3d.read("test").records if r.choices])
    found = {p: values[p][" Existence Detection Accuracy"] for p in values}
    assert found == {"official": 0.0, "paper": 1.0, "strict": 1.0}
    published.medframes(tmp_path, {1: "v1", 2: "v2"})
    frames = MedFrameQA(str(tmp_path), division="all")
    values = perfect(frames, frames.read("test").records)
    assert {p: values[p][" MedFrameQA Overall"] for p in values} == {"official": 0, "strict": 1}
