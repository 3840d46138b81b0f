"""Configurations with one fault: refused before anything is built, naming the key; nothing runs."""

import copy

import hydra
import pytest

from photon.errors import InputError
from tasks.entry import CONF, compose
from tasks.rundir import open_run
from tasks.schema import check_config, instantiate, to_plain
from tasks.trust import redact
from tests.faults.table import COMPOSED, FUNCTIONS, NOT_A_NUMBER, OTHERS, PLACES, VALUES


@pytest.fixture(scope="module")
def whole() -> dict:
    return compose(["experiment=demo"])


def faulty(whole: dict, key: str, value: object) -> dict:
    """The configuration with one value in another's place."""
    config = copy.deepcopy(whole)
    *above, last = key.split(".")
    node = config
    for name in above:
        node = node.setdefault(name, {})
    node[last] = value
    return config


CASES = [
    (key, value)
    for key, values in VALUES.items()
    for value in (*values, *NOT_A_NUMBER)
] + [(key, value) for key, values in OTHERS.items() for value in values]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), CASES, ids=lambda x: str(x)[:40])
def test_a_value_out_of_range_is_named_with_what_is_legal(whole, key, value) -> None:
    with pytest.raises(InputError) as caught:
        check_config(faulty(whole, key, value))
    first, *lines, last = str(caught.value).splitlines()
    assert "configuration" in first and last.startswith("Nothing was built")
    assert any(line.strip().startswith(key) and len(line) > len(key) + 8 for line in lines)


@pytest.mark.parametrize("target", FUNCTIONS)
@pytest.mark.parametrize("place", PLACES)
def test_no_function_runs_at_any_place(whole, place, target) -> None:
    node = {"_target_": target, "args": [1], "init": {}}
    with pytest.raises(InputError) as caught:
        check_config(faulty(whole, place, node))
    assert f"{place}._target_: " in str(caught.value)
    with pytest.raises(InputError):
        instantiate(node, place)


@pytest.mark.parametrize(("override", "says"), COMPOSED)
def test_what_hydra_would_run_is_refused_while_composing(override, says) -> None:
    with pytest.raises(InputError) as caught:
        compose([override])
    assert says in str(caught.value)


def test_an_escaped_interpolation_stays_text(tmp_path) -> None:
    """It used to be resolved a second time, after the check."""
    mark = tmp_path / "made"
    text = "\\${oc.create:{_target_:os.makedirs,name:" + str(mark) + "}}"
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        plain = to_plain(hydra.compose("train", [f"dataset.root='{text}'"]))
    assert plain["dataset"]["root"].endswith("}}") and isinstance(plain["dataset"]["root"], str)
    instantiate(plain["dataset"], "dataset")
    assert not mark.exists()


def test_values_of_the_environment_are_written_nowhere(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PHOTON_TEST_SECRET", "hush-4711")
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = to_plain(hydra.compose("train", ["dataset.root=/d/${oc.env:PHOTON_TEST_SECRET}"]))
    assert config["dataset"]["root"] == "/d/hush-4711"
    folder = open_run(tmp_path / "run", config)
    text = (folder / "run.json").read_text()
    assert "hush-4711" not in text and "<environment: PHOTON_TEST_SECRET>" in text
    monkeypatch.setenv("PHOTON_TEST_SECRET", "other")
    assert open_run(folder, config) == folder
    assert redact("cannot open /d/hush-4711") == "cannot open /d/<environment: PHOTON_TEST_SECRET>"
