"""Batches of images, videos and volumes written by hand, and the stock classes' answers to them."""

import torch

from photon.batch.batch import IGNORE, VolumeBatch
from photon.batch.positions import prefix_positions, text_positions
from photon.packing import Segments
from tests.helpers import IMAGE, START, VIDEO, VOCAB

END = 7
# Parts of an item in the order of its prefix: a number of text rows, or what is seen, in patches.
# The last of the text is the vision start, by which stock beam search counts what is seen.
# A Qwen3-VL video is one grid a frame with text between; what is deeper is a volume.
ITEMS = {
    "image": [3, ("image", (1, 4, 6)), 2],
    "video": [2, ("video", (3, 4, 4)), 1],
    "frames": [2, *[("video", (1, 6, 4)), 2] * 3],
    "images": [1, ("image", (1, 4, 4)), 1, ("image", (1, 8, 6)), 3],
    "volume": [4, ("video", (6, 6, 10)), 1],
    "image and volume": [2, ("image", (1, 6, 6)), 1, ("video", (3, 4, 6)), 2],
}
NAMES = list(ITEMS)


def visual_batch(names, stride=4, positions="trained", dtype=torch.float64, answered=True, seed=0):
    """Two questions about each of the named items, in one batch; the last rows are supervised."""
    generator = torch.Generator().manual_seed(seed)

    def words(n):
        return torch.randint(8, VOCAB, (n,), generator=generator)

    ids, suffixes, at, suffix_at, counts, grids, targets, instruction = [[] for _ in range(8)]
    for name in names:
        parts = ITEMS[name]
        seen = [part for part in parts if not isinstance(part, int)]
        grids.append(tuple(grid for _, grid in seen))
        merged = [p if isinstance(p, int) else _tokens(p[1]) for p in parts]
        where, resume = prefix_positions(merged, [stride] * len(merged), positions)
        at.append(where)
        ids.append(torch.cat([_part_ids(part, words) for part in parts]))
        for n in (4, 6):
            suffixes.append(words(n))
            suffix_at.append(text_positions(resume, n))
            target = torch.full((n,), IGNORE)
            target[-3:] = words(3) if answered else IGNORE
            targets.append(target)
            instruction.append(torch.arange(n) < n - 2)
    counts = sum(t * h * w for group in grids for t, h, w in group)
    all_ids = torch.cat(ids)
    visual = [int(((i == IMAGE) | (i == VIDEO)).sum()) for i in ids]
    return VolumeBatch(
        patches=torch.rand(counts, 8, generator=generator, dtype=dtype),
        grids=grids,
        prefix_ids=all_ids,
        prefix_positions=torch.cat(at, 1),
        visual=(all_ids == IMAGE) | (all_ids == VIDEO),
        present=[torch.ones(int(n), dtype=torch.bool) for n in visual],
        visual_lengths=visual,
        prefixes=Segments([len(i) for i in ids]),
        suffix_ids=torch.cat(suffixes),
        suffix_positions=torch.cat(suffix_at, 1),
        instruction=torch.cat(instruction),
        targets=torch.cat(targets),
        suffixes=Segments([len(s) for s in suffixes]),
        volume_of=[v for v in range(len(names)) for _ in range(2)],
    )


def _tokens(grid):
    return (grid[0], grid[1] // 2, grid[2] // 2)


def _part_ids(part, words):
    if isinstance(part, int):
        return torch.cat([words(part - 1), torch.tensor([START])])
    kind, (t, h, w) = part
    return torch.full((t * h * w // 4,), IMAGE if kind == "image" else VIDEO)


def stock_inputs(batch, names, question, positions="ours"):
    """Keyword arguments of the stock classes for one question alone.

    positions: `ours` hands over the batch's own, `stock` lets the stock class make them.
    """
    item = batch.volume_of[question]
    sizes = [sum(t * h * w for t, h, w in group) for group in batch.grids]
    rows = batch.patches.split(sizes)[item]
    seen = [part for part in ITEMS[names[item]] if not isinstance(part, int)]
    pieces = rows.split([t * h * w for _, (t, h, w) in seen])
    prefix, suffix = list(batch.prefixes)[item], list(batch.suffixes)[question]
    ids = torch.cat([batch.prefix_ids[prefix], batch.suffix_ids[suffix]])[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for kind, pixels in (("image", "pixel_values"), ("video", "pixel_values_videos")):
        which = [i for i, (one, _) in enumerate(seen) if one == kind]
        if which:
            inputs[pixels] = torch.cat([pieces[i] for i in which])
            inputs[f"{kind}_grid_thw"] = torch.tensor([seen[i][1] for i in which])
    if positions == "stock":
        inputs["mm_token_type_ids"] = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
    else:
        where = [batch.prefix_positions[:, prefix], batch.suffix_positions[:, suffix]]
        text = torch.arange(ids.shape[1]).expand(1, 1, -1)
        inputs["position_ids"] = torch.cat([text, torch.cat(where, 1)[:, None]])
    return inputs


def stock_logits(backbone, batch, names, question, positions="ours"):
    """The stock class's logits (A, vocabulary) of one question's supervised rows."""
    suffix = list(batch.suffixes)[question]
    inputs = stock_inputs(batch, names, question, positions)
    logits = backbone(**inputs, use_cache=False).logits[0, -len(batch.suffix_ids[suffix]) :]
    return logits[batch.targets[suffix] != IGNORE]


def stock_tokens(backbone, batch, names, question, n, end=END, **options):
    """Tokens of the stock `generate`, greedy unless `options` say otherwise, without the end."""
    inputs = stock_inputs(batch, names, question)
    ends = {"eos_token_id": end, "pad_token_id": end}
    out = backbone.generate(**inputs, max_new_tokens=n, do_sample=False, **ends, **options)
    tokens = out[0, inputs["input_ids"].shape[1] :].tolist()
    return tokens[: tokens.index(end)] if end in tokens else tokens
