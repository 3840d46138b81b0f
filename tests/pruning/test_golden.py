"""Selection rules against what the authors' released functions gave (tests/data/golden)."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from photon.packing import Segments
from photon.pruning.base import LastRow
from photon.pruning.baselines.cdpruner import determinant_order, relevance, relevant_and_diverse
from photon.pruning.baselines.divprune import farthest_tokens, isolation
from photon.pruning.baselines.fastv import last_row_attention
from photon.pruning.baselines.hiprune import hiprune
from photon.pruning.baselines.interslice import changing_tokens, slab_differences
from photon.pruning.baselines.prumerge import absorb_likes, outlier_counts, prumerge_tokens, rest_of
from photon.pruning.baselines.sparsevlm import raters
from photon.pruning.baselines.visionzip import official_counts, visionzip
from photon.pruning.baselines.vscan import local_tokens, vscan, window_ids
from photon.pruning.encoded import top

ROOT = Path(__file__).resolve().parents[2]


def golden(name):
    """Cases of a file: all of them where ../shared/data lies, else the smallest ones, stored."""
    whole = ROOT.parent / "shared" / "data" / "golden" / f"{name}.npz"
    with np.load(whole if whole.exists() else ROOT / "tests/data/golden" / f"{name}.npz") as file:
        arrays = {key: wide(torch.from_numpy(file[key])) for key in file.files}
    cases: dict[str, dict] = {}
    for key, value in arrays.items():
        case, _, field = key.partition("_")
        cases.setdefault(case, {})[field] = value
    assert cases
    return [cases[case] for case in sorted(cases)]


def wide(array):
    """Indices as long: they are stored in 16 bits."""
    return array if array.is_floating_point() else array.long()


def places_of(*grids):
    """(V, 4) of volumes that are items of their own, in grid order."""
    parts = []
    for grid in grids:
        where = torch.cartesian_prod(*(torch.arange(int(n)) for n in grid))
        parts.append(torch.cat([torch.zeros(len(where), 1, dtype=torch.long), where], 1))
    return torch.cat(parts)


def indices(mask):
    return mask.nonzero().squeeze(1).tolist()


def split(mask, volumes):
    return [indices(mask[rows]) for rows in volumes]


def packed(cases, *names):
    """The named arrays of all cases laid end to end, and their segments."""
    volumes = Segments([len(c[names[0]]) for c in cases])
    return volumes, *(torch.cat([c[name] for c in cases]) for name in names)


def groups(cases, *names):
    """Cases whose arrays have one width: these can be packed."""
    found: dict[tuple, list] = {}
    for case in cases:
        found.setdefault(tuple(case[name].shape[1:] for name in names), []).append(case)
    return list(found.values())


def test_divprune():
    for cases in groups(golden("divprune"), "features"):
        volumes, features = packed(cases, "features")
        counts = torch.tensor([len(c["kept"]) for c in cases])
        kept = split(farthest_tokens(features, counts, volumes), volumes)
        assert kept == [c["kept"].tolist() for c in cases]
        for case in cases:
            alone = Segments([len(case["features"])])
            unit = F.normalize(case["features"], dim=-1)[None]
            torch.testing.assert_close(
                isolation(unit, alone.valid)[0], case["nn_distance"], rtol=1e-4, atol=1e-5
            )
            for k in (1, 2, len(case["order"]) // 2):
                mask = farthest_tokens(case["features"], torch.tensor([k]), alone)
                assert indices(mask) == sorted(case["order"][:k].tolist())


def test_visionzip():
    for cases in groups(golden("visionzip_qwen"), "keys", "features"):
        volumes, score, keys, features = packed(cases, "score", "keys", "features")
        counts = [official_counts(len(c["score"]), round(float(c["budget"]), 3)) for c in cases]
        assert counts == [(len(c["dominant"]), len(c["contextual"])) for c in cases]
        found = visionzip(score, keys, counts, volumes)
        assert split(found.keep, volumes) == [c["kept"].tolist() for c in cases]
        merged = found.merge(features)[found.keep]
        torch.testing.assert_close(merged, torch.cat([c["out"] for c in cases]), **VALUES)


VALUES = {"rtol": 1e-4, "atol": 1e-5}


@pytest.mark.parametrize("official", [True, False])
def test_hiprune(official):
    """The released counts fall short in some cases; without its subtraction they are exact."""
    for case in golden("hiprune_qwen"):
        retain, alpha = (round(float(x), 3) for x in case["params"])
        volumes = Segments([len(case["deep_score"])])
        counts = torch.tensor([round(volumes.total * retain)])
        options = {"alpha": alpha, "official": official}
        scores = case["object_score"], case["deep_score"], places_of(case["grid"])
        found = hiprune(*scores, counts, volumes, **options)
        if official:
            assert indices(found.keep) == case["kept"].tolist()
            continue
        assert found.keep.sum() == counts
        # The released neighbours differ from the grid's at an edge only.
        width, near = int(case["grid"][2]), case["anchors"]
        inner = (near % width > 0) & (near % width < width - 1) & (near >= width)
        if bool((inner & (near < volumes.total - width)).all()):
            assert indices(found.keep) == case["kept_excluding"].tolist()


def test_hiprune_packs_volumes_of_several_widths():
    cases = golden("hiprune_qwen")
    counts = [max(len(c["kept_excluding"]), 7) for c in cases]
    scores = [(c["object_score"], c["deep_score"]) for c in cases]
    volumes = Segments([len(last) for _, last in scores])
    middle, last = (torch.cat(x) for x in zip(*scores, strict=True))
    grids = [c["grid"] for c in cases]
    together = hiprune(middle, last, places_of(*grids), torch.tensor(counts), volumes)
    alone = [
        hiprune(*two, places_of(grid), torch.tensor([n]), Segments([len(two[0])])).keep
        for two, grid, n in zip(scores, grids, counts, strict=True)
    ]
    assert torch.equal(together.keep, torch.cat(alone))


@pytest.mark.parametrize("name", ["prumerge", "prumerge_plus"])
def test_prumerge(name):
    for case in golden(name):
        attention, volumes = case["cls_attn"], Segments([len(case["cls_attn"])])
        kept = sorted(case["order"].tolist())
        outliers = int(outlier_counts(attention, volumes))
        if outliers == round(float(case["ratio"]) * volumes.total):
            keep = prumerge_tokens(attention, None, volumes, plus=name == "prumerge_plus")
        else:  # a fixed ratio: the released budget has no room for the token of the rest
            keep = top(attention, torch.tensor([len(kept)]), volumes)
        assert indices(keep) == kept
        keys, features = case["keys"][1:], case["features"]
        merged = absorb_likes(attention, keys, keep)(features)[case["order"]]
        torch.testing.assert_close(merged, case["merged"][:-1], **VALUES)
        rest = rest_of(attention, keep)
        torch.testing.assert_close(rest(features)[rest.target[0]], case["merged"][-1], **VALUES)


def test_cdpruner():
    for case in golden("cdpruner"):
        if "order" not in case:
            continue
        volumes, words = Segments([len(case["features"])]), Segments([len(case["text_embeds"])])
        r = relevance(case["image_embeds"], case["text_embeds"], volumes, words, [0])
        torch.testing.assert_close(r, case["relevance"], **VALUES)
        order = determinant_order(F.normalize(case["features"], dim=-1), r[None], int(case["T"]))
        assert order[0].tolist() == case["order"].tolist()


def test_cdpruner_answers_a_batch_as_one_at_a_time():
    """Two volumes, one of them asked twice; the release's batch changed two tokens here."""
    case = golden("cdpruner")[-1]
    n = case["features"].shape[1]
    volumes, words, asked = Segments([n, n]), Segments([1, 1, 1]), [0, 1, 1]
    texts = case["text_embeds"].expand(3, -1)
    r = relevance(case["image_embeds"].flatten(0, 1), texts, volumes, words, asked)
    counts = torch.tensor([16, 16, 5])
    keep = relevant_and_diverse(case["features"].flatten(0, 1), r, counts, volumes, asked)
    found = [indices(mask) for mask in keep.split(n)]
    assert found[:2] == case["kept_single"].tolist()
    assert len(found[2]) == 5 and set(found[2]) < set(found[1])
    assert case["kept_batched"].tolist() != case["kept_single"].tolist()


