import copy
from functools import partial

import torch
from torch import nn

from tasks.base import parameter_groups
from tasks.optimizer import muon_with_adamw


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(7, 6)
        self.block = nn.Sequential(nn.Linear(6, 8), nn.RMSNorm(8), nn.Linear(8, 6))
        self.patch = nn.Conv1d(1, 6, 1, bias=False)
        self.lm_head = nn.Linear(6, 7, bias=False)

    def forward(self, x):
        hidden = self.block(self.embed(x))
        return self.lm_head(hidden + self.patch.weight.flatten())


def loss(net):
    return net(torch.arange(7)).square().mean() + net(torch.arange(7)).cos().mean()


def test_groups_tell_hidden_matrices_from_the_rest():
    net = Net()
    groups = parameter_groups([(net.block[0], 0.5), (net, None)], 0.1)
    hidden = {id(p) for group in groups if group["hidden"] for p in group["params"]}
    assert hidden == {id(net.block[0].weight), id(net.block[2].weight)}
    every = [id(p) for group in groups for p in group["params"]]
    assert sorted(every) == sorted(id(p) for p in net.parameters())
    for group in groups:
        assert all((p.dim() > 1) == (group["weight_decay"] > 0) for p in group["params"])
    assert {group.get("lr") for group in groups} == {0.5, None}


def test_together_steps_like_muon_and_adamw_apart():
    one, two = Net(), Net()
    together = muon_with_adamw(parameter_groups([(one, None)], 0.05), lr=0.02)
    hidden = [two.block[0].weight, two.block[2].weight]
    rest = [p for p in two.parameters() if all(p is not h for h in hidden)]
    apart = [
        torch.optim.Muon(hidden, lr=0.02, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([p for p in rest if p.dim() > 1], 0.02, (0.9, 0.95), weight_decay=0.05),
        torch.optim.AdamW([p for p in rest if p.dim() == 1], 0.02, (0.9, 0.95), weight_decay=0),
    ]
    schedule = torch.optim.lr_scheduler.LambdaLR(together, lambda step: 1 / (step + 1))
    for step in range(4):
        for optimizer in apart:
            for group in optimizer.param_groups:
                group["lr"] = 0.02 / (step + 1)
            optimizer.zero_grad()
        together.zero_grad()
        loss(one).backward()
        loss(two).backward()
        together.step()
        schedule.step()
        for optimizer in apart:
            optimizer.step()
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_restored_optimizer_goes_on_bit_for_bit():
    make = partial(muon_with_adamw, lr=0.02)
    net = Net()
    optimizer = make(parameter_groups([(net, None)], 0.05))

    def train(net, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            loss(net).backward()
            optimizer.step()

    train(net, optimizer, 3)
    saved, state = copy.deepcopy(net), copy.deepcopy(optimizer.state_dict())
    train(net, optimizer, 3)
    restored = make(parameter_groups([(saved, None)], 0.05))
    restored.load_state_dict(state)
    assert all(
        any(group is mine for part in restored.parts for mine in part.param_groups)
        for group in restored.param_groups
    )
    train(saved, restored, 3)
    for a, b in zip(net.parameters(), saved.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
