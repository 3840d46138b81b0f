"""One question about one volume: `python -m photon ask VOLUME "QUESTION"`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

DEFAULT_MODEL = "outputs/demo/export"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `ask`."""
    parser = subparsers.add_parser(
        "ask",
        help="ask a question about a volume and see which parts of it were kept",
        description="Prepare a volume, answer one question, and write a picture of the kept parts.",
    )
    parser.add_argument(
        "volume", help="a .nii or .nii.gz file, a folder with a DICOM series, an image or a video"
    )
    parser.add_argument("question", help="the question, in quotes")
    parser.add_argument("--earlier", metavar="SCAN", help="an earlier scan of the same patient")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="export folder (%(default)s)")
    parser.add_argument("--store", default="outputs/data/store", help="default: %(default)s")
    parser.add_argument(
        "--keep",
        type=float,
        metavar="BUDGET",
        help="a share in (0, 1] or a number of tokens, in place of the learned threshold",
    )
    parser.add_argument("--picture", metavar="PNG", help="default: VOLUME_kept.png in this folder")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="default: %(default)s")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Answer, print what it took, write the picture; returns 0. Raises InputError on bad input."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    from photon.analysis.kept import draw_kept
    from photon.errors import InputError
    from photon.images.kinds import kind_of
    from photon.model.checkpoints import load_export
    from photon.model.generate import generate
    from photon.questions.dataset import Collate, Item
    from photon.questions.record import Record
    from photon.volume.store import VolumeStore

    if not args.question.strip():
        raise InputError("the question is empty: write it in quotes after the volume")
    keep = budget(args.keep)
    disable_progress_bar()  # one answer, not a bar of weights
    clock = [time.perf_counter()]
    model = load_export(args.model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    clock.append(time.perf_counter())
    store = VolumeStore(args.store, model.preparation)
    scans = [args.volume] if args.earlier is None else [args.earlier, args.volume]
    volumes = tuple(store.read(scan) for scan in scans)
    clock.append(time.perf_counter())
    record = Record(id="ask", volume=args.volume, question=args.question.strip())
    batch = Collate(model.builder, model.tokenizer, False)([Item(volumes, [record])]).to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        end_id = model.tokenizer.convert_tokens_to_ids("<|im_end|>")
        generation = generate(model, batch, end_id, args.max_new_tokens, keep=keep)
    answer = model.tokenizer.decode(generation.tokens[0], skip_special_tokens=True).strip()
    kept, visual = generation.kept_tokens[0], generation.visual_tokens[0]

    print(answer)
    print(f"kept {kept} of {visual} visual tokens ({kept / visual:.0%})")
    stages = {"load model": clock[1] - clock[0], "read volume": clock[2] - clock[1]}
    for name, seconds in {**stages, **generation.seconds}.items():
        print(f"  {name:<16}{1000 * seconds:8.0f} ms")
    if kind_of(args.volume) != "volume":
        return 0  # the picture shows slices
    picture = Path(args.picture or f"{stem(args.volume)}_kept.png")
    told = f"{answer or '(no answer)'}   kept {kept} of {visual} tokens"
    title = f"{args.question.strip()}\n{told}"
    draw_kept(picture, model, generation, 0, store.load_hu(args.volume), title)
    print(f"picture: {picture}")
    return 0


def budget(value: float | None) -> float | int | None:
    """--keep as the pruner takes it: a share up to 1, whole numbers above as a count."""
    from photon.errors import InputError

    if value is None or 0 < value <= 1:
        return value
    if value > 1 and value == int(value):
        return int(value)
    raise InputError(f"--keep {value}: give a share in (0, 1] or a whole number of tokens")


def stem(volume: str) -> str:
    """Name of a volume without folder and suffix."""
    return Path(volume).name.removesuffix(".gz").removesuffix(".nii") or "volume"
