"""`bench plan`: operations and memory against a table worked out apart, real runs, and Hydra."""

import json
import resource

import hydra
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from photon.batch.patches import patch_coordinates
from photon.commands.cli import main
from photon.cost.flops import Shape, decoder_flops, forward_flops, linear_weights
from photon.cost.memory import activations, saved_bytes
from photon.cost.plan import (
    GIB,
    PlanSettings,
    Strategy,
    make_plan,
    plan_shape,
    plan_strategies,
)
from photon.cost.settings import MODELS, read_model, stock_config, stock_model
from photon.model.photon import PhotonModel
from photon.pruning.base import Selection
from tasks.entry import CONF
from tasks.schema import to_plain
from tests.helpers import TEXT, VISION, backbone, random_batch


@pytest.fixture(scope="module")
def stocks():
    """Stock models on the meta device by name of their file."""
    return {name: stock_model(stock_config(read_model(name))) for name in ("photon", "photon_max")}


@pytest.mark.parametrize(
    ("name", "keep", "vision", "language", "total"),
    [  # TFLOP a question, computed by hand from the published shapes; layer 9, 100 + 20 text rows
        ("photon_max", None, 36.4, 47.0, 83.4),
        ("photon", None, 5.2, 6.4, 11.6),
        ("photon", 390, 5.2, 3.7, 9.0),
        ("photon_max", 3080, 36.4, 26.2, 62.6),
        ("photon_364", None, 23.0, 28.1, 51.1),
        ("photon_364", 390, 23.0, 9.2, 32.2),
        ("photon_364", 3080, 23.0, 21.5, 44.5),
    ],
)
def test_operations_of_the_paper_s_shapes(stocks, name, keep, vision, language, total) -> None:
    shape = plan_shape(read_model(name), PlanSettings(name, keep=keep))
    stock = stocks["photon" if name == "photon_364" else name]
    parts = forward_flops(stock, shape, "off" if keep is None else "hard")
    seen = sum(parts[key] for key in ("patch embedding", "ViT blocks", "merger")) / 1e12
    read = (parts["layers up to l"] + parts["layers above l"]) / 1e12
    assert seen == pytest.approx(vision, rel=0.03)
    assert read == pytest.approx(language, rel=0.03)
    assert sum(parts.values()) / 1e12 == pytest.approx(total, rel=0.03)


def test_real_sizes_take_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    plan = make_plan(PlanSettings("photon_7b", gpus=16, questions=8))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 0.5 * GIB  # the weights alone would be 31 GiB
    assert plan.parameters["total"] == pytest.approx(8.29e9, rel=0.005)
    assert plan.memory["ddp"]["fits"] == "no" and plan.memory["fsdp"]["fits"] == "yes"


GRID = (2, 4, 6)
TINY = {
    "text": TEXT,
    "vision": VISION,
    "preparation": {"size": [4, 8, 12]},
}


def tiny_shape(questions=3, kept=5, n_answer=2) -> Shape:
    """As `random_batch` makes it: head of 3 and 1 row, questions of 4 and 2 rows."""
    return Shape(GRID, 12, kept, questions, 4, 6, n_answer + 1, 1)


def passes(model: PhotonModel, stage: str, kept: int):
    """The pass of a stage over one volume with three questions, in the parts that stages share."""
    batch, *_ = random_batch(
        questions=((4, 4, 4),), shapes=[(4, 8, 12)], dtype=model.encoder.dtype, n_answer=(2,)
    )
    keep = torch.zeros(36, dtype=torch.bool)
    keep.view(3, 12)[:, :kept] = True
    counts = batch.suffixes
    at = (batch.targets != -100).nonzero().squeeze(1)

    def run():
        seen = model.encode(batch)
        if stage == "off":
            hidden = model.trunk(batch, seen).suffix
        else:
            trunk = model.trunk(batch, seen, stop=1)
            pairs = type(counts)([12, 12, 12])
            prob = torch.ones(36, requires_grad=stage == "soft")
            chosen = Selection(keep, pairs, prob=prob)
            if stage == "soft":
                trained = torch.ones(3, dtype=torch.bool)
                hidden, place = model.decoder.tail_soft(trunk, chosen, 1, trained)
            else:
                hidden, place = model.decoder.tail(trunk, chosen, 1)
            hidden = hidden[place]
        return model.logits(hidden[at]).float().log_softmax(-1)

    return run, len(at)


