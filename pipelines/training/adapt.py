"""Train a LoRA of a pre-trained text-to-image model on the covers nearest to a song, and publish it as a bundle."""

import hashlib
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray.train
import torch
from accelerate import Accelerator

from gatefold.config import PretrainedSettings, Settings
from gatefold.generator.interface import Pixels
from gatefold.generator.pretrained.lora import LoraTrainer, check_trainable, encode_lora
from gatefold.generator.sources import SourceRule, chosen
from gatefold.progress import OnProgress, silent
from gatefold.storage import leases, objects
from gatefold.storage.bundles import Bundle, find_bundle
from gatefold.storage.contents import optouts
from gatefold.storage.contents.cover_pixels import read_covers
from gatefold.storage.leases import Lease
from gatefold.storage.models.loaded_release import load_active_release
from gatefold.storage.models.pretrained_generators import ADAPTER, digest_of, model_of, on_disk, publish_adapter
from gatefold.workspace import Workspace
from pipelines.report import Report, write_report
from pipelines.training.precision import agreed_dtype
from pipelines.training.training_run import (
    LossHistory,
    OptimizerSchedule,
    Progress,
    adamw,
    history,
    last_state,
    run_training,
    step_generator,
)

STAGE = "adapt"


@dataclass(frozen=True)
class _Nearest:
    """The covers that a LoRA is trained on: the song's name, their song_ids with the nearest first, the encoder."""

    song: str
    song_ids: list[str]
    encoder: str


@dataclass(frozen=True)
class _Adapter:
    """A LoRA that is to be trained: its version, and class and digest of the model that it is for."""

    version: str
    model_class: str
    model_digest: str


def adapt(settings: Settings, song: str, workspace: Workspace, on_progress: OnProgress = silent) -> Report:
    """An adapter bundle for a song; nothing is done where one stands that was made of the same.

    Args:
        song: a path, a `file://` or `s3://` URI, or a song_id of the catalogue.

    Raises: InvalidSettings for a checkpoint that no LoRA can be trained for; BundleNotFound where no release serves;
    NotFound, InputError for a song that cannot be used; NoSources where no cover may be used; RunInProgress where
    another process trains it.
    """
    began = time.monotonic()
    pretrained = settings.generator.diffusers
    location = model_of(pretrained)
    with on_disk(location, "model", weights=False) as folder:
        name = check_trainable(folder, location)
    model_digest = digest_of(location, "model")
    nearest = _find_nearest(song, settings, workspace)
    version = _version_of(settings, model_digest, read_covers(settings, workspace, nearest.song_ids))
    done = 0
    bundle = find_bundle(objects.join(workspace.adapters, version), ADAPTER)
    if bundle is None:
        with leases.hold(workspace.bundle_lease("adapter", version)) as lease:
            adapter = _Adapter(version, name, model_digest)
            bundle, done = _train(settings, workspace, nearest, adapter, lease, on_progress)
    return _reported(workspace, bundle, done, time.monotonic() - began)


def _train(
    settings: Settings,
    workspace: Workspace,
    nearest: _Nearest,
    adapter: _Adapter,
    lease: Lease,
    on_progress: OnProgress,
) -> tuple[Bundle, int]:
    """The bundle, and how many covers it was trained on: none where the run before has published it meanwhile."""
    uri = objects.join(workspace.adapters, adapter.version)
    if (bundle := find_bundle(uri, ADAPTER)) is not None:
        return bundle, 0
    checkpoint = run_training(
        _train_loop,
        {"settings": settings.model_dump(mode="json"), "workspace": workspace.uri, "song_ids": nearest.song_ids},
        name=f"adapter-{adapter.version}",
        settings=settings.train,
        workspace=workspace,
        datasets={},  # a hundred covers: every worker reads all of them
        lease=lease,
        on_progress=on_progress,
    )
    state = last_state(checkpoint, workspace)
    lease.check()
    bundle = publish_adapter(
        uri,
        encode_lora(state["lora"], settings.generator.diffusers.lora, adapter.model_class),
        version=adapter.version,
        model_digest=adapter.model_digest,
        lineage={"encoder": nearest.encoder},
        details={"song": nearest.song, "class": adapter.model_class, "covers": nearest.song_ids, **history(state)},
    )
    return bundle, len(nearest.song_ids)


