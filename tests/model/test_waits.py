"""How often the host waits for the device, counted on a CPU."""

import traceback

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from photon.batch.batch import DERIVED
from photon.losses import answer_loss, flip_loss
from photon.model.decoding import decode, likeliest
from photon.model.generate import begin, read_for
from tests.helpers import photon_model, random_batch

READS = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.is_nonzero")
HOST = ("layout", "on_host")  # of a batch, and `present`


class Waits(TorchDispatchMode):
    """Marks a model and a batch as the device's, and all that is made of them.

    A value of a marked tensor that the host asks for, or an outcome whose shape depends on one, is
    a wait; `.cpu()` and `.tolist()` are too, and what they give is not marked.
    """

    def __init__(self, monkeypatch, model, batch):
        super().__init__()
        self.found, self.marked = [], {}
        batch.__dict__["on_host"] = batch.on_host.clone()  # apart from what it is a copy of
        fields = [v for k, v in vars(batch).items() if k not in HOST]
        for tensor in [*model.parameters(), *(v for v in fields if isinstance(v, torch.Tensor))]:
            self.mark(tensor)
        plain = torch.Tensor.cpu, torch.Tensor.tolist

        def cpu(tensor):
            self.note(self.has(tensor))
            return torch.from_numpy(plain[0](tensor).detach().numpy().copy())

        def tolist(tensor):
            self.note(self.has(tensor))
            return plain[1](tensor)

        monkeypatch.setattr(torch.Tensor, "cpu", cpu)
        monkeypatch.setattr(torch.Tensor, "tolist", tolist)

    def note(self, wait):
        if wait:
            ours = [f for f in traceback.extract_stack() if "/photon/" in f.filename]
            self.found.append(f"{ours[-1].filename}:{ours[-1].lineno}" if ours else "here")

    def mark(self, tensor):
        storage = tensor.untyped_storage()
        self.marked[storage._cdata] = storage  # held, so that its number stays its own

    def has(self, tensor):
        return isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata in self.marked

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        inputs = tree_leaves((args, kwargs or {}))
        marked = any(self.has(x) for x in inputs)
        out = func(*args, **(kwargs or {}))
        if marked:
            name = str(func)
            by_mask = name.startswith("aten.index") and any(
                self.has(x) and x.dtype == torch.bool for x in tree_leaves(args[1:])
            )
            self.note(by_mask or name.startswith(READS))
            for x in tree_leaves(out):
                if isinstance(x, torch.Tensor):
                    self.mark(x)
        return out


CASES = [("hard", "union"), ("hard", "all"), ("soft", "union"), ("off", "union")]


@pytest.mark.parametrize("stage, tail", [*CASES, ("hard", "question")])
def test_a_training_step_waits_for_what_is_kept(monkeypatch, stage, tail):
    """The forward pass with a flipped one, and the backward pass."""
    model = photon_model(layer=0.5, tail=tail, direction="gate")
    batch, _, _ = random_batch()
    flip = torch.tensor([True, False, False, True, False, False]) if stage == "hard" else None
    with Waits(monkeypatch, model, batch) as waits:
        out = model(batch, stage, flip=flip)
        loss = answer_loss(out.answers.logits, out.answers.targets, out.answers.questions).mean()
        if flip is not None:
            other = out.flipped
            loss = loss + flip_loss(other.logits, other.targets, other.questions).mean()
        loss.backward()
    wanted = {"off": 0, "soft": 0, "hard": 2}[stage]  # what is kept, and what is when flipped
    assert len(waits.found) == wanted, waits.found


@pytest.mark.parametrize("tail", ["question", "union", "all"])
def test_a_decoded_token_waits_once(monkeypatch, tail):
    """For the tokens, of which some end."""
    model = photon_model(layer=0.5, tail=tail, direction="gate").eval()
    batch, _, _ = random_batch(n_answer=None)
    decoding, _ = begin(model, read_for(model, batch))
    steps = []

    def choose(logits, active):
        steps.append(len(active))
        return likeliest(logits, active).index_fill(0, torch.tensor(0), 7 if len(steps) == 2 else 8)

    with Waits(monkeypatch, model, batch) as waits:
        for tensor in (decoding.logits, decoding.positions):
            waits.mark(tensor)
        decode(decoding, choose, 7, 5)
    assert len(steps) == 5 > len(set(steps)) and len(waits.found) == len(steps), waits.found


def test_the_count_sees_what_it_is_there_for(monkeypatch):
    model = photon_model(layer=0.5)
    batch, _, _ = random_batch()
    assert {"layout", "supervised_rows"} <= set(DERIVED) & set(vars(batch))
    with Waits(monkeypatch, model, batch) as waits:
        ids = batch.suffix_ids + 1
        for wait in (
            lambda: int(ids[0]),
            lambda: bool((ids > 3).any()),
            lambda: ids[ids > 3],
            lambda: (ids > 3).nonzero(),
            lambda: ids.tolist(),
            lambda: ids.cpu(),
        ):
            before = len(waits.found)
            wait()
            assert len(waits.found) == before + 1
        torch.arange(3)[torch.ones(3).bool()].tolist(), ids.cpu().tolist()
    assert len(waits.found) == 7
