"""The command `bench`: `bench plan` computes what a run costs, `bench step` measures one."""

from __future__ import annotations

import argparse


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
        help="operations, memory and step time of a run, before a cluster is rented",
        description="Computed from conf/model/NAME.yaml on the meta device: no weights, no GPU.",
    )
    plan.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="as model=photon gpus=16 device=h100 keep=0.39 questions=8 train=all",
    )
    plan.add_argument("--json", action="store_true", help="print the numbers as JSON")
    plan.set_defaults(run=run_plan)
    step = parts.add_parser(
        "step",
        help="time, memory and tokens of a training step or of prefill, measured here",
        description="Random weights of the true shapes: nothing is downloaded. Each model is "
        "measured unpruned, the last one pruned too.",
    )
    step.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=VALUE",
        help="as models=photon_max,photon mode=train keep=0.39 attention=sdpa,varlen steps=10",
    )
    step.add_argument("--out", metavar="JSON", help="write all numbers with the environment here")
    step.set_defaults(run=run_step)


def run_plan(args: argparse.Namespace) -> int:
    """Print the plan; returns 0. Raises InputError for a wrong key or value."""
    import json

    from photon.cost.plan import PlanSettings, make_plan
    from photon.cost.report import plan_text
    from photon.errors import InputError
    from photon.words import bind, split_words

    try:
        plan = make_plan(bind(PlanSettings, split_words(args.settings), "bench plan"))
    except ValueError as error:
        raise InputError(str(error)) from error
    print(json.dumps(plan.to_dict(), indent=2) if args.json else plan_text(plan))
    return 0


def run_step(args: argparse.Namespace) -> int:
    """Measure and print; returns 0. Raises InputError for what is wrong or cannot run here."""
    import json
    import sys
    from pathlib import Path

    from photon.cost.report import step_text
    from photon.cost.step import StepSettings, measure
    from photon.errors import InputError
    from photon.words import bind, split_words

    settings = bind(StepSettings, split_words(args.settings), "bench step")
    try:
        report = measure(settings, say=lambda text: print(text, file=sys.stderr))
    except ValueError as error:
        raise InputError(str(error)) from error
    print(step_text(report))
    if args.out:
        Path(args.out).write_text(json.dumps(report, indent=2) + "\n")
    return 0