def _reported(workspace: Workspace, bundle: Bundle, done: int, seconds: float) -> Report:
    learned: Any = bundle.details
    report = Report(
        stage=STAGE,
        done=done,
        skipped=0 if done else 1,
        rejected=0,
        seconds=seconds,
        details={"version": bundle.version, "fingerprint": bundle.fingerprint, **learned},
    )
    write_report(workspace, report)
    return report


def _find_nearest(song: str, settings: Settings, workspace: Workspace) -> _Nearest:
    """The covers nearest to a song that may be sources of its new covers. Raises: NoSources."""
    release = load_active_release(workspace)
    query = release.encode_song(song)
    rule = SourceRule(settings.generator.sources, optouts.song_ids(workspace))
    filters = rule.filters(query.song_id, query.artist)
    matches = chosen(release.search(query, settings.generator.diffusers.lora.covers, filters), None)
    return _Nearest(query.name, [match.track.song_id for match in matches], release.encoder.fingerprint)


def _version_of(settings: Settings, model_digest: str, pixels: Pixels) -> str:
    """Changes with the checkpoint, with the covers, and with whatever of the settings changes what is learned."""
    pretrained = settings.generator.diffusers
    parts = (
        model_digest,
        hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest(),
        pretrained.lora.fingerprint(),
        repr((pretrained.prompt, pretrained.size, pretrained.guidance_scale, settings.generator.seed)),
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _train_loop(config: dict[str, Any]) -> None:
    settings = Settings.model_validate(config["settings"])
    pretrained, lora = settings.generator.diffusers, settings.generator.diffusers.lora
    torch.set_num_threads(settings.train.threads)
    torch.manual_seed(settings.generator.seed)
    device = torch.device("cuda" if settings.train.use_gpu else "cpu")
    precision = "bf16" if agreed_dtype(device) else "no"
    accelerator = Accelerator(cpu=not settings.train.use_gpu, mixed_precision=precision)
    trainer = _make_trainer(pretrained, read_covers(settings, Workspace(config["workspace"]), config["song_ids"]),
                            accelerator)  # fmt: skip
    optimizer = adamw(trainer.parameters(), lr=lora.lr, weight_decay=lora.weight_decay)
    schedule = OptimizerSchedule([optimizer], warmup=lora.warmup, steps=lora.steps)
    curve = LossHistory(lora.steps)
    progress = Progress(config, settings.train, lora.steps)
    batch_size = max(1, lora.batch_size // ray.train.get_context().get_world_size())
    first = 0
    if state := progress.resume():
        trainer.load_state_dict(state["lora"])
        schedule.load_state_dict(state["descent"])
        curve.load_state_dict(state["curve"])
        first = state["step"]
    for step in range(first, lora.steps):
        generator = step_generator(settings.generator.seed, step, accelerator.process_index)
        with accelerator.autocast():
            loss = trainer.loss(batch_size, generator)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(trainer.parameters(), 1.0)
        figures = {"lr": schedule.lr, "loss": float(loss.detach())}
        schedule.step()
        curve.add(step + 1, figures["loss"])
        progress.after_step(
            step + 1,
            figures,
            lambda: {
                "lora": trainer.state_dict(),
                "descent": schedule.state_dict(),
                "curve": curve.state_dict(),
            },
            last=step + 1 == lora.steps,
        )


def _make_trainer(pretrained: PretrainedSettings, pixels: Pixels, accelerator: Accelerator) -> LoraTrainer:
    location = model_of(pretrained)
    with on_disk(location, "model") as folder:
        return LoraTrainer(folder, pretrained, location, pixels, device=accelerator.device, prepare=accelerator.prepare)
