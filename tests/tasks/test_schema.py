"""The configuration check: every mistake, all at once, with its full key."""

import sys
import types
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from omegaconf import OmegaConf

from photon.errors import InputError
from tasks import places, schema


@dataclass(frozen=True)
class Band:
    low: float = 0.3
    high: float = 0.8
    on: Literal["soft", "hard"] = "hard"

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low={self.low}: legal is at most high={self.high}")


class Part:
    def __init__(
        self,
        tau: float,
        layer: float | None = None,
        size: tuple[int, int, int] = (1, 1, 1),
        band: Band | None = None,
        child: object = None,
        mode: Literal["a", "b"] = "a",
        names: list[str] | None = None,
    ):
        self.tau, self.band, self.child, self.size = tau, band, child, size


@pytest.fixture(autouse=True)
def toy_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toy targets under `tasks`, as if they had been written there."""
    module = types.ModuleType("tasks.toy")
    for one in (Band, Part):
        monkeypatch.setattr(one, "__module__", "tasks.toy")
        setattr(module, one.__name__, one)
    module.os = __import__("os")
    toy = places.Kind("a toy", ("tasks.toy",), "builtins:object")
    for place in ("pruner", "pruner.child", "callbacks.items.#"):
        monkeypatch.setitem(places.PLACES, place, toy)
    monkeypatch.setitem(sys.modules, "tasks.toy", module)
    # Annotations are evaluated where the class says that it is defined.
    module.Literal = Literal


def check(node: dict, key: str = "pruner") -> list[str]:
    try:
        schema.report(list(schema._walk(key, node, {})))
    except InputError as error:
        return str(error).splitlines()[1:-1]
    return []


def part(**arguments) -> dict:
    return {"_target_": "tasks.toy.Part", **arguments}


def test_a_right_node_passes() -> None:
    node = part(tau=1, layer=None, size=[1, 2, 3], band={"low": 0.1}, names=["x"], mode="b")
    assert check(node) == []


def test_all_mistakes_come_at_once_with_full_keys() -> None:
    node = part(
        taau=0.1,
        layer="deep",
        size=[1, 2],
        band={"lo": 0.1, "on": "sofft"},
        child=part(tau=True, names=["x", 3]),
        mode="c",
    )
    lines = check(node)
    found = {line.split(":")[0].strip() for line in lines}
    assert found == {
        "pruner.taau",
        "pruner.tau",
        "pruner.layer",
        "pruner.size",
        "pruner.band.lo",
        "pruner.band.on",
        "pruner.child.tau",
        "pruner.child.names",
        "pruner.mode",
    }
    text = "\n".join(lines)
    assert "did you mean 'tau'?" in text
    assert "did you mean 'low'?" in text
    assert "did you mean 'soft'?" in text


def test_lists_are_walked() -> None:
    lines = check({"items": [part(tau=1.0), part(tau=1.0, extra=2)]}, "callbacks")
    assert len(lines) == 1 and lines[0].strip().startswith("callbacks.items[1].extra:")


def test_partial_needs_no_complete_arguments_but_knows_their_names() -> None:
    node = {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 1e-3, "weight_decy": 0.1}
    lines = check(node, "task.x.optimizer")
    assert len(lines) == 1 and "did you mean 'weight_decay'?" in lines[0]
    assert len(check({"_target_": "torch.optim.AdamW", "lr": 1e-3}, "task.x.optimizer")) == 1


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("os.system", "not allowed"),
        ("builtins.eval", "not allowed"),
        ("torch.load", "not allowed"),
        ("tasksevil.run", "not allowed"),
        ("tasks.toy.os.system", "give a toy, of tasks.toy.*"),
        ("tasks.schema.instantiate", "not allowed"),
        ("tasks.toy._private", "not allowed"),
        ("tasks.toy.Prat", "did you mean 'Part'?"),
        ("tasks.toy.Part.nowhere", "has no 'nowhere'"),
        ("tasks.toy.Literal", "not allowed"),
        ("", "not allowed"),
    ],
)
def test_targets_off_the_list_are_refused(target: str, says: str) -> None:
    (line,) = check({"_target_": target})
    assert line.strip().startswith("pruner._target_:") and says in line
    with pytest.raises(InputError, match="pruner"):
        schema.instantiate({"_target_": target}, "pruner")


def test_refusal_reaches_every_depth_before_anything_runs(tmp_path) -> None:
    mark = tmp_path / "made"
    node = part(tau=1.0, child={"_target_": "os.makedirs", "name": str(mark)})
    with pytest.raises(InputError, match=r"pruner\.child\._target_"):
        schema.instantiate(node, "pruner")
    assert not mark.exists()


def test_positional_and_hydra_control_keys_are_refused() -> None:
    assert len(check(part(tau=1.0, _args_=[1]))) == 1
    assert len(check(part(tau=1.0, _recursive_=False))) == 1


def test_instantiate_builds_plain_values_at_every_depth() -> None:
    node = part(tau=0.5, size=[1, 2, 3], child={"_target_": "tasks.toy.Band", "low": 0.0})
    built = schema.instantiate(node, "pruner")
    assert isinstance(built, Part) and built.child == Band(low=0.0)
    assert type(built.size) is list and built.tau == 0.5


def test_supplied_arguments_are_given_by_the_program_only() -> None:
    built = schema.instantiate(part(), "pruner", tau=2.0)
    assert built.tau == 2.0
    band = Band()
    assert schema.instantiate(part(tau=1.0), "pruner", band=band).band is band
    with pytest.raises(InputError, match="set by the program itself"):
        schema.instantiate(part(tau=1.0), "pruner", tau=2.0)


def test_partial_builds_a_callable() -> None:
    node = {"_target_": "torch.optim.SGD", "_partial_": True, "lr": 0.5}
    optimizer = schema.instantiate(node, "task.x.optimizer")([torch.nn.Parameter(torch.zeros(1))])
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_a_value_out_of_range_names_its_key() -> None:
    node = {"_target_": "tasks.toy.Band", "low": 0.9}
    with pytest.raises(InputError, match=r"^pruner: .*legal is at most high=0.8"):
        schema.instantiate(node, "pruner")
    lines = check(part(tau=1.0, band={"low": 0.9}))
    assert lines == ["  pruner.band: low=0.9: legal is at most high=0.8"]


def test_to_plain_lists_every_missing_value() -> None:
    config = OmegaConf.create({"a": "???", "b": {"c": "???", "d": 1}})
    with pytest.raises(InputError, match=r"a, b\.c"):
        schema.to_plain(config)


def test_to_plain_resolves_and_names_a_broken_reference() -> None:
    plain = schema.to_plain(OmegaConf.create({"a": 1, "b": {"c": "${a}"}, "d": [1, 5e-3]}))
    assert plain == {"a": 1, "b": {"c": 1}, "d": [1, 5e-3]}
    assert type(plain["b"]) is dict and type(plain["d"]) is list
    with pytest.raises(InputError, match="b"):
        schema.to_plain(OmegaConf.create({"b": "${nowhere}"}))


def test_top_level_keys_and_phases_are_checked() -> None:
    config = {"name": "x", "seed": "one", "phasse": {}, "phases": {"finetun": 1.0}, "task": {}}
    with pytest.raises(InputError) as caught:
        schema.check_config(config)
    text = str(caught.value)
    for part_of_message in ("phasse: ", "seed: 'one' is not int", "model: ", "phases.finetun: "):
        assert part_of_message in text
