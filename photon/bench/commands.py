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


def run_plan(args: argparse.Namespace) -> int:
    """Print the plan; returns 0. Raises InputError for a wrong key or value."""
    import json

    from photon.bench.plan import PlanSettings, make_plan
    from photon.bench.report import plan_text
    from photon.errors import InputError
    from photon.words import bind, split_words

    settings = bind(PlanSettings, split_words(args.settings), "bench plan")
    try:
        plan = make_plan(settings)
    except ValueError as error:
        raise InputError(str(error)) from error
    print(json.dumps(plan.to_dict(), indent=2) if args.json else plan_text(plan))
    return 0
