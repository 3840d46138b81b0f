"""The command `bench`: what a run costs, computed (`plan`) or measured (`step`, `growth`).

It reads the configuration that `train.py` would compose from the same words; `photon.commands.cli`
finds this module by its name, since nothing under photon/ imports Hydra.
"""

from __future__ import annotations

import argparse
import sys

WORDS = {"nargs": "*", "metavar": "KEY=VALUE", "help": "as train.py takes them"}


MODES = ("train", "prefill")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `bench` with its parts."""
    parser = subparsers.add_parser(
        "bench",
        help="what training and answering cost: computed, or measured here",
        description="docs/bench.md says what the numbers mean.",
    )
    parts = parser.add_subparsers(dest="part", metavar="PART", required=True)
    plan = parts.add_parser(
        "plan",
        help="operations, memory, disk and time of a training, before a cluster is rented",
        description="Of the phases that train.py would run with the same words: experiment=phase2 "
        "trainer=zero2 plan.device=h100 ... No weights, no data, no GPU.",
    )
    plan.add_argument("words", **WORDS)
    plan.add_argument("--json", action="store_true", help="print the numbers as JSON")
    plan.set_defaults(run=run_plan)
    step = parts.add_parser(
        "step",
        help="time and memory of a training step or of prefill, measured here",
        description="Random weights of the true shapes: nothing is downloaded. One volume with "
        "dataset.questions_per_volume questions; each --case is one more set of words, and without "
        "any the model runs unpruned and pruned.",
    )
    step.add_argument("words", **WORDS)
    step.add_argument(
        "--case",
        action="append",
        default=[],
        metavar="WORDS",
        help="such as 'model=photon_max pruner=none'; the first is what others are compared with",
    )
    step.add_argument("--mode", choices=MODES, default="train")
    step.add_argument("--rounds", type=int, default=10, help="of all cases in turn")
    step.add_argument("--out", metavar="JSON", help="write all numbers with the environment here")
    step.set_defaults(run=run_step)
    growth = parts.add_parser(
        "growth",
        help="seconds and memory a question against the questions of a volume, measured here",
        description="Unpruned, the three tails (pruner.tail) and the stock Transformers class, on "
        "the same weights and volume, in turns: a training step and the prefill.",
    )
    growth.add_argument("words", **WORDS)
    growth.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    growth.add_argument("--layers", type=int, help="of the decoder and encoder (default: all)")
    growth.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    growth.add_argument("--rounds", type=int, default=5, help="of all cases in turn")
    growth.add_argument("--out", metavar="FOLDER", help="write growth.json and growth.png here")
    growth.set_defaults(run=run_growth)
    _add_pruning(parts)


def _add_pruning(parts: argparse._SubParsersAction) -> None:
    """The parts about pruning methods."""
    selection = parts.add_parser(
        "selection",
        help="what every pruning method takes to choose, beside the prefill",
        description="At the widths of the configured model with few layers, on random weights and "
        "one random volume with dataset.questions_per_volume questions.",
    )
    selection.add_argument("words", **WORDS)
    selection.add_argument("--layers", type=int, default=4, help="of the decoder and encoder")
    selection.add_argument("--keep", type=float, nargs="+", default=[0.1, 0.3])
    selection.add_argument("--methods", nargs="+", default=[], metavar="NAME")
    selection.add_argument("--rounds", type=int, default=3)
    selection.add_argument("--out", metavar="JSON", help="write all numbers here")
    selection.set_defaults(run=run_selection)
    pruning = parts.add_parser(
        "pruning",
        help="the tables of pruning methods, over several seeds",
        description="Of runs of `eval.py benchmark=pruning` with the same conditions; a question's "
        "value is its mean over the runs. Written into the first.",
    )
    pruning.add_argument("runs", nargs="+", metavar="RUN", help="their folders")
    pruning.set_defaults(run=run_pruning)


def run_plan(args: argparse.Namespace) -> int:
    """Print the plan; returns 0, or 1 where a phase does not fit."""
    import json

    from photon.cost.plan import make_plan, remedies
    from photon.cost.report import plan_text
    from tasks.entry import compose
    from tasks.plan import runs_of

    config = compose(args.words)
    plans = {phase: make_plan(run) for phase, run in runs_of(config).items()}
    if args.json:
        print(json.dumps({phase: plan.to_dict() for phase, plan in plans.items()}, indent=2))
    else:
        for phase, plan in plans.items():
            print(plan_text(plan, f"{config['name']}, {phase}"))
            if not plan.fits:
                print("It would fit with one of:", *remedies(plan.run), sep="\n  ")
    return 0 if all(plan.fits for plan in plans.values()) else 1


def run_step(args: argparse.Namespace) -> int:
    """Measure and print; returns 0."""
    from photon.cost.report import step_text
    from photon.cost.step import Case, environment, measure, parts_of
    from tasks.entry import compose
    from tasks.plan import random_model, runs_of

    cases, built = [], {}
    for words in args.case or ["pruner=none", ""]:
        config = compose([*args.words, *words.split()])
        *_, run = runs_of(config).values()
        model = random_model(config, run, built)
        stage = "off" if model.pruner is None else "hard"
        name = words or config["name"]
        cases.append(Case(name, model, run.shape, stage, args.mode, run.precision, config["seed"]))
    steps = [case.step() for case in cases]
    found = measure(steps, cases[0].device, args.rounds, say=_say)
    report = environment(cases[0]) | {
        "cases": [
            case.facts() | numbers | {"seconds_forward": parts_of(case.model, step)}
            for case, numbers, step in zip(cases, found, steps, strict=True)
        ]
    }
    print(step_text(report))
    _write(args.out, report)
    return 0


def run_growth(args: argparse.Namespace) -> int:
    """Measure, print and draw; returns 0."""
    from pathlib import Path

    from photon.cost.growth import growth_text, measure_growth, save_growth
    from tasks.entry import compose
    from tasks.plan import models_by_tail

    config = compose([*args.words, "model.checkpointing=false"])
    models, precision = models_by_tail(config, args.layers)
    how = (args.counts, args.modes, precision, config["seed"])
    report = measure_growth(models, *how, rounds=args.rounds, say=_say)
    print(growth_text(report))
    if args.out:
        save_growth(report, Path(args.out))
    return 0


def run_selection(args: argparse.Namespace) -> int:
    """Measure and print; returns 0."""
    from photon.cost.selection import measure_selection, selection_text
    from photon.cost.shape import stock_model
    from photon.evaluation.provenance import collect_provenance
    from tasks.entry import compose
    from tasks.plan import random_model, runs_of, with_layers

    config = compose([*args.words, "pruner=none"])
    *_, run = runs_of(config).values()
    model = random_model(with_layers(config, args.layers), run, {}).eval()
    how = args.keep, args.methods, args.rounds, _say
    report = measure_selection(model, stock_model(config["model"]), run.shape, *how)
    print(selection_text(report))
    _write(args.out, report | collect_provenance())
    return 0


def run_pruning(args: argparse.Namespace) -> int:
    """Write and print the tables; returns 0."""
    import json
    from pathlib import Path

    from photon.study.pruning_report import write_benchmark

    runs = [Path(run) for run in args.runs]
    stored = runs[0] / "pruning.json"
    notes = json.loads(stored.read_text())["notes"] if stored.is_file() else {}
    print(write_benchmark(runs, notes | {"runs": ", ".join(args.runs)}))
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _write(path: str | None, report: dict) -> None:
    from photon.files import write_json

    if path:
        write_json(path, report)