def test_fastv():
    for case in golden("fastv"):
        first, n = case["span"].tolist()
        score = case["attn_last_row"].mean(0)[first : first + n]
        torch.testing.assert_close(score, case["score"], **VALUES)
        count = round(n * (1 - round(float(case["params"][1]), 3)))
        mask = top(score, torch.tensor([count]), Segments([n]))
        assert indices(mask) == case["kept"].tolist()


def last_row(query, keys, first, n):
    """A `LastRow` of one question: query (N, H), keys (K, S, H), n visual tokens from `first`."""
    rows = torch.arange(keys.shape[1])
    visual = (rows >= first) & (rows < first + n)
    return LastRow(query[None], keys.transpose(0, 1), rows, Segments([len(rows)]), visual)


def test_vscan_inside_the_language_model():
    """Without rotary embedding, with fewer key-value heads than heads."""
    for case in golden("vscan_stage2"):
        first, n = case["span"].tolist()
        last = last_row(case["q_last"], case["k"], first, n)
        score = last_row_attention(last)[last.is_visual]
        torch.testing.assert_close(score, case["score"], **VALUES)
        count = torch.tensor([int(round(float(case["ratio"]), 3) * n)])
        assert indices(top(score, count, Segments([n]))) == case["kept"].tolist()


def test_pyramiddrop_at_inference():
    """The last prompt row; rows behind it, which are padding, are not among what it sees."""
    for case in golden("pyramiddrop"):
        if "spans" not in case or "labels" in case:
            continue
        for b, (first, n, kept) in enumerate(case["spans"].tolist()):
            seen = int(case["query_rows"][b, 0]) + 1
            last = last_row(case["q"][b, :, 0], case["k"][b, :, :seen], first, n)
            score = last_row_attention(last)[last.is_visual]
            torch.testing.assert_close(score, case["score"][b], **VALUES)
            mask = top(score, torch.tensor([kept]), Segments([n]))
            assert indices(mask) == case["kept"][b].tolist()


