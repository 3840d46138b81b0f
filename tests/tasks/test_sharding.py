"""FSDP2 around our loops, in float64: same answers, same gradients, whole weights back."""

import os
import subprocess
import sys

RANKS = """
import os
import sys
from datetime import timedelta
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from photon.losses import answer_loss
from tasks.sharding import shard, whole_state
from tests.helpers import photon_model, random_batch

folder = sys.argv[1]
torch.set_num_threads(1)
child = os.fork()  # one import for both
rank = int(child > 0)
meet = f"file://{folder}/meet"
patience = timedelta(seconds=60)  # where one fails, the other must not wait for ever
dist.init_process_group("gloo", meet, timeout=patience, rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
batches = [random_batch(seed)[0] for seed in (1, 2)]


def loss(model, batch, stage):
    flip = torch.arange(len(batch.suffixes)) == 0 if stage == "hard" else None
    output = model(batch, stage, flip=flip)
    parts = [a for a in (output.answers, output.flipped) if a is not None]
    return sum(answer_loss(a.logits, a.targets, a.questions).mean() for a in parts)


for family, stages in {"qwen2_5": ("off", "soft", "hard"), "qwen3": ("hard",)}.items():
    for stage in stages:
        whole, sharded = (photon_model(family=family, keep=3) for _ in range(2))
        before = {name: value.clone() for name, value in whole.state_dict().items()}
        shard(sharded, mesh, torch.float64)
        held = sum(p.to_local().numel() for p in sharded.parameters())
        assert held < 0.6 * sum(p.numel() for p in whole.parameters())
        expected = [loss(whole, batch, stage) for batch in batches]
        mine = loss(sharded, batches[rank], stage)
        torch.testing.assert_close(mine, expected[rank], rtol=1e-12, atol=1e-12)
        for one in expected:  # the surrogate does not scale with the loss, so the mean comes later
            one.backward()
        mine.backward()
        for (name, a), b in zip(
            sharded.named_parameters(), whole.parameters(), strict=True
        ):
            assert (a.grad is None) == (b.grad is None), (family, stage, name)
            if b.grad is not None:
                gradient = a.grad.full_tensor()
                assert torch.allclose(gradient, b.grad / 2, rtol=1e-9, atol=1e-12), (stage, name)
        state = whole_state(sharded)
        assert state.keys() == before.keys()
        assert all(torch.equal(value, before[name]) for name, value in state.items())
dist.destroy_process_group()
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_two_processes_have_the_gradients_of_one(tmp_path, root) -> None:
    """Each with a batch of its own: gradients are the mean, also where some layers run twice."""
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RANKS, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
