"""Items of an epoch: each volume once with a draw of its questions, or each question once."""

from collections import Counter

import pytest

from photon.batch.dataset import VolumeQuestions, count_items
from photon.questions.record import Record

COUNTS = {"a.npy": 7, "b.npy": 3, "c.npy": 1}
RECORDS = [
    Record(id=f"{name}{i}", question="?", answer="!", volume=name)
    for name, count in COUNTS.items()
    for i in range(count)
]


def dealt(epoch: int, most: int | None, every: bool, seed: int = 0) -> list[list[str]]:
    data = VolumeQuestions(RECORDS, None, per_volume=most, seed=seed, every=every)
    assert len(data) == count_items(RECORDS, most, every)
    return [[r.id for r in data.draw(epoch, i)] for i in range(len(data))]


@pytest.mark.parametrize("most", [1, 2, 3, 7, 20])
def test_an_epoch_of_questions_holds_each_once(most: int) -> None:
    items = dealt(3, most, True)
    assert Counter(i for item in items for i in item) == Counter(r.id for r in RECORDS)
    assert all(len({name[0] for name in item}) == 1 for item in items)  # of one volume
    for volume, count in COUNTS.items():
        sizes = [len(item) for item in items if item[0].startswith(volume)]
        assert len(sizes) == -(-count // most) and max(sizes) <= most
        assert max(sizes) - min(sizes) <= 1


def test_questions_are_dealt_anew_every_epoch_and_alike_every_time() -> None:
    first = dealt(0, 3, True)
    assert first == dealt(0, 3, True) != dealt(1, 3, True)
    assert first != dealt(0, 3, True, seed=1)


def test_an_epoch_of_volumes_draws_of_each() -> None:
    items = dealt(0, 3, False)
    assert [len(item) for item in items] == [3, 3, 1]
    assert [len(item) for item in dealt(0, None, True)] == [7, 3, 1]
