"""Selection rules against slow loops in float64, and packs of volumes against one at a time."""

import math

import pytest
import torch
import torch.nn.functional as F

from photon.packing import Segments
from photon.pruning.baselines.cdpruner import determinant_order
from photon.pruning.baselines.dart import dart
from photon.pruning.baselines.divprune import farthest_tokens
from photon.pruning.baselines.hiprune import grid_neighbours
from photon.pruning.baselines.interslice import changing_tokens, slab_differences
from photon.pruning.baselines.medpruner import medpruner
from photon.pruning.baselines.pooling import pool
from photon.pruning.baselines.prumerge import absorb_likes, prumerge, prumerge_tokens, rest_of
from photon.pruning.baselines.visionzip import exact_counts, visionzip
from photon.pruning.baselines.vscan import vscan

GRIDS = [(3, 4, 5), (2, 6, 4), (5, 3, 3)]
VOLUMES = Segments([math.prod(grid) for grid in GRIDS])


def places():
    """(V, 4) of the three volumes, each an item of its own."""
    parts = [torch.cartesian_prod(*(torch.arange(n) for n in grid)) for grid in GRIDS]
    return torch.cat([F.pad(part, (1, 0)) for part in parts])


def drawn(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(VOLUMES.total, *shape, generator=generator, dtype=torch.float64)


def one(rows):
    """The segments of a single volume."""
    return Segments([rows.stop - rows.start])


def test_divprune_equals_a_loop():
    tokens, counts = drawn(6), torch.tensor([9, 1, 20])
    kept = farthest_tokens(tokens, counts, VOLUMES)
    for rows, count in zip(VOLUMES, counts.tolist(), strict=True):
        x = tokens[rows]
        far = lambda i, j, x=x: 1 - float(F.cosine_similarity(x[i], x[j], dim=0))  # noqa: E731
        n = len(x)
        chosen = [max(range(n), key=lambda i: min(far(i, j) for j in range(n) if j != i))]
        while len(chosen) < count:
            rest = [i for i in range(n) if i not in chosen]
            chosen.append(max(rest, key=lambda i: min(far(i, j) for j in chosen)))
        assert kept[rows].nonzero().squeeze(1).tolist() == sorted(chosen)


def test_divprune_keeps_its_count_among_equal_tokens():
    """The release returns token 0 again and again here."""
    tokens = torch.eye(4, dtype=torch.float64).repeat_interleave(3, 0)
    kept = farthest_tokens(tokens, torch.tensor([9]), Segments([12]))
    assert int(kept.sum()) == 9
    assert set(kept.nonzero().squeeze(1).div(3, rounding_mode="floor").tolist()) == {0, 1, 2, 3}


def test_cdpruner_adds_what_enlarges_the_determinant_most():
    x = F.normalize(drawn(12)[:20], dim=-1)
    weights = drawn(seed=1)[:40].abs().add(0.1).reshape(2, 20)
    order = determinant_order(x, weights, 6)
    for r, got in zip(weights, order.tolist(), strict=True):
        kernel = r[:, None] * (x @ x.T) * r
        chosen = []
        for _ in range(6):
            rest = [i for i in range(20) if i not in chosen]
            chosen.append(max(rest, key=lambda i: float(torch.det(kernel[[*chosen, i]][:, [*chosen, i]]))))  # fmt: skip  # noqa: B023, E501
        assert got == chosen


def test_cdpruner_never_repeats_a_token():
    """More tokens than the kernel's rank: the release repeats some."""
    x = F.normalize(drawn(5)[:60], dim=-1)
    order = determinant_order(x, torch.ones(1, 60, dtype=torch.float64), 40)
    assert len(set(order[0].tolist())) == 40


def test_dart_equals_a_loop():
    hidden, keys = drawn(6), drawn(2, 3, seed=1)
    text, asked = Segments([4, 2, 6]), [0, 2, 2]
    words, word_keys = drawn(6, seed=2)[: text.total], drawn(2, 3, seed=3)[: text.total]
    counts = [17, 3, 30]
    kept = dart(hidden, keys, words, word_keys, counts, VOLUMES, text, asked, pivots=3)
    visual = list(VOLUMES)
    parts = kept.split([VOLUMES.lengths[v] for v in asked])
    for v, mine, count, mask in zip(asked, text, counts, parts, strict=True):
        x, k = hidden[visual[v]], keys[visual[v]].flatten(1).abs().sum(1)
        n = word_keys[mine].flatten(1).abs().sum(1)
        chosen = sorted(range(len(x)), key=lambda i: -float(k[i]))[: min(3, count)]  # noqa: B023
        pivots = [x[i] for i in chosen]
        pivots += [words[mine][i] for i in sorted(range(len(n)), key=lambda i: -float(n[i]))[:3]]  # noqa: B023
        left = count - len(chosen)
        for place, pivot in enumerate(pivots):
            share = left // (len(pivots) - place)
            rest = [i for i in range(len(x)) if i not in chosen]
            rest.sort(key=lambda i: float(F.cosine_similarity(x[i], pivot, dim=0)))  # noqa: B023
            chosen += rest[:share]
            left -= share
        assert mask.nonzero().squeeze(1).tolist() == sorted(chosen) and len(chosen) == count


def test_visionzip_equals_a_loop():
    score, keys, tokens = drawn().abs(), drawn(4, seed=1), drawn(5, seed=2)
    wanted = [24, 5, 2]
    counts = [exact_counts(n, k) for n, k in zip(VOLUMES.lengths, wanted, strict=True)]
    found = visionzip(score, keys, counts, VOLUMES)
    assert VOLUMES.sum(found.keep.long()).tolist() == wanted
    merged = found.merge(tokens)
    for rows, (n, m) in zip(VOLUMES, counts, strict=True):
        s, k, x = score[rows], keys[rows], tokens[rows]
        best = sorted(range(len(s)), key=lambda i: -float(s[i]))[:n]  # noqa: B023
        rest = [i for i in range(len(s)) if i not in best]
        anchors = rest[:: len(rest) // m][:m]
        absorbed = {a: [] for a in anchors}
        for i in rest:
            if i not in anchors:
                near = max(anchors, key=lambda a: float(F.cosine_similarity(k[i], k[a], dim=0)))  # noqa: B023
                absorbed[near].append(x[i])
        assert found.keep[rows].nonzero().squeeze(1).tolist() == sorted(best + anchors)
        for i in best:
            assert torch.equal(merged[rows][i], x[i])
        for a, others in absorbed.items():
            value = x[a] + (sum(others) / len(others) if others else 0)
            torch.testing.assert_close(merged[rows][a], value)


@pytest.mark.parametrize("plus", [False, True])
def test_prumerge_keeps_its_budget_and_stands_for_the_rest(plus):
    attention = VOLUMES.pad(drawn().square(), 0).div(40)
    attention = VOLUMES.unpad(attention)
    keys, tokens = drawn(4, seed=1), drawn(5, seed=2)
    wanted = [20, 5, 45]
    keep = prumerge_tokens(attention, torch.tensor(wanted), VOLUMES, plus)
    found = prumerge(attention, keys, keep, VOLUMES)
    assert VOLUMES.sum(found.keep.long()).tolist() == wanted
    merged = found.merge(tokens)
    for rows in VOLUMES:
        mine, a, x = keep[rows], attention[rows], tokens[rows]
        expected = absorb_likes(a, keys[rows], mine)(x)
        torch.testing.assert_close(merged[rows][mine], expected[mine])
        if not bool(mine.all()):
            place = (found.keep[rows] & ~mine).nonzero()
            rest = rest_of(a, mine)
            assert place.tolist() == [[int(rest.target[0])]]
            total = (x[~mine] * a[~mine, None]).sum(0)
            torch.testing.assert_close(merged[rows][place[0, 0]], total)


def test_neighbours_do_not_wrap_around():
    where = places()
    found = grid_neighbours(where, VOLUMES, depth=True)
    cell = {(v, *place): i for i, (v, place) in enumerate(zip(VOLUMES.ids.tolist(), where.tolist(), strict=True))}  # fmt: skip  # noqa: E501
    steps = [(0, 0, -1), (0, 0, 1), (0, -1, 0), (0, 1, 0), (-1, 0, 0), (1, 0, 0)]
    for (v, item, *at), i in cell.items():
        expected = [
            cell.get((v, item, *(a + b for a, b in zip(at, step, strict=True))), i)
            for step in steps
        ]
        assert found[i].tolist() == expected


def test_interslice_looks_at_the_slab_before_even_where_air_is_left_out():
    present = torch.ones(VOLUMES.total, dtype=torch.bool)
    present[[3, 27, 70]] = False
    pixels, where = drawn(8)[present], places()[present]
    volumes = Segments([int(present[rows].sum()) for rows in VOLUMES])
    found = slab_differences(pixels, where, volumes)
    cell = {(v, *p): i for i, (v, p) in enumerate(zip(volumes.ids.tolist(), where.tolist(), strict=True))}  # fmt: skip  # noqa: E501
    for (v, item, z, y, x), i in cell.items():
        before = cell.get((v, item, z - 1, y, x))
        expected = math.inf if before is None else float((pixels[i] - pixels[before]).abs().mean())
        assert float(found[i]) == pytest.approx(expected)
    counts = torch.tensor([25, 30, 12])
    keep = changing_tokens(found, where, volumes, counts)
    assert volumes.sum(keep.long()).tolist() == counts.tolist()


@pytest.mark.parametrize("wanted", [(1, 1, 1), (7, 12, 44), (60, 48, 45)])
def test_pooling_parts_the_grid_into_boxes(wanted):
    tokens = drawn(3)
    found = pool(places(), list(wanted), VOLUMES)
    assert VOLUMES.sum(found.keep.long()).tolist() == list(wanted)
    merge, merged = found.merge, found.merge(tokens)
    assert sorted(merge.source.tolist()) == list(range(VOLUMES.total))  # every token, once
    for target in found.keep.nonzero().squeeze(1).tolist():
        inside = merge.source[merge.target == target]
        torch.testing.assert_close(merged[target], tokens[inside].mean(0))
        assert target in inside.tolist()
    if wanted == (60, 48, 45):
        assert torch.equal(merged, tokens)


def test_pooling_by_two_is_average_pooling():
    tokens, volumes = torch.randn(4 * 4 * 4, 3, dtype=torch.float64), Segments([64])
    where = F.pad(torch.cartesian_prod(*[torch.arange(4)] * 3), (1, 0))
    found = pool(where, [8], volumes)
    expected = F.avg_pool3d(tokens.T.reshape(1, 3, 4, 4, 4), 2).reshape(3, 8).T
    got = found.merge(tokens)[found.keep]
    torch.testing.assert_close(got, expected)


def test_a_pack_chooses_what_each_volume_alone_does():
    score, last, tokens = drawn().abs(), drawn(seed=1).abs(), drawn(5, seed=2)
    counts = torch.tensor([13, 9, 30])
    together = vscan(score, last, tokens, places(), counts, VOLUMES)
    merged = together.merge(tokens)
    for i, rows in enumerate(VOLUMES):
        args = (score[rows], last[rows], tokens[rows], places()[rows], counts[i : i + 1])
        alone = vscan(*args, one(rows))
        assert torch.equal(alone.keep, together.keep[rows])
        got = merged[rows][alone.keep]
        torch.testing.assert_close(got, alone.merge(tokens[rows])[alone.keep])


def test_medpruner_equals_a_loop():
    """Slabs against the last that stayed, then each slab's nucleus; a budget is the p that fits."""
    where, pixels, attention = places(), drawn(8).abs(), drawn(seed=1).abs()
    for rows, depth in zip(VOLUMES, (3, 2, 5), strict=True):  # every other slab repeats the first
        slabs = pixels[rows].unflatten(0, (depth, -1))
        slabs[1::2] = slabs[0] + 0.01
    expected = torch.zeros(VOLUMES.total, dtype=torch.bool)
    for rows in VOLUMES:
        anchor = None
        for z in range(int(where[rows][:, 1].max()) + 1):
            mine = (where[rows][:, 1] == z).nonzero()[:, 0] + rows.start
            if anchor is not None and (pixels[mine] - pixels[anchor]).abs().mean() <= 0.05:
                continue
            anchor, used = mine, 0.0
            for i in sorted(mine.tolist(), key=lambda i: -float(attention[i])):
                if used / float(attention[mine].sum()) < 0.6:
                    expected[i] = True
                used += float(attention[i])
    got = medpruner(attention, pixels, where, VOLUMES, None, 0.05, 0.6)
    assert torch.equal(got, expected)
    counts = VOLUMES.sum(expected.long())
    assert counts.tolist() != VOLUMES.lengths
    budget = medpruner(attention, pixels, where, VOLUMES, counts - 2, 0.05, 0.6)
    assert VOLUMES.sum(budget.long()).tolist() == (counts - 2).tolist()
    more = medpruner(attention, pixels, where, VOLUMES, counts + 9, 0.05, 0.6)
    assert VOLUMES.sum(more.long()).tolist() == (counts + 9).tolist()
