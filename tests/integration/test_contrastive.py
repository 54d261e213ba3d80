"""The losses over the batches of two workers: two processes that reach each other through torch.distributed."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE

import pytest
import torch
from torch.nn import functional as fn

from gatefold.contrastive import info_nce, triplet

WORKER = """
import json, sys
import torch, torch.distributed as dist
from gatefold.contrastive import info_nce, triplet
rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
song, cover = (torch.tensor(side, dtype=torch.float64)[4 * rank:4 * rank + 4] for side in json.load(sys.stdin))
result = []
for loss in (lambda s, c: info_nce(s, c, torch.tensor(10.0)), lambda s, c: triplet(s, c, 0.2)):
    s, c = song.clone().requires_grad_(), cover.clone().requires_grad_()
    value = loss(s, c)
    value.backward()
    result.append([value.item(), s.grad.tolist(), c.grad.tolist()])
print(json.dumps(result))
dist.destroy_process_group()
"""


def test_two_workers_learn_what_one_would_from_both_their_batches(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    song, cover = fn.normalize(torch.randn(2, 8, 5, generator=draw, dtype=torch.float64), dim=-1)
    command = [sys.executable, "-W", "ignore", "-c", WORKER]
    workers = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], stdin=PIPE, stdout=PIPE, text=True)
        for rank in (0, 1)
    ]
    given = json.dumps([song.tolist(), cover.tolist()])
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda worker: json.loads(worker.communicate(given, timeout=120)[0]), workers))
    for number, loss in enumerate((lambda s, c: info_nce(s, c, torch.tensor(10.0)), lambda s, c: triplet(s, c, 0.2))):
        s, c = (side.detach().clone().requires_grad_() for side in (song, cover))
        value = loss(s, c)
        value.backward()
        halves = [answer[number] for answer in answers]
        assert [half[0] for half in halves] == pytest.approx([value.item()] * 2)
        for side, alone in ((1, s.grad), (2, c.grad)):
            together = torch.tensor([row for half in halves for row in half[side]], dtype=torch.float64)
            assert torch.allclose(together / 2, alone, atol=1e-12)  # DDP takes the mean over workers
