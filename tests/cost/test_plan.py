"""`bench plan`: operations and memory against a table worked out apart, real runs, and Hydra."""

import json
import re
import resource

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from photon.batch.patches import patch_coordinates
from photon.commands.cli import build_parser, main
from photon.cost.flops import decoder_flops, forward_flops, linear_weights
from photon.cost.memory import activations, kept_pairs, layout_of, saved_bytes
from photon.cost.plan import GIB, Run, State, make_plan, plan_state, remedies
from photon.cost.shape import DEVICES, Shape, shape_of, stock_model
from photon.model.photon import PhotonModel
from photon.packing import Segments
from photon.pruning.base import Selection
from photon.pruning.its import PhotonPruner
from tasks.entry import CONF, compose
from tasks.plan import runs_of
from tests.helpers import TEXT, VISION, backbone, random_batch
from tests.test_docs import cases, example

MODELS = {
    name: compose([f"model={name}"])["model"] for name in ("photon", "photon_max", "photon_7b")
}
MODELS["photon_364"] = compose(["model.preparation.size=[364,364,364]", "model=photon"])["model"]


@pytest.fixture(scope="module")
def stocks():
    """Stock models on the meta device by name of their file."""
    return {name: stock_model(MODELS[name]) for name in ("photon", "photon_max")}


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
    shape = shape_of(MODELS[name], keep, 1, 20, 80, 20)
    stock = stocks["photon" if name == "photon_364" else name]
    parts = forward_flops(stock, shape, "off" if keep is None else "hard")
    seen = sum(parts[key] for key in ("patch embedding", "ViT blocks", "merger")) / 1e12
    read = (parts["layers up to l"] + parts["layers above l"]) / 1e12
    assert seen == pytest.approx(vision, rel=0.03)
    assert read == pytest.approx(language, rel=0.03)
    assert sum(parts.values()) / 1e12 == pytest.approx(total, rel=0.03)


def test_real_sizes_take_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run = Run(MODELS["photon_7b"], gpus=16, strategy="ddp", questions=8)
    plan = make_plan(run)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 0.5 * GIB  # the weights alone would be 31 GiB
    assert plan.parameters["total"] == pytest.approx(8.29e9, rel=0.005)
    assert not plan.fits and "trainer=zero2" in remedies(run)


GRID = (2, 4, 6)


def tiny_shape(questions=3, kept=5, n_answer=2, tail="question") -> Shape:
    """As `random_batch` makes it: head of 3 and 1 row, questions of 4 and 2 rows."""
    return Shape(GRID, 12, kept, questions, 4, 6, n_answer + 1, 1, tail)


def passes(model: PhotonModel, stage: str, shape: Shape):
    """The pass of a stage over one volume with its questions, in the parts that stages share."""
    batch, *_ = random_batch(
        questions=((4,) * shape.questions,),
        shapes=[(4, 8, 12)],
        dtype=model.encoder.dtype,
        n_answer=(shape.answer - 1,),
    )
    pairs = Segments([shape.visual] * shape.questions)
    pruner = PhotonPruner(hidden=8, tail=shape.tail, direction="gate")
    if shape.tail == "question":
        pruner = PhotonPruner(hidden=8)
    weight = torch.ones(shape.questions)

    def run():
        seen = model.encode(batch)
        if stage == "off":
            hidden = model.trunk(batch, seen).suffix
        else:
            trunk = model.trunk(batch, seen, stop=shape.cut)
            prob = torch.ones(pairs.total, requires_grad=True)
            chosen = Selection(kept_pairs(shape), pairs, prob=prob)
            options = (pruner, stage == "soft", weight)
            hidden = model.decoder.tail(trunk, chosen, shape.cut, *options)
        return model.logits(hidden[batch.supervised_rows]).float().log_softmax(-1)

    return run


CASES = [("off", "question")]
CASES += [(stage, tail) for stage in ("soft", "hard") for tail in ("question", "union", "all")]


