"""Train the two towers on songs and their covers, and publish them as a bundle."""

import time
from typing import Any

import ray.train
import ray.train.torch
import torch

from gatefold.config import Settings
from gatefold.progress import OnProgress, silent
from gatefold.storage import leases, objects
from gatefold.storage.bundles import Bundle, find_bundle
from gatefold.storage.leases import Lease
from gatefold.storage.models.encoders import build_encoder, publish_encoder
from gatefold.workspace import Workspace
from pipelines.report import Report, write_report
from pipelines.training.encoder_trainer import EncoderTrainer, Validation, weights_to_publish
from pipelines.training.training_data import paired_ids, read_pairs, sample, stream_pairs, validation_ids, without_genre
from pipelines.training.training_run import Progress, batches, history, last_state, run_training
from pipelines.versions import Versions, check_unchanged, versions_of

STAGE = "train-encoder"
_NORM_SONGS = 256
"""to which the towers' feature norms are fitted before training"""


def train_encoder(settings: Settings, workspace: Workspace, on_progress: OnProgress = silent) -> Report:
    """An encoder bundle for the workspace's present catalogue; nothing is done where it stands already.

    Raises: RunInProgress where another process trains it.
    """
    began = time.monotonic()
    versions = versions_of(settings, workspace)
    done = 0
    bundle = find_bundle(objects.join(workspace.encoders, versions.encoder), "encoder")
    if bundle is None:
        with leases.hold(workspace.bundle_lease("encoder", versions.encoder)) as lease:
            bundle, done = _train(settings, workspace, versions, lease, on_progress)
    learned: Any = bundle.details
    report = Report(
        stage=STAGE,
        done=done,
        skipped=0 if done else 1,
        rejected=0,
        seconds=time.monotonic() - began,
        details={
            "version": bundle.version,
            "fingerprint": bundle.fingerprint,
            "loss": settings.encoder.loss,
            **learned,
        },
    )
    write_report(workspace, report)
    return report


def _train(
    settings: Settings, workspace: Workspace, versions: Versions, lease: Lease, on_progress: OnProgress
) -> tuple[Bundle, int]:
    """The bundle, and how many songs it was trained on: none where the run before has published it meanwhile."""
    uri = objects.join(workspace.encoders, versions.encoder)
    if (bundle := find_bundle(uri, "encoder")) is not None:
        return bundle, 0
    ids = paired_ids(settings, workspace, "train")
    model = build_encoder(settings.encoder, settings.audio, settings.cover)  # no worker starts if it cannot be
    config = {
        "settings": settings.model_dump(mode="json"),
        "workspace": workspace.uri,
        "songs": len(ids),
        "norm_songs": sample(ids, _NORM_SONGS),
        "validation": validation_ids(settings, workspace),
    }
    pairs = stream_pairs(settings, workspace, ids)
    check_unchanged(settings, workspace, versions)
    checkpoint = run_training(
        _train_loop,
        config,
        name=f"encoder-{versions.encoder}",
        settings=settings.train,
        workspace=workspace,
        datasets={"train": pairs},
        lease=lease,
        on_progress=on_progress,
    )
    state = last_state(checkpoint, workspace)
    model.load_state_dict(weights_to_publish(state))
    details = {"songs": len(ids), **history(state), "recalls": [list(one) for one in state["recalls"]]}
    made_with = {"audio": settings.audio.fingerprint(), "cover": settings.cover.fingerprint()}
    lineage = {"catalogue": versions.catalogue, **made_with}
    lease.check()
    return publish_encoder(uri, model, version=versions.encoder, lineage=lineage, details=details), len(ids)


def _train_loop(config: dict[str, Any]) -> None:
    settings = Settings.model_validate(config["settings"])
    torch.set_num_threads(settings.train.threads)
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    batch_size, steps_per_epoch, steps = _plan(settings, config["songs"], workers)
    trainer = EncoderTrainer(
        settings, steps=steps, rank=rank, device=ray.train.torch.get_device(), prepare=ray.train.torch.prepare_model
    )
    workspace = Workspace(config["workspace"])
    trainer.fit_feature_norm(read_pairs(settings, workspace, without_genre(config["norm_songs"])))
    validation = Validation(settings, workspace, config["validation"], rank, workers)
    progress = Progress(config, settings.train, steps)
    first = 0
    if state := progress.resume():
        trainer.load_state_dict(state)
        first = state["step"]
    for step, batch in batches(batch_size, steps_per_epoch, first, steps, seed=settings.encoder.seed):
        if trainer.has_stalled:
            break
        figures = trainer.step(step, batch)
        if validation.is_due(step + 1, steps):
            figures |= trainer.note_recall(step + 1, validation.recall_of(trainer.average, trainer.dtype))
        last = trainer.has_stalled or step + 1 == steps
        progress.after_step(step + 1, figures, trainer.state_dict, last=last)


def _plan(settings: Settings, songs: int, workers: int) -> tuple[int, int, int]:
    """Pairs a step on this worker, steps an epoch, steps in all. Whole batches only: their size is part of the loss."""
    batch_size = max(1, min(settings.encoder.batch_size, songs) // workers)
    steps_per_epoch = max(1, songs // workers // batch_size)
    return batch_size, steps_per_epoch, steps_per_epoch * settings.encoder.epochs