def test_sparsevlm():
    """Raters, and the three stages of the release; its clustering of dropped tokens is not ours."""
    (case,) = golden("sparsevlm")
    words = Segments([len(case["text_relevance"])])
    assert indices(raters(case["text_relevance"], words)) == case["raters"].tolist()
    for stage in ("s0", "s1", "s2"):
        score = case[f"{stage}_attn_rows"].mean(0)
        torch.testing.assert_close(score, case[f"{stage}_score"], **VALUES)
        count = torch.tensor([len(case[f"{stage}_kept"])])
        assert indices(top(score, count, Segments([len(score)]))) == case[f"{stage}_kept"].tolist()


def test_vscan_before_the_language_model():
    cases = golden("vscan_stage1")
    volumes, local, last, tokens = packed(cases, "local_score", "global_score", "features")
    places = places_of(*((1, *c["grid"].tolist()) for c in cases))
    counts = torch.tensor([len(c["kept"]) for c in cases])
    windows = window_ids(places, volumes)
    picks = local_tokens(local, windows, counts // 2, volumes)
    assert split(picks, volumes) == [c["kept_local"].tolist() for c in cases]
    found = vscan(local, last, tokens, places, counts, volumes)
    assert split(found.keep, volumes) == [c["kept"].tolist() for c in cases]
    merged = found.merge(tokens)[found.keep]
    torch.testing.assert_close(merged, torch.cat([c["merged"] for c in cases]), **VALUES)


def hulumed_items(case):
    """Pixels (V, P), places and segments of the volumes of a case; images and texts keep all."""
    start, tokens, parts, grids = 0, 0, [], []
    items = zip(case["grid"].tolist(), case["merge"].tolist(), case["is_video"], case["is_text"],
                strict=True)  # fmt: skip
    spans = []
    for (t, h, w), merge, video, text in items:
        n = t * h * w
        if bool(video):
            parts.append(case["pixels"][start : start + n].reshape(n // merge**2, -1))
            grids.append((t, h // merge, w // merge))
            spans.append(slice(tokens, tokens + n // merge**2))
        start += n
        tokens += 0 if bool(text) else n // merge**2
    return parts, grids, spans


def test_interslice():
    for case in golden("hulumed"):
        threshold = float(case["threshold"])
        for pixels, grid, span in zip(*hulumed_items(case), strict=True):
            volumes, places = Segments([len(pixels)]), places_of(grid)
            differences = slab_differences(pixels, places, volumes)
            for official, name in ((True, "mask"), (False, "mask_first_slice_kept")):
                keep = changing_tokens(
                    differences, places, volumes, threshold=threshold, official=official
                )
                assert torch.equal(keep.long(), case[name][span])