@pytest.mark.parametrize(("stage", "tail"), CASES)
def test_operations_are_those_that_the_engine_runs(stage, tail) -> None:
    """Matrix products as torch counts them; attention as a loop over its masks counts it."""
    model = PhotonModel(backbone(dtype=torch.float32)).train()
    shape = tiny_shape(tail=tail)
    run = passes(model, stage, shape)
    with FlopCounterMode(display=False) as counter:
        run()
    counted = counter.get_flop_counts()["Global"]
    products = sum(n for op, n in counted.items() if "mm" in str(op) and "bmm" not in str(op))
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

    def attention(stage: str) -> int:
        """One layer's, by a loop over the rows of the layout that the engine makes."""
        layout, size, heads = layout_of(shape, stage), 8, 4
        prefix = sum(i + 1 for rows in layout.prefixes for i in range(rows))
        read = sum(len(reads) + i + 1 for reads in layout.reads for i in range(shape.suffix))
        wide = size + 8 if stage != "off" and tail != "question" else size
        return 4 * heads * (size * prefix + wide * read)

    language = attention("off") + 3 * attention(stage)
    assert products == sum(ours.values()) - vision - language


WIDE = {"hidden_size": 64, "num_hidden_layers": 12, "intermediate_size": 160, "vocab_size": 64}
WIDE["rope_parameters"] = TEXT["rope_parameters"] | {"mrope_section": [2, 4, 2]}
MODEL = {
    "text": TEXT | WIDE,
    "vision": VISION | {"out_hidden_size": 64},
    "preparation": {"size": [4, 8, 12]},
}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(("stage", "tail"), CASES)
def test_activations_are_those_that_autograd_saves(stage, tail, precision) -> None:
    """Counted on tensors without data, and in a real pass of the whole model."""
    stock = backbone(dtype=torch.float32, text=WIDE, out_hidden_size=64)
    model = PhotonModel(stock).train()
    shape = tiny_shape(questions=8, tail=tail)
    run = passes(model, stage, shape)
    mixed = precision == "bf16-mixed"
    run()  # builds the encoder's plan
    with torch.autocast("cpu", torch.bfloat16, mixed, cache_enabled=False):
        real = saved_bytes(run, model)
    copies = 2 * linear_weights(model) if mixed else 0
    plan = activations(MODEL, shape, stage, precision)
    assert plan.total() == pytest.approx(real - copies, rel=0.05)
    assert plan.total(checkpointing=True) < 0.6 * plan.total()


@pytest.mark.parametrize("questions", [1, 8, 16, 43])
def test_pruning_that_shares_costs_no_more_than_not_pruning(stocks, questions) -> None:
    for tail in ("union", "all"):
        shape = shape_of(MODELS["photon"], 0.39, questions, 20, 80, 20, tail=tail)
        off, soft, hard = (
            sum(forward_flops(stocks["photon"], shape, stage).values())
            for stage in ("off", "soft", "hard")
        )
        assert hard <= off and soft <= 1.15 * off, (tail, hard / off, soft / off)
        if questions == 16:
            soft, hard = (
                activations(MODELS["photon"], shape, stage, "bf16-mixed").total()
                for stage in ("soft", "hard")
            )
            assert soft <= 1.3 * hard, tail


def test_sharing_saves_what_it_says() -> None:
    """The layers up to l see the volume once, however many questions there are."""
    model = backbone(dtype=torch.float32)
    one, eight = (tiny_shape(questions=n) for n in (1, 8))
    alone, together = (decoder_flops(model.model.language_model, s, "hard") for s in (one, eight))
    assert together["layers above l"] == 8 * alone["layers above l"]
    assert together["layers up to l"] < 5 * alone["layers up to l"]


def test_state_follows_the_strategy(stocks) -> None:
    def state(strategy: str, gpus: int = 1, **options) -> State:
        run = Run(MODELS["photon"], strategy=strategy, gpus=gpus, **options)
        return plan_state(stocks["photon"], run)

    def held(one: State) -> list[float]:
        return [one.weights, one.gradients, one.optimizer]

    total, patch = sum(p.numel() for p in stocks["photon"].parameters()), 1280 * 14**3
    assert held(state("single")) == [4 * total, 4 * total, 8 * total]
    assert held(state("zero2")) == [2 * total, 2 * total, 12 * total]
    assert held(state("zero2", 4)) == [2 * total, total / 2, 3 * total]
    assert sum(held(state("fsdp", 4))) == 4 * total
    assert state("single").traffic == 0
    assert state("ddp", 4).traffic == 6 * total  # ring: 2 * 3/4 of 4 bytes a weight
    saved = state("ddp", 4).buffers - state("ddp", 4, bucket_view=True).buffers
    assert saved == 4 * total  # gradients lie in the buckets
    assert state("single").update == 4 * total and state("single", fused=True).update == 0
    assert held(state("single", train="patch")) == [4 * total, 4 * patch, 8 * patch]
    adapters = state("single", train="lora").gradients / 4 - patch
    q, kv, mlp = 2 * 2048, 2048 + 256, 2048 + 11008
    assert adapters == 16 * 36 * (2 * q + 2 * kv + 3 * mlp)


