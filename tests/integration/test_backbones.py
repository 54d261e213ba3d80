"""Backbones in two workers: two processes that reach each other through torch.distributed."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE

from tests.checkpoints import COVER_KINDS, SONG_KINDS, write_checkpoint

AST = "audio-spectrogram-transformer"
PAIRS = [("clap", "clip", True), ("clap", "clip", False), (AST, "dinov2", False), ("clap", "convnextv2", False)]
"""Song side, cover side, and whether they are frozen."""
WORKER = """
import json, sys
from pathlib import Path
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from gatefold.encoder.backbones import build_cover_backbone, build_song_backbone, load_pretrained
from gatefold.encoder.losses import loss_for
from gatefold.encoder.towers import DualEncoder
from tests.checkpoints import BACKBONE_AUDIO
from tests.factories import AUDIO, COVER, ENCODER
rank, folder, pairs = int(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
draw, results = torch.Generator().manual_seed(rank), []
for song, cover, frozen in pairs:
    places = {"song_backbone": str(folder / song), "cover_backbone": str(folder / cover)}
    settings = ENCODER.model_copy(update={**places, "freeze_backbones": frozen})
    torch.manual_seed(rank)
    network = load_pretrained(folder / song, "song_backbone", song)
    seen = load_pretrained(folder / cover, "cover_backbone", cover)
    encoder = DualEncoder(
        settings, BACKBONE_AUDIO[song], COVER,
        song_backbone=build_song_backbone(*network, settings, BACKBONE_AUDIO[song]),
        cover_backbone=build_cover_backbone(*seen, settings, COVER),
    )
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    model = DistributedDataParallel(encoder).train()
    learned = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=0.1)
    for _ in range(3):
        log_mel = torch.randn(4, AUDIO.n_mels, AUDIO.frames, generator=draw)
        loss_for(settings)(*model(log_mel, torch.rand(4, 3, COVER.size, COVER.size, generator=draw))).backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = [name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])]
    results.append([sum(".network." in name for name in moved), sum(float(p.sum()) for p in learned)])
print(json.dumps(results))
dist.destroy_process_group()
"""


def test_two_workers_learn_the_same_whether_backbones_are_frozen_or_not_and_none_waits(tmp_path: Path) -> None:
    for kind in (*SONG_KINDS, *COVER_KINDS):
        write_checkpoint(tmp_path / kind, kind)
    command = [sys.executable, "-W", "ignore", "-c", WORKER]
    given = [str(tmp_path), json.dumps(PAIRS)]
    workers = [subprocess.Popen([*command, str(rank), *given], stdout=PIPE, text=True) for rank in (0, 1)]
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda worker: json.loads(worker.communicate(timeout=300)[0]), workers))
    assert answers[0] == answers[1]
    for (song, cover, frozen), (moved, _) in zip(PAIRS, answers[0], strict=True):
        assert (moved == 0) == frozen, (song, cover)
