"""The data module of a benchmark: its hash, its configuration, and what it refuses."""

import dataclasses
from pathlib import Path

import hydra
import pytest

from photon.benchmarks.nextqa import NextQA
from photon.benchmarks.rad3d import Rad3D
from photon.benchmarks.registry import benchmarks, find_benchmark
from photon.errors import InputError
from tasks.benchmark_data import BenchmarkData
from tasks.entry import CONF
from tasks.schema import instantiate, to_plain
from tests.benchmarks import published
from tests.helpers import photon_model

RAD3D = {
    "_target_": "tasks.benchmark_data.BenchmarkData",
    "reader": {"_target_": "photon.benchmarks.rad3d.Rad3D"},
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return published.rad3d(tmp_path_factory.mktemp("data"), {"train": [1, 2], "test": [7]})


def test_the_hash_follows_files_and_settings(tree) -> None:
    first = BenchmarkData(Rad3D(str(tree))).data_hash("test")
    assert BenchmarkData(Rad3D(str(tree))).data_hash("test") == first
    assert BenchmarkData(Rad3D(str(tree), prompt="official")).data_hash("test") != first
    assert BenchmarkData(Rad3D(str(tree))).data_hash("train") != first
    file = next((tree / "3D-RAD" / "3DRAD" / "test").rglob("Size.csv"))
    before = file.read_bytes()
    file.write_bytes(before.replace(b"30x13", b"31x13"))
    assert BenchmarkData(Rad3D(str(tree))).data_hash("test") != first
    file.write_bytes(before)


def test_what_was_left_out_is_said(tmp_path, capsys) -> None:
    row = published.yes_no(10, "test_7_a_1.nii.gz", "Lung nodule", "No")
    bad = [*row[:6], "D", *row[7:]]
    path = tmp_path / "3D-RAD" / "test" / "Task4_Existence_Detection" / "Lung nodule.csv"
    published.write_csv(path, published.RAD3D, [row, bad])
    data = BenchmarkData(Rad3D(str(tmp_path)))
    assert len(data.records("test")) == 1
    said = capsys.readouterr().out
    assert "rad3d test questions: 1 records of 1 files; left out: 1 choice (first: " in said
    assert f"{path}:3: answer choice 'D'" in said
    published.write_csv(path, published.RAD3D, [bad])
    with pytest.raises(InputError, match=r"rad3d test questions: no usable row \(.*csv:2: answer"):
        BenchmarkData(Rad3D(str(tmp_path))).records("test")


def test_a_split_and_a_medium_are_checked_before_training(tree) -> None:
    volumes_only = photon_model(pruner=None)
    BenchmarkData(Rad3D(str(tree))).bind(volumes_only).check("test")
    with pytest.raises(InputError, match="rad3d has no val questions"):
        BenchmarkData(Rad3D(str(tree))).bind(volumes_only).check("val")
    published.nextqa(tree, {"test": ["11"]})
    says = r"record 'test/11_0': VidOR/1201/11.mp4 is a 2D image or video.*model=photon_max"
    with pytest.raises(InputError, match=says):
        BenchmarkData(NextQA(str(tree))).bind(volumes_only).check("test")


@pytest.mark.parametrize("name", benchmarks())
def test_configuration_and_command_line_have_the_same_defaults(name) -> None:
    """conf/dataset/NAME.yaml builds what `prepare --dataset NAME` does, with every setting."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        node = to_plain(hydra.compose("eval", [f"dataset={name}"]))["dataset"]
    reader = instantiate(node, "dataset").reader
    assert reader == find_benchmark(name)()
    fields = {field.name for field in dataclasses.fields(reader)}
    assert fields - {"prompt"} <= set(node["reader"]) - {"_target_"}


def test_mistakes_in_the_settings_of_a_reader(tree) -> None:
    data = instantiate(RAD3D, "dataset")
    assert data.reader == Rad3D() and data.root == Path("data")
    for change, says in (
        ({"scan": "fixed"}, r"dataset\.reader\.scan: Rad3D has no argument 'scan'; did you mean"),
        ({"prompt": "offical"}, r"dataset\.reader\.prompt: 'offical' is not 'paper' or 'official'"),
    ):
        with pytest.raises(InputError, match=says):
            instantiate({**RAD3D, "reader": {**RAD3D["reader"], **change}}, "dataset")
