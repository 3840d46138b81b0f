"""Volumes of other patients in a question's place: derangements by their properties."""

import pytest

from photon.errors import InputError
from photon.evaluation.views import shuffled_volumes
from photon.questions.record import Record


def volumes(counts):
    return [
        Record(f"{p}{v}{q}", f"{p}/{v}", "Q?", patient=p)
        for p, n in counts.items()
        for v in range(n)
        for q in range(2)
    ]


@pytest.mark.parametrize("counts", [{"a": 1, "b": 1}, {"a": 2, "b": 1, "c": 1}, {"a": 3, "b": 3},
                                    {c: 1 + ord(c) % 3 for c in "abcdefghij"}])  # fmt: skip
@pytest.mark.parametrize("seed", range(5))
def test_every_volume_is_swapped_for_another_patients(counts, seed):
    records = volumes(counts)
    mapping = shuffled_volumes(records, seed)
    assert set(mapping) == {r.volume for r in records}
    assert sorted(mapping.values()) == sorted(mapping)  # a permutation
    assert all(v.split("/")[0] != o.split("/")[0] for v, o in mapping.items())


def test_two_scans_of_a_patient_move_together():
    def scans(patient, n):
        names = [f"{patient}-{i}" for i in range(n)]
        more = tuple(names[1:])
        return Record(f"q{patient}", names[0], "Q?", patient=str(patient), more_volumes=more)

    mapping = shuffled_volumes([scans(p, 1 + p % 2) for p in range(12)], seed=3)
    assert len(set(mapping.values())) == len(mapping) == 18
    assert all(a.split("-")[0] != b.split("-")[0] for a, b in mapping.items())
    pairs = [(mapping[f"{p}-0"], mapping[f"{p}-1"]) for p in range(1, 12, 2)]
    together = [a.split("-")[0] == b.split("-")[0] and a < b for a, b in pairs]
    assert sum(together) >= 5, pairs


def test_shuffling_depends_on_the_seed_and_not_on_the_order():
    records = volumes(dict.fromkeys("abcdefgh", 2))
    assert shuffled_volumes(records, 1) == shuffled_volumes(records[::-1], 1)
    assert shuffled_volumes(records, 1) != shuffled_volumes(records, 2)


def test_one_dominating_patient_repeats_volumes_with_a_warning():
    with pytest.warns(UserWarning, match="3 of 4 volumes"):
        mapping = shuffled_volumes(volumes({"a": 3, "b": 1}))
    assert {mapping[f"a/{i}"] for i in range(3)} == {"b/0"}
    assert mapping["b/0"].startswith("a/")


def test_shuffling_needs_two_patients_and_consistent_records():
    with pytest.raises(InputError, match="two patients"):
        shuffled_volumes(volumes({"a": 3}))
    with pytest.raises(InputError, match="volume x belongs to two patients"):
        shuffled_volumes([Record("0", "x", "Q?", patient=p) for p in "ab"])
    anonymous = [Record(v, v, "Q?") for v in "xyz"]
    assert all(a != b for a, b in shuffled_volumes(anonymous).items())
