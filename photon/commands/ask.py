"""Questions about a volume: `python -m photon ask VOLUME ["QUESTION"]`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from photon.model.dialogue import Dialogue, Turn
    from photon.model.photon import PhotonModel
    from photon.volume.store import VolumeStore

DEFAULT_MODEL = "outputs/demo/export"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `ask`."""
    parser = subparsers.add_parser(
        "ask",
        help="ask about a volume and see which parts of it were kept",
        description="Prepare a volume, answer one question, and write a picture of the kept parts; "
        "without a question, answer one line after the other, from a terminal or a pipe.",
    )
    parser.add_argument(
        "volume",
        help="a .nii or .nii.gz file, a folder with a DICOM series, an image or a video; with "
        "--questions also a folder of volumes",
    )
    parser.add_argument("question", nargs="?", help="the question, in quotes; none: a dialogue")
    parser.add_argument(
        "--questions",
        metavar="FILE",
        help='ask each line of FILE (text, or JSON with "question") on its own, about one reading '
        "of each volume, and print a JSON line an answer",
    )
    parser.add_argument("--earlier", metavar="SCAN", help="an earlier scan of the same patient")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="export folder (%(default)s)")
    parser.add_argument("--store", default="outputs/data/store", help="default: %(default)s")
    parser.add_argument(
        "--keep",
        type=float,
        metavar="BUDGET",
        help="a share in (0, 1] or a number of tokens, in place of the learned threshold",
    )
    parser.add_argument(
        "--pruner",
        metavar="NAME",
        help="photon, a file of photon/pruning/baselines, or none, in place of the export's own; "
        "a threshold that nothing has trained needs --keep",
    )
    parser.add_argument("--picture", metavar="PNG", help="default: VOLUME_kept.png in this folder")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="default: %(default)s")
    parser.add_argument(
        "--num-beams", type=int, default=1, help="beam search (%(default)s: greedy)"
    )
    parser.add_argument("--temperature", type=float, help="draw tokens; 1 is the model's own")
    parser.add_argument("--top-p", type=float, help="draw from the likeliest that reach this share")
    parser.add_argument("--top-k", type=int, help="draw from so many of the likeliest")
    parser.add_argument("--seed", type=int, help="of the draws (0)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Answer, print what it took, write the picture; returns 0. Raises InputError on bad input."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    from photon.errors import InputError
    from photon.model.dialogue import Dialogue
    from photon.pruning.named import find_pruner
    from photon.volume.store import VolumeStore
    from photon.weights.checkpoints import load_export, replace_pruner
    from photon.weights.checks import check_threshold
    from photon.weights.trained_on import trained_on

    if args.question is not None and not args.question.strip():
        raise InputError("the question is empty: write it in quotes after the volume")
    if args.question is None and args.picture is not None:
        raise InputError("--picture shows what one question kept: give the question as well")
    if args.questions is not None and (args.question or args.picture or args.earlier):
        raise InputError(
            "--questions asks the lines of a file: leave out the question, --picture and --earlier"
        )
    keep, options = budget(args.keep), choice(args)
    disable_progress_bar()  # one answer, not a bar of weights
    clock = [time.perf_counter()]
    model = load_export(args.model)
    device = next(model.parameters()).device
    if args.pruner is not None:
        replace_pruner(
            model, None if args.pruner == "none" else find_pruner(args.pruner)().to(device)
        )
        check_threshold(model.pruner, keep)
        model.eval()
    clock.append(time.perf_counter())
    store, known = VolumeStore(args.store, model.preparation), trained_on(args.model)
    if args.questions is not None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            return ask_many(args, model, store, known, keep, options)
    scans = [args.volume] if args.earlier is None else [args.earlier, args.volume]
    read = [store.read(scan) for scan in scans]
    dialogue = Dialogue(model, read, keep=keep, stop_repeats=True)
    clock.append(time.perf_counter())
    warn_of(known, store, args.volume, args.question)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        if args.question is None:
            return converse(dialogue, args.max_new_tokens, options)
        turn = dialogue.ask(args.question.strip(), args.max_new_tokens, **options)
    print(turn.answer)
    print(kept(turn))
    stages = {"load model": clock[1] - clock[0], "read volume": clock[2] - clock[1]}
    for name, seconds in {**stages, **turn.generation.seconds}.items():
        print(f"  {name:<16}{1000 * seconds:8.0f} ms")
    draw(dialogue, store, args.volume, args.picture)
    return 0


def converse(dialogue: Dialogue, max_new_tokens: int, options: dict[str, Any]) -> int:
    """Answer the lines of standard input, token by token; the scan is read for the first only."""
    from transformers import TextStreamer

    beams = options["num_beams"] > 1
    words = TextStreamer(dialogue.model.tokenizer, skip_prompt=True, skip_special_tokens=True)
    streamer = None if beams else words
    for question in lines():
        turn = dialogue.ask(question, max_new_tokens, streamer=streamer, **options)
        if beams:
            print(turn.answer)
        print(f"  {kept(turn)}", flush=True)
    return 0


def warn_of(known: dict | None, store: VolumeStore, volume: str, question: str | None) -> None:
    """Say on standard error how the scan and the question are unlike the export's training."""
    from photon.volume.sources import kind_of
    from photon.weights.trained_on import unlike_question, unlike_scan

    notes = unlike_scan(known, store.load_hu(volume)) if kind_of(volume) == "volume" else []
    notes += unlike_question(known, question) if question else []
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def ask_many(
    args: argparse.Namespace,
    model: PhotonModel,
    store: VolumeStore,
    known: dict | None,
    keep: float | int | None,
    options: dict[str, Any],
) -> int:
    """A JSON line for each volume and question; each volume is read once. 1 where one cannot be."""
    from photon.errors import InputError
    from photon.model.dialogue import Dialogue

    questions, failed = read_questions(Path(args.questions)), False
    for volume in volumes_of(args.volume):
        try:
            dialogue = Dialogue(model, [store.read(volume)], keep=keep, stop_repeats=True)
            warn_of(known, store, volume, " ".join(questions))
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            failed = True
            continue
        for question in questions:
            dialogue.forget()  # each question stands alone; the scan stays read
            turn = dialogue.ask(question, args.max_new_tokens, **options)
            told = {"volume": volume, "question": question, "answer": turn.answer}
            told["kept_tokens"] = turn.generation.kept_tokens[0]
            told["visual_tokens"] = turn.generation.visual_tokens[0]
            print(json.dumps(told, ensure_ascii=False), flush=True)
    return int(failed)


def read_questions(file: Path) -> list[str]:
    """The questions of a file: a line of text each, or JSON with a key `question`."""
    from photon.errors import InputError

    try:
        rows = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read ({error}). Check --questions.") from error
    found = []
    for number, row in enumerate(rows, start=1):
        text = row.strip()
        if text.startswith("{"):
            try:
                text = json.loads(text)["question"].strip()
            except (ValueError, KeyError, AttributeError) as error:
                raise InputError(f'{file}:{number}: give {{"question": "..."}} or text') from error
        found += [text] if text else []
    if not found:
        raise InputError(f"{file}: holds no question. Write one a line.")
    return found


def volumes_of(volume: str) -> list[str]:
    """The volume itself, or those below a folder that is no DICOM series."""
    from photon.volume.reader import find_sources

    if not Path(volume).is_dir():
        return [volume]
    return [str(path) for path in find_sources(volume)] or [volume]


def lines() -> Iterator[str]:
    """Lines of standard input that are not empty up to `exit`; a terminal is asked with a sign."""
    ask = sys.stdin.isatty()
    while True:
        if ask:
            print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line or line.strip().lower() in ("exit", "quit"):
            return
        if line.strip():
            yield line.strip()


def kept(turn: Turn) -> str:
    """How much of the volume the answer needed."""
    count, visual = turn.generation.kept_tokens[0], turn.generation.visual_tokens[0]
    cut = "; stopped, it repeated itself" if turn.stopped else ""
    return f"kept {count} of {visual} visual tokens ({count / visual:.0%}){cut}"


def draw(dialogue: Dialogue, store: VolumeStore, volume: str, picture: str | None) -> None:
    """A picture of what the last turn kept; of images and videos there is none."""
    from photon.study.kept import draw_kept
    from photon.volume.sources import kind_of

    if kind_of(volume) != "volume":
        return  # the picture shows slices
    turn, path = dialogue.turns[-1], Path(picture or f"{stem(volume)}_kept.png")
    share = kept(turn).split(" visual")[0]
    title = f"{turn.question}\n{turn.answer or '(no answer)'}   {share} tokens"
    draw_kept(path, dialogue.model, turn.generation, 0, store.load_hu(volume), title)
    print(f"picture: {path}")


def choice(args: argparse.Namespace) -> dict[str, Any]:
    """How tokens are chosen, as `generate` takes it. Raises InputError on flags at odds."""
    from photon.errors import InputError
    from photon.model.decoding import Sampling

    drawn = {
        k: getattr(args, k) for k in ("top_p", "top_k", "seed") if getattr(args, k) is not None
    }
    if args.num_beams < 1:
        raise InputError(f"--num-beams {args.num_beams}: give 1 (greedy) or more")
    if args.max_new_tokens < 1:
        raise InputError(f"--max-new-tokens {args.max_new_tokens}: give 1 or more")
    if args.temperature is None:
        if drawn:
            flag = next(iter(drawn)).replace("_", "-")
            raise InputError(f"--{flag} is about draws: give --temperature as well (1 is plain)")
        return {"num_beams": args.num_beams}
    if args.num_beams > 1:
        raise InputError("--num-beams searches and --temperature draws: give one of them")
    try:
        return {"num_beams": 1, "sampling": Sampling(args.temperature, **drawn)}
    except ValueError as error:
        raise InputError(f"--{str(error).replace('_', '-').replace('=', ' ', 1)}") from error


def budget(value: float | None) -> float | int | None:
    """--keep as the pruner takes it: a share up to 1, whole numbers above as a count."""
    from photon.errors import InputError

    if value is None or 0 < value <= 1:
        return value
    if 1 < value < float("inf") and value == int(value):
        return int(value)
    raise InputError(f"--keep {value}: give a share in (0, 1] or a whole number of tokens")


def stem(volume: str) -> str:
    """Name of a volume without folder and suffix."""
    return Path(volume).name.removesuffix(".gz").removesuffix(".nii") or "volume"
