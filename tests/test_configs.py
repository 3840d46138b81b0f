"""Every combination that conf/ offers composes, binds to the code, and can be built."""

import copy
import math
import resource
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import hydra
import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from photon.errors import InputError
from tasks.callbacks import PruningSchedule
from tasks.entry import CONF
from tasks.schema import EvalConfig, RunConfig, check_config, check_strategy, instantiate, to_plain

ROOT = CONF.parent
DEFAULTS = ("photon", "none")


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def compose(*overrides: str, name: str = "train", with_hydra: bool = False):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(name, list(overrides), return_hydra_config=with_hydra)


def checked(*overrides: str, name: str = "train", schema: type = RunConfig) -> dict:
    config = compose(*overrides, name=name)
    for key in OmegaConf.missing_keys(config):  # what only a user can say: files
        OmegaConf.update(config, key, "given.nii.gz")
    plain = to_plain(config)
    check_config(plain, schema)
    return plain


@pytest.mark.parametrize(
    ("experiment", "pruner"),
    [
        *((experiment, pruner) for experiment in options("experiment") for pruner in DEFAULTS),
        *(("phase2", pruner) for pruner in options("pruner") if pruner not in DEFAULTS),
    ],
)
def test_every_experiment_and_every_pruner(experiment: str, pruner: str) -> None:
    plain = checked(f"experiment={experiment}", f"pruner={pruner}")
    assert plain["name"] == experiment
    assert {phase for phase, share in plain["phases"].items() if share} <= set(plain["task"])


def points_of(*overrides: str) -> list[list[str]]:
    """The points of a sweep, as Hydra's sweeper finds them: overrides, its own left out."""
    config = compose(*overrides, with_hydra=True)
    assert config.hydra.mode.name == "MULTIRUN"
    sweeper = hydra.utils.instantiate(config.hydra.sweeper)
    swept = [f"{key}={value}" for key, value in sweeper.params.items()]
    (points,) = sweeper.split_arguments(OverridesParser.create().parse_overrides(swept), None)
    return points


@pytest.mark.parametrize("ablation", options("ablation"))
def test_every_point_of_every_ablation(ablation: str) -> None:
    """An axis sweeps keys that exist: each of its points composes, binds and differs."""
    points = points_of("experiment=phase2", f"ablation={ablation}")
    found = [checked("experiment=phase2", *point) for point in points]
    assert len(found) >= 2 and all(a != b for i, a in enumerate(found) for b in found[:i])


def test_a_single_run_is_the_default() -> None:
    config = compose("experiment=phase2", with_hydra=True)
    assert config.hydra.mode is None and not config.hydra.sweeper.params
    assert not config.hydra.sweeper.rows


def test_ablations_are_the_paper_tables() -> None:
    """Table 4: first layer, n/4, n/2, 3n/4; w/o ITS & SGP keeps all tokens. Table 8: values."""
    at = {a: points_of("experiment=phase2", f"ablation={a}") for a in options("ablation")}
    assert at["layer"] == [[f"pruner.layer={x}"] for x in (0.0, 0.25, 0.5, 0.75)]
    assert at["tau"] == [[f"pruner.tau={x}"] for x in (0.1, 0.2, 0.5)]
    assert at["beta"] == [[f"pruner.beta={x}"] for x in (0.5, 0.8, 1.0)]
    assert [float(p[0].split("=")[1]) for p in at["eps_sat"]] == [1e-3, 5e-3, 1e-2]
    whole, *without = (checked("experiment=phase2", *point) for point in at["components"])
    assert [w["pruner"].get("self_affinity") for w in without] == [False, True, True, None]
    finetune = [w["task"]["finetune"] for w in (whole, *without)]
    assert [f["robust"]["probability"] for f in finetune] == [0.15, 0.15, 0.0, 0.15, 0.15]
    assert [f["flip"]["probability"] for f in finetune] == [0.05, 0.05, 0.05, 0.0, 0.05]
    assert without[3]["pruner"] == {}


def test_rows_of_a_sweep_go_with_every_combination_and_the_command_line_counts_more() -> None:
    rows = [["pruner.tau=0.1"], ["pruner=none"], []]
    sweeper = hydra.utils.instantiate(compose(with_hydra=True).hydra.sweeper, rows=rows)
    parse = OverridesParser.create().parse_overrides
    (found,) = sweeper.split_arguments(parse(["seed=0,1"]), None)
    one, two, three = ["pruner.tau=0.1"], ["pruner=none"], []
    assert found == [[*row, f"seed={seed}"] for seed in (0, 1) for row in (one, two, three)]
    (found,) = sweeper.split_arguments(parse(["pruner.tau=0.5"]), None)
    assert found == [["pruner.tau=0.5"], ["pruner=none", "pruner.tau=0.5"]]
    assert len(sweeper.split_arguments(parse(["seed=0,1"]), 2)) == 3  # batches


