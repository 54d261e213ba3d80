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

from gatefold.config import EncoderSettings
from gatefold.encoder.losses import Loss, genre_contrast, loss_for

ROOT = Path(__file__).parents[2]
LOSSES = ("infonce", "triplet", "sigmoid", "genre")
GENRES = [0, 1, -1, 1, 0, 0, -1, 2]
WORKER = """
import json, sys
import torch, torch.distributed as dist
from gatefold.config import EncoderSettings
from gatefold.encoder.losses import genre_contrast, loss_for
rank, store, losses = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
*sides, genres = json.load(sys.stdin)
song, cover, learned = (torch.tensor(side, dtype=torch.float64) for side in sides)
genres = torch.tensor(genres[4 * rank:4 * rank + 4])
result = []
for loss in losses:
    given = [side[4 * rank:4 * rank + 4].clone() for side in (song, cover)] + list(learned.clone())
    for tensor in given:
        tensor.requires_grad_()
    by_genre = lambda song, cover, *_: genre_contrast(song, cover, genres, 0.1)
    value = (by_genre if loss == "genre" else loss_for(EncoderSettings(loss=loss)))(*given)
    value.backward()
    result.append([value.item(), *([] if t.grad is None else t.grad.tolist() for t in given)])
print(json.dumps(result))
dist.destroy_process_group()
"""

PIECES = """
import sys
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from gatefold.config import EncoderSettings, Settings
from pipelines.training import encoder_trainer
from tests.factories import COVER
from tests.sounds import AUDIO
encoder_trainer.agreed_dtype = lambda device: None  # bfloat16 rounds by the shape
rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
draw = torch.Generator().manual_seed(rank)
song = torch.randn(5, AUDIO.n_mels, AUDIO.frames, generator=draw)
cover = torch.rand(5, 3, COVER.size, COVER.size, generator=draw) * 2 - 1
slopes = []
for at_once in (None, 2):
    encoder = EncoderSettings(embed_dim=8, width=16, dropout=0.0, loss="sigmoid", pairs_at_once=at_once)
    settings = Settings(audio=AUDIO, cover=COVER, encoder=encoder)
    trainer = encoder_trainer.EncoderTrainer(settings, steps=1, rank=rank, prepare=DistributedDataParallel)
    loss = trainer._backward(0, song, cover, torch.zeros(5, dtype=torch.long))
    slopes.append([torch.tensor(loss), *(weight.grad for weight in trainer._module.parameters())])
torch.testing.assert_close(*slopes, rtol=1e-3, atol=1e-5)
print(sum(float(slope.abs().sum()) for slope in slopes[1]))
dist.destroy_process_group()
"""


def loss_named(name: str) -> Loss:
    """Of the joined batch."""
    if name == "genre":
        return lambda song, cover, *_: genre_contrast(song, cover, torch.tensor(GENRES), 0.1)
    return loss_for(EncoderSettings.model_validate({"loss": name}))


def test_two_workers_learn_what_one_would_from_both_their_batches(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    song, cover = fn.normalize(torch.randn(2, 8, 5, generator=draw, dtype=torch.float64), dim=-1)
    learned = torch.tensor([10.0, -3.0], dtype=torch.float64)  # logit scale and bias
    command = [sys.executable, "-W", "ignore", "-c", WORKER]
    workers = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store"), *LOSSES], stdin=PIPE, stdout=PIPE, text=True)
        for rank in (0, 1)
    ]
    given = json.dumps([song.tolist(), cover.tolist(), learned.tolist(), GENRES])
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda worker: json.loads(worker.communicate(given, timeout=120)[0]), workers))
    for number, loss in enumerate(LOSSES):
        alone = [side.detach().clone().requires_grad_() for side in (song, cover, *learned)]
        value = loss_named(loss)(*alone)
        value.backward()  # type: ignore[no-untyped-call]
        halves = [answer[number] for answer in answers]
        assert [half[0] for half in halves] == pytest.approx([value.item()] * 2)
        for place, side in enumerate(alone[:2], 1):
            together = torch.tensor([row for half in halves for row in half[place]], dtype=torch.float64)
            assert torch.allclose(together / 2, side.grad, atol=1e-12)  # DDP takes the mean over workers
        for place, parameter in enumerate(alone[2:], 3):
            for half in halves:
                assert half[place] == ([] if parameter.grad is None else pytest.approx(parameter.grad.item()))


def test_two_workers_in_pieces_join_the_gradients_of_two_whole_batches(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", PIECES]
    workers = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "store")], cwd=ROOT, stdout=PIPE, stderr=PIPE, text=True)
        for rank in (0, 1)
    ]
    with ThreadPoolExecutor() as pool:
        outputs = list(pool.map(lambda worker: worker.communicate(timeout=120), workers))
    assert [worker.returncode for worker in workers] == [0, 0], [errors for _, errors in outputs]
    first, second = (float(output) for output, _ in outputs)
    assert first == pytest.approx(second)
    assert first > 1
