"""Evaluation over processes: parts without overlap, killed ranks, merging without loss."""

import json
import os
import signal
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest

from photon.errors import InputError
from photon.evaluation.predictions import PredictionWriter
from photon.evaluation.shards import Shard, merge_parts, read_parts
from photon.files import locked

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def records(volumes=40, questions=3):
    return [
        SimpleNamespace(id=f"v{v}/q{q}", volume=f"v{v}", more_volumes=())
        for v in range(volumes)
        for q in range(questions)
    ]


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_every_question_belongs_to_one_part(world):
    everything = records()
    parts = [Shard(rank, world).mine(everything) for rank in range(world)]
    ids = [r.id for part in parts for r in part]
    assert sorted(ids) == sorted(r.id for r in everything)
    for part in parts:  # questions on a volume stay together, so that it is read once
        assert len(part) == 3 * len({r.volume for r in part})
        assert [r.id for r in part] == [r.id for r in everything if r in part]
    if world < 7:
        assert min(map(len, parts)) > 0.5 * len(everything) / world


def test_a_part_depends_on_the_ids_only():
    everything = records()
    chosen = {r.id for r in Shard(1, 3).mine(everything)}
    assert {r.id for r in Shard(1, 3).mine(everything[::-1])} == chosen
    # Pinned: another hash would divide a started run anew.
    assert sorted({name.split("/")[0] for name in chosen})[:4] == PINNED


PINNED = ["v15", "v17", "v19", "v2"]


def test_two_volumes_of_one_question_are_one_item():
    pair = SimpleNamespace(id="a", volume="v0", more_volumes=("v1",))
    single = SimpleNamespace(id="b", volume="v0", more_volumes=())
    parts = [Shard(rank, 2).mine([pair, single]) for rank in range(2)]
    assert sorted(r.id for part in parts for r in part) == ["a", "b"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Shard(0, 1)),
        ({"RANK": "2", "WORLD_SIZE": "4"}, Shard(2, 4)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, Shard(1, 2)),
        ({"RANK": "0", "WORLD_SIZE": "2", "SLURM_PROCID": "1", "SLURM_NTASKS": "8"}, Shard(0, 2)),
        ({"RANK": "1"}, Shard(0, 1)),
    ],
)
def test_rank_and_size_come_from_the_launcher(environment, expected):
    assert Shard.from_environment(environment) == expected


def test_an_impossible_rank_is_refused():
    with pytest.raises(InputError, match="rank 2 of 2"):
        Shard.from_environment({"RANK": "2", "WORLD_SIZE": "2"})
    with pytest.raises(InputError, match="whole numbers"):
        Shard.from_environment({"RANK": "x", "WORLD_SIZE": "2"})


# A rank that answers its part slowly enough to be seen; argv: folder, rank, world, die after n.
RANK = """
import os, signal, sys, time
from pathlib import Path
from types import SimpleNamespace
from photon.evaluation.predictions import PredictionWriter
from photon.evaluation.shards import Shard, merge_parts, read_parts
from photon.files import locked
path, rank, world, fatal = Path(sys.argv[1]), *map(int, sys.argv[2:5])
records = [SimpleNamespace(id=f"v{v}/q{q}", volume=f"v{v}") for v in range(40) for q in range(3)]
shard = Shard(rank, world)
file = shard.path(path)
with PredictionWriter(file, "f", read_parts(path, "f", but=file)) as writer:
    for n, record in enumerate(r for r in shard.mine(records) if not writer.has(r.id)):
        if n == fatal:
            writer._file.write('{"id": "v99/q0", "predic')
            writer._file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        writer.write({"id": record.id, "prediction": f"answer to {record.id}", "rank": rank})
        time.sleep(0.001)
with locked(path.parent / "lock"):
    print("merged" if merge_parts(path, records, "f") else "waiting")
"""


def start(path, rank, world, fatal=-1):
    command = [sys.executable, "-c", RANK, *map(str, (path, rank, world, fatal))]
    return subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": ROOT}, stdout=subprocess.PIPE, text=True
    )


def ids_of(path):
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def test_two_processes_answer_everything_once(tmp_path):
    path = tmp_path / "predictions.jsonl"
    processes = [start(path, rank, 2) for rank in range(2)]
    said = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert "merged" in said
    assert ids_of(path) == [r.id for r in records()]  # in their order, without loss or duplicate
    parts = [ids_of(path.with_name(f"predictions.rank{rank}.jsonl")) for rank in range(2)]
    assert all(parts) and not set(parts[0]) & set(parts[1])


@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_killed_rank_is_made_up_for_by_any_number_of_processes(tmp_path, world):
    path = tmp_path / "predictions.jsonl"
    processes = [start(path, 0, 2), start(path, 1, 2, fatal=5)]
    said = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert processes[1].returncode == -signal.SIGKILL
    assert said == ["waiting", ""] and not path.exists()
    before = {row["id"]: row for row in read_parts(path)}
    assert len(before) == len(Shard(0, 2).mine(records())) + 5
    again = [start(path, rank, world) for rank in range(world)]
    said = [process.communicate(timeout=60)[0].strip() for process in again]
    assert "merged" in said
    assert ids_of(path) == [r.id for r in records()]
    after = {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}
    assert {key: after[key] for key in before} == before  # what was answered stays


def test_files_of_another_model_are_not_merged(tmp_path):
    path = tmp_path / "p.jsonl"
    with PredictionWriter(tmp_path / "p.rank0.jsonl", "one") as writer:
        writer.write({"id": "v0/q0", "prediction": "A"})
    with pytest.raises(InputError, match="another model"):
        merge_parts(path, records(1, 1), "two")
    assert len(merge_parts(path, records(1, 1), "one")) == 1


def test_another_ranks_unfinished_line_is_no_answer_and_no_warning(tmp_path):
    path = tmp_path / "p.jsonl"
    rank = tmp_path / "p.rank1.jsonl"
    rank.write_text('{"id": "v0/q0", "prediction": "A"}\n{"id": "v0/q1", "pre')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [row["id"] for row in read_parts(path)] == ["v0/q0"]
        assert merge_parts(path, records(1, 2)) is None
    assert not path.exists()


def test_known_answers_are_not_written_again(tmp_path):
    known = [{"id": "v0/q0", "prediction": "A"}]
    with PredictionWriter(tmp_path / "p.jsonl", None, known) as writer:
        assert [r.id for r in records(1, 2) if not writer.has(r.id)] == ["v0/q1"]
        assert writer.rows == known
        writer.write({"id": "v0/q1", "prediction": "B"})
    assert ids_of(tmp_path / "p.jsonl") == ["v0/q1"]


def test_a_lock_is_freed_when_its_body_fails(tmp_path):
    with pytest.raises(RuntimeError), locked(tmp_path / "deep" / "lock"):
        raise RuntimeError
    with locked(tmp_path / "deep" / "lock"):
        pass