@pytest.mark.parametrize(
    ("group", "option"),
    [
        (group, option)
        for group in ("model", "trainer", "logger", "dataset")
        for option in options(group)
    ],
)
def test_every_other_option(group: str, option: str) -> None:
    checked(f"{group}={option}")


def test_phases_can_be_chosen_one_at_a_time() -> None:
    assert list(checked("~phases.align")["phases"]) == ["finetune"]
    with pytest.raises(InputError, match="phases.align: there is no such phase in task"):
        checked("experiment=real_ct", "+phases.align=0.5")


def test_keys_for_a_part_that_was_not_chosen_are_mistakes() -> None:
    with pytest.raises(InputError, match=r"pruner: has values but no _target_ \(self_affinity\)"):
        checked("pruner=none", "+pruner.self_affinity=false")
    with pytest.raises(InputError, match=r"task\.finetune: has values but no _target_ \(flip\)"):
        checked("experiment=phase1", "+task.finetune.flip.probability=0.0")


def test_eval_composes_and_binds() -> None:
    checked(name="eval", schema=EvalConfig)


def test_profiles_are_those_of_the_design() -> None:
    """Section A.2.1 of the paper, and docs/method.md: the switches of each profile."""
    paper = compose("pruner=photon_paper").pruner
    official = compose("pruner=photon_official").pruner
    plain = compose("experiment=phase2")
    ours = plain.pruner
    for one in (paper, official, ours):
        assert (one.layer, one.tau, one.beta) == (0.25, 0.2, 0.8)
        assert (one.eps_std, one.eps_sat) == (3e-3, 5e-3)
        assert (one.s_min, one.s_max, one.clip) == (0.5, 2.0, 1.5)
    switches = ("direction", "statistics", "recentre", "score_gradient", "theta_scale")
    assert [paper[k] for k in switches] == ["paper", "kept", False, True, 1.0]
    assert [official[k] for k in switches] == ["paper", "all", True, False, 0.9]
    band = plain.task.finetune.band
    assert (band.low, band.high, band.on) == (0.3, 0.8, "hard")


def test_mistakes_of_a_real_configuration_come_all_at_once() -> None:
    plain = checked()
    plain["pruner"]["taau"] = plain["pruner"].pop("tau")
    plain["trainer"]["precison"] = plain["trainer"].pop("precision")
    plain["trainer"]["logger"] = False
    plain["callbacks"]["pruning"]["soft"] = "early"
    plain["callbacks"]["seed"]["_target_"] = "os.system"
    plain["task"]["finetune"]["band"]["on"] = "medium"
    plain["task"]["align"]["optimizer"]["weight_decy"] = 0.1
    plain["model"]["preparation"]["spacin"] = [1, 1, 1]
    with pytest.raises(InputError) as caught:
        check_config(plain)
    lines = str(caught.value).splitlines()
    assert lines[0] == "8 mistakes in the configuration:"
    for says in (
        "pruner.taau: PhotonPruner has no argument 'taau'; did you mean 'tau'?",
        "trainer.precison: Trainer has no argument 'precison'; did you mean 'precision'?",
        "trainer.logger: is set by the program itself; remove it",
        "callbacks.pruning.soft: 'early' is not float",
        "callbacks.seed._target_: target 'os.system' is not allowed",
        "task.finetune.band.on: 'medium' is not 'soft' or 'hard'",
        "task.align.optimizer.weight_decy: AdamW has no argument 'weight_decy'",
        "model.preparation.spacin: Preparation has no argument 'spacin'; did you mean 'spacing'?",
    ):
        assert any(says in line for line in lines), says


def test_run_directories_have_no_time_in_them() -> None:
    text = "".join(path.read_text() for path in CONF.rglob("*.yaml"))
    assert "now:" not in text
    config = compose("experiment=phase2", with_hydra=True)
    HydraConfig.instance().set_config(config)
    assert config.hydra.run.dir == "outputs/phase2"
    assert config.hydra.sweep.dir == "outputs/sweeps/phase2"