NEEDS = re.compile(r"^# Needs: (\d+) x (\w+)(.*)$", re.M)
FILES = sorted([*CONF.glob("experiment/*.yaml"), *CONF.glob("model/*.yaml")])
HEADED = [file for file in FILES if NEEDS.search(file.read_text())]


@pytest.mark.parametrize("file", HEADED, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_what_is_shipped_fits_the_hardware_that_its_header_names(file) -> None:
    gpus, device, words = NEEDS.search(file.read_text()).groups()
    own = ["experiment=phase2"] if file.parent.name == "model" else []
    own += [f"{file.parent.name}={file.stem}", *words.split()]
    config = compose([*own, f"trainer.devices={gpus}", f"plan.device={device}"])
    for phase, run in runs_of(config).items():
        assert (run.gpus, run.device) == (int(gpus), DEVICES[device])
        plan = make_plan(run)
        assert plan.fits, (phase, {stage: peak / GIB for stage, peak in plan.peak.items()})


def test_headers_name_what_does_not_fit_a_laptop() -> None:
    names = {file.stem for file in HEADED}
    assert {"phase1", "phase2", "true_shapes", "photon_7b", "photon_max"} <= names
    assert {"photon_paper", "photon_official", "real_ct"} <= names


def test_a_run_that_does_not_fit_is_told_what_would() -> None:
    words = ["experiment=phase2", "model.checkpointing=false", "plan.device=h100"]
    (run,) = runs_of(compose(words)).values()
    assert not make_plan(run).fits
    found = remedies(run)
    assert found[0] == "model.checkpointing=true" and len(found) > 1
    for line in found:
        (again,) = runs_of(compose([*words, *line.split()])).values()
        assert make_plan(again).fits, line


def test_updates_of_a_phase() -> None:
    """The paper's about 33,000 on DeepTumorVQA, by its published counts; and one volume a GPU."""
    published = ["plan.volumes=8316", "plan.questions=355962", "trainer.devices=8"]
    words = ["experiment=phase2", "trainer=zero2", "dataset=deeptumorvqa", *published]
    (run,) = runs_of(compose(words)).values()
    assert run.questions_an_update == 32 and run.updates == 3 * -(-8316 * 11 // 8)
    assert 30_000 < run.updates < 36_000
    (run,) = runs_of(compose([*words, "dataset.sampling=volumes"])).values()
    assert run.updates == 3 * -(-8316 // 8)
    (run,) = runs_of(compose([*words, "trainer.max_steps=50"])).values()
    assert run.updates == 50


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["plan.gpus=0"], "plan.gpus: 0 is not int of at least 1"),
        (["plan.utilisation=2"], "plan.utilisation: 2 is not float in (0, 1]"),
        (["plan.device=h300"], "plan.device: 'h300' is not 'auto' or 'a100'"),
        (["plan.gpu=2"], "did you mean 'plan.gpus'?"),
        (["model=photn"], "model=photn: there is no such file; did you mean 'photon'?"),
        (["photon"], "photon"),
    ],
)
def test_mistakes_are_named(capsys, words, says) -> None:
    assert main(["bench", "plan", *words]) == 1
    assert says in capsys.readouterr().err


def test_command_prints_tables_and_json(capsys) -> None:
    assert main(["bench", "plan", "trainer.devices=2"]) == 0
    text = capsys.readouterr().out
    assert "# demo, align: 2 x 79 GiB, ddp, patch weights" in text
    assert "128 visual tokens a volume (50 kept after l = 2)" in text
    assert main(["bench", "plan", "pruner=none", "~phases.align", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["finetune"]
    assert list(plan["flops"]) == ["off"] and plan["shape"]["visual"] == 128
    assert main(["bench", "plan", "experiment=phase2", "model.checkpointing=false"]) == 1
    assert "It would fit with one of:\n  model.checkpointing=true" in capsys.readouterr().out


@pytest.mark.parametrize("words", cases("python -m photon bench"))
def test_what_the_pages_plan_and_measure_composes(words: list[str]) -> None:
    args = build_parser().parse_args(words[3:])
    if not hasattr(args, "words"):  # it reads finished runs
        return
    for case in getattr(args, "case", None) or [""]:
        assert runs_of(compose([*map(example, args.words), *case.split()]))
