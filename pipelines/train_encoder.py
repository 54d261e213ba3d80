"""Train the two towers on songs and their covers, and publish them as a bundle."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray.train
import ray.train.torch
import torch
from torch import Tensor

from gatefold.augmentation import augment_cover, augment_song
from gatefold.config import Settings
from gatefold.contrastive import loss_for
from gatefold.covers import to_model
from gatefold.errors import BundleNotFound
from gatefold.storage import objects
from gatefold.storage.bundles import open_bundle
from gatefold.storage.models import publish_encoder
from gatefold.towers import DualEncoder
from gatefold.workspace import Workspace
from pipelines.pairs import paired_ids, stream_pairs
from pipelines.report import OnProgress, Report, silent, write_report
from pipelines.training import Descent, Progress, adamw, autocast_dtype, last_state, run_training
from pipelines.versions import versions_of

STAGE = "train-encoder"


def train_encoder(settings: Settings, workspace: Workspace, on_progress: OnProgress = silent) -> Report:
    """An encoder bundle for the workspace's present catalogue; nothing is done where it stands already."""
    began = time.monotonic()
    versions = versions_of(settings, workspace)
    uri = objects.join(workspace.encoders, versions.encoder)
    try:
        bundle = open_bundle(uri, "encoder")
        done = 0
    except BundleNotFound:
        ids = paired_ids(settings, workspace, "train")
        checkpoint = run_training(
            _train_loop,
            {"settings": settings.model_dump(mode="json"), "songs": len(ids)},
            name=f"encoder-{versions.encoder}",
            settings=settings.train,
            workspace=workspace,
            datasets={"train": stream_pairs(settings, workspace, ids).materialize()},
            on_progress=on_progress,
        )
        state = last_state(checkpoint, workspace)
        model = DualEncoder(settings.encoder, settings.audio, settings.cover)
        model.load_state_dict(state["model"])
        details = {"steps": state["step"], "songs": len(ids)}
        bundle = publish_encoder(
            uri, model, version=versions.encoder, lineage={"catalogue": versions.catalogue}, details=details
        )
        done = len(ids)
    report = Report(
        stage=STAGE,
        done=done,
        skipped=0 if done else 1,
        rejected=0,
        seconds=time.monotonic() - began,
        details={"version": bundle.version, "fingerprint": bundle.fingerprint, "loss": settings.encoder.loss},
    )
    write_report(workspace, report)
    return report


def _train_loop(config: dict[str, Any]) -> None:
    settings = Settings.model_validate(config["settings"])
    torch.set_num_threads(settings.train.threads)
    torch.manual_seed(settings.encoder.seed)
    device = ray.train.torch.get_device()
    module = DualEncoder(settings.encoder, settings.audio, settings.cover)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model = ray.train.torch.prepare_model(module)
    batch_size, steps_per_epoch, steps = _plan(settings, config["songs"])
    optimizer = adamw(model.parameters(), lr=settings.encoder.lr, weight_decay=settings.encoder.weight_decay)
    descent = Descent([optimizer], warmup=settings.encoder.warmup, steps=steps)
    progress = Progress(config, settings.train, steps)
    first = 0
    if state := progress.resume():
        module.load_state_dict(state["model"])
        descent.load_state_dict(state["descent"])
        first = state["step"]
    train_step = _stepper(settings, model, descent, device)
    for step, batch in _batches(settings, batch_size, steps_per_epoch, first, steps):
        loss = train_step(step, batch)
        progress.after_step(step + 1, loss, lambda: {"model": module.state_dict(), "descent": descent.state_dict()})


def _plan(settings: Settings, songs: int) -> tuple[int, int, int]:
    """Pairs a step on this worker, steps an epoch, steps in all. Whole batches only: their size is part of the loss."""
    workers = ray.train.get_context().get_world_size()
    batch_size = max(1, min(settings.encoder.batch_size, songs) // workers)
    steps_per_epoch = max(1, songs // workers // batch_size)
    return batch_size, steps_per_epoch, steps_per_epoch * settings.encoder.epochs


def _batches(
    settings: Settings, batch_size: int, steps_per_epoch: int, first: int, steps: int
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Numbered batches from step `first` on; those of a begun epoch that were used before are passed over."""
    shard = ray.train.get_dataset_shard("train")
    for epoch in range(first // steps_per_epoch, math.ceil(steps / steps_per_epoch)):
        batches = shard.iter_torch_batches(
            batch_size=batch_size,
            drop_last=True,
            local_shuffle_buffer_size=16 * batch_size,
            local_shuffle_seed=settings.encoder.seed + epoch,
        )
        for step, batch in zip(range(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch), batches, strict=False):
            if step >= first:
                yield step, batch


def _stepper(
    settings: Settings, model: torch.nn.Module, descent: Descent, device: torch.device
) -> Callable[[int, dict[str, Tensor]], float]:
    contrastive_loss = loss_for(settings.encoder)
    dtype = autocast_dtype(device)
    rank = ray.train.get_context().get_world_rank()

    def train_step(step: int, batch: dict[str, Tensor]) -> float:
        generator = torch.Generator().manual_seed(hash((settings.encoder.seed, step, rank)))
        windows = batch["log_mel"]
        drawn = torch.randint(windows.shape[1], (len(windows),), generator=generator).to(windows.device)
        log_mel = windows[torch.arange(len(windows), device=windows.device), drawn].float()
        song, cover = augment_song(log_mel, generator), augment_cover(to_model(batch["pixels"]), generator)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            song_embedding, cover_embedding, logit_scale, logit_bias = model(song, cover)
        loss = contrastive_loss(song_embedding.float(), cover_embedding.float(), logit_scale, logit_bias)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        descent.step()
        return float(loss.detach())

    return train_step