def test_slurm_composes_without_its_plugin_and_names_it(tmp_path) -> None:
    launcher = compose("hydra/launcher=slurm", with_hydra=True).hydra.launcher
    assert launcher.gpus_per_node == 1 and launcher.max_num_timeout == 3
    if any(found.name == "hydra-submitit-launcher" for found in distributions()):
        pytest.skip("the plugin is installed")
    sweep = ["-m", "hydra/launcher=slurm", f"hydra.sweep.dir={tmp_path}", "seed=1,2"]
    # In a process of its own: Hydra takes over logging, and with it this one's captured streams.
    command = [sys.executable, str(CONF.parent / "train.py"), *sweep]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "hydra/launcher=slurm needs hydra-submitit-launcher" in done.stderr


def test_zero2_binds_without_deepspeed_and_names_it(monkeypatch) -> None:
    trainer = checked("trainer=zero2")["trainer"]
    monkeypatch.setattr("lightning.pytorch.strategies.deepspeed._DEEPSPEED_AVAILABLE", False)
    with pytest.raises(InputError, match="DeepSpeed installed.*requirements-deepspeed.lock"):
        check_strategy(trainer)
    check_strategy(checked("trainer=fsdp")["trainer"])


def test_no_absolute_paths_and_no_optional_groups() -> None:
    for path in CONF.rglob("*.yaml"):
        text = path.read_text()
        assert "optional " not in text, f"{path}: a misspelt option would be ignored"
        values = [line.split("#")[0].split(": ", 1)[-1].strip() for line in text.splitlines()]
        assert not [value for value in values if value.startswith("/")], path


def test_callbacks_and_pruners_build_from_their_files() -> None:
    plain = checked("experiment=phase2", "pruner=photon_official")
    schedule = instantiate(plain["callbacks"]["pruning"], "callbacks.pruning")
    assert isinstance(schedule, PruningSchedule) and schedule.soft == 0.2
    pruner = instantiate(plain["pruner"], "pruner")
    assert sum(p.numel() for p in pruner.parameters()) == 12 * 256 + 256 + 256 + 1
    broken = copy.deepcopy(plain["callbacks"]["pruning"]) | {"hard": 0.1}
    with pytest.raises(InputError, match=r"callbacks\.pruning: .*legal is 0 <= soft <= hard"):
        instantiate(broken, "callbacks.pruning")


@pytest.mark.parametrize(
    ("name", "millions", "tokens"),
    [
        ("tiny", (2, 6), 128),
        ("tiny_stock", (2, 6), 128),
        ("tiny_qwen3", (2, 6), 128),
        ("small", (45, 60), 250),
        ("photon", (3750, 3760), 1000),
        ("photon_official", (3750, 3760), 1000),
        ("photon model.preparation.size=[364,364,364]", (3750, 3760), 4394),
        ("photon_max", (3750, 3760), 7000),
        ("photon_7b", (8290, 8300), 1000),
        ("qwen3vl_2b", (2120, 2140), 1000),
        ("qwen3vl_max", (2120, 2140), 8000),
    ],
)
def test_model_files_have_the_sizes_that_they_say(name, millions, tokens) -> None:
    """Built without memory on the meta device; visual tokens from the shapes."""
    config = checked(*f"model={name}".split(), "model.device=meta")["model"]
    config["text"].setdefault("vocab_size", 1129)
    started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = instantiate(config, "model", pruner=None)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - started < 500_000  # KiB
    assert {p.device.type for p in model.parameters()} == {"meta"}
    count = sum(p.numel() for p in model.parameters()) / 1e6
    assert millions[0] < count < millions[1]
    text, vision = config["text"], config["vision"]
    head = text.get("head_dim", text["hidden_size"] // text["num_attention_heads"])
    assert head == 2 * sum(text["rope_parameters"]["mrope_section"]) in (64, 128)
    assert vision["hidden_size"] // vision["num_heads"] % 4 == 0  # 2D RoPE: pairs of two axes
    assert vision["out_hidden_size"] == text["hidden_size"]
    size, token = config["preparation"]["size"], model.builder.token
    assert tokens == math.prod(n // t for n, t in zip(size, token, strict=True))


def test_make_files_agree_with_the_requirements() -> None:
    """The torch that `make` installs lies in the range that requirements.txt allows."""
    from packaging.requirements import Requirement

    lines = (ROOT / "requirements.txt").read_text().splitlines()
    needs = {r.name: r for r in map(Requirement, (x for x in lines if x and x[0] != "#"))}
    pinned = [x for x in Path(ROOT / "Makefile").read_text().splitlines() if x.startswith("TORCH")]
    assert pinned[0].split("==")[1] in needs["torch"].specifier
    for name, below in (("lightning", "2.6.5"), ("transformers", "5.5.0"), ("hydra-core", "1.3.2")):
        assert below not in needs[name].specifier, f"{name} {below} has a known fault"
    assert all(r.specifier for r in needs.values())