@pytest.mark.parametrize("stage", ["off", "soft", "hard"])
def test_operations_are_those_that_the_engine_runs(stage) -> None:
    """Matrix products as torch counts them; attention as a loop over its masks counts it."""
    model = PhotonModel(backbone(dtype=torch.float32)).train()
    run, answers = passes(model, stage, 5)
    with FlopCounterMode(display=False) as counter:
        run()
    counted = counter.get_flop_counts()["Global"]
    products = sum(n for op, n in counted.items() if "mm" in str(op) and "bmm" not in str(op))
    shape = tiny_shape(n_answer=answers // 3 - 1)
    ours = forward_flops(model.backbone, shape, stage)
    place = patch_coordinates(GRID, 2).tolist()
    window, pairs = VISION["window_size"] // VISION["patch_size"], {"window": 0, "slab": 0}
    slab = GRID[1] * GRID[2]
    for i, (h, w) in enumerate(place):
        for j, (y, x) in enumerate(place):
            same = i // slab == j // slab
            pairs["slab"] += same
            pairs["window"] += same and (h // window, w // window) == (y // window, x // window)
    vision = 4 * VISION["hidden_size"] * (2 * pairs["window"] + pairs["slab"])
    prefix, suffix = 16, shape.suffix
    shared = sum(i + 1 for i in range(prefix)) + 3 * sum(prefix + i + 1 for i in range(suffix))
    rows = {"off": None, "soft": 16 + suffix, "hard": 4 + 5 + suffix}[stage]
    alone = shared if rows is None else 3 * sum(i + 1 for i in range(rows))
    language = 4 * 32 * (shared + 3 * alone)
    assert products == sum(ours.values()) - vision - language


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("stage", ["off", "soft", "hard"])
def test_activations_are_those_that_autograd_saves(stage, precision) -> None:
    """Counted on tensors without data, and in a real pass of the whole model."""
    model = PhotonModel(backbone(dtype=torch.float32)).train()
    run, answers = passes(model, stage, 5)
    mixed = precision == "bf16-mixed"
    run()  # builds the encoder's plan
    with torch.autocast("cpu", torch.bfloat16, mixed, cache_enabled=False):
        real = saved_bytes(run, model)
    copies = 2 * linear_weights(model) if mixed else 0
    shape = tiny_shape(n_answer=answers // 3 - 1)
    plan = activations(TINY, shape, stage, precision)
    assert plan.total() == pytest.approx(real - copies, rel=0.15)
    assert plan.total(checkpointing=True) < 0.6 * plan.total()


def test_sharing_saves_what_it_says() -> None:
    """The layers up to l see the volume once, however many questions there are."""
    model = backbone(dtype=torch.float32)
    one, eight = (tiny_shape(questions=n) for n in (1, 8))
    alone, together = (decoder_flops(model.model.language_model, s, "hard") for s in (one, eight))
    assert together["layers above l"] == 8 * alone["layers above l"]
    assert together["layers up to l"] < 5 * alone["layers up to l"]


def test_state_follows_the_strategy(stocks) -> None:
    def state(gpus: int, train: str = "all") -> dict[str, Strategy]:
        settings = PlanSettings(gpus=gpus, train=train)
        return {s.name: s for s in plan_strategies(stocks["photon"], settings)}

    def held(strategy: Strategy) -> list[float]:
        return [strategy.weights, strategy.gradients, strategy.optimizer]

    total, patch = sum(p.numel() for p in stocks["photon"].parameters()), 1280 * 14**3
    assert held(state(1)["single"]) == [4 * total, 4 * total, 8 * total]
    assert held(state(1)["zero2"]) == [2 * total, 2 * total, 12 * total]
    assert held(state(4)["zero2"]) == [2 * total, total / 2, 3 * total]
    assert sum(held(state(4)["fsdp"])) == 4 * total
    assert state(1)["single"].traffic == 0
    assert state(4)["ddp"].traffic == 6 * total  # ring: 2 * 3/4 of 4 bytes a weight
    assert held(state(1, "patch")["single"]) == [4 * total, 4 * patch, 8 * patch]
    assert "lora" not in state(1, "patch")
    adapters = state(1)["lora"].gradients / 4 - patch
    q, kv, mlp = 2 * 2048, 2048 + 256, 2048 + 11008
    assert adapters == 16 * 36 * (2 * q + 2 * kv + 3 * mlp)


@pytest.mark.parametrize("name", sorted(path.stem for path in MODELS.glob("*.yaml")))
def test_model_files_read_as_hydra_composes_them(name) -> None:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        composed = to_plain(hydra.compose("train", [f"model={name}"]))["model"]
    ours = read_model(name)
    for group in ("text", "vision", "preparation"):
        assert ours[group] == composed[group]
    assert ours.keys() == composed.keys()


def test_command_prints_tables_and_json(capsys) -> None:
    assert main(["bench", "plan", "model=tiny", "gpus=2", "questions=4"]) == 0
    text = capsys.readouterr().out
    assert "# tiny on 2 x h200" in text and "| zero2" in text and "128 visual tokens" in text
    assert main(["bench", "plan", "model=tiny", "keep=null", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert list(plan["flops"]) == ["off"] and plan["shape"]["visual"] == 128


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["model=photn"], "model=photn: there is no"),
        (["gpu=2"], "did you mean 'gpus'"),
        (["gpus=two"], "gpus=two: is not a whole number"),
        (["gpus=0"], "gpus=0: must be at least 1"),
        (["model=tiny", "keep=0"], "keep=0.0: legal values"),
        (["device=h300"], "device=h300: legal values are a100"),
        (["photon"], "photon: write settings as KEY=VALUE"),
        (["model=tiny", "layer=1.5"], "layer=1.5: legal values"),
    ],
)
def test_mistakes_are_named(capsys, words, says) -> None:
    assert main(["bench", "plan", *words]) == 1
    assert says in capsys.readouterr().err
