"""Train the conditional diffusion transformer on the catalogue's covers (`generator.kind: transformer`)."""

from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
import ray.train
import torch
from accelerate import Accelerator

from gatefold.config import Settings
from gatefold.generator.sources import SourceRule
from gatefold.generator.transformer import CoverPipeline, build_pipeline, build_transformer
from gatefold.progress import OnProgress
from gatefold.storage import objects
from gatefold.storage.bundles import open_bundle
from gatefold.storage.contents import optouts
from gatefold.storage.contents.cover_pixels import read_pixels
from gatefold.storage.leases import Lease
from gatefold.workspace import Workspace
from pipelines.training.conditions import read_conditions, store_conditions
from pipelines.training.training_data import Block, paired_ids, training_dataset
from pipelines.training.training_run import Progress, batches, history, last_state, run_training
from pipelines.training.transformer_trainer import TransformerTrainer
from pipelines.versions import Versions, check_unchanged


def train_transformer(
    settings: Settings, workspace: Workspace, versions: Versions, lease: Lease, on_progress: OnProgress
) -> tuple[CoverPipeline, dict[str, object]]:
    """The trained pipeline, and what is known of its training."""
    index_uri = objects.join(workspace.indexes, versions.index)
    ids = paired_ids(settings, workspace, "train")
    neighbours = workspace.neighbours(versions.generator)
    count = settings.generator.transformer.neighbours
    rule = SourceRule(settings.generator.sources, optouts.song_ids(workspace))
    store_conditions(neighbours, index_uri, ids, count, rule)
    check_unchanged(settings, workspace, versions)
    checkpoint = run_training(
        _train_loop,
        {"settings": settings.model_dump(mode="json"), "covers": len(ids)},
        name=f"generator-{versions.generator}",
        settings=settings.train,
        workspace=workspace,
        datasets={"train": _stream_examples(settings, workspace, ids, neighbours)},
        lease=lease,
        on_progress=on_progress,
    )
    state = last_state(checkpoint, workspace)
    transformer = build_transformer(settings.generator.transformer, settings.cover, settings.encoder.embed_dim)
    transformer.load_state_dict(state["average"])
    pipeline = build_pipeline(
        transformer,
        neighbours=count,
        num_inference_steps=settings.generator.transformer.num_inference_steps,
        guidance_scale=settings.generator.transformer.guidance_scale,
        encoder_fingerprint=open_bundle(index_uri, "index").lineage["encoder"],
    )
    return pipeline, {"covers": len(ids), **history(state)}


def _stream_examples(settings: Settings, workspace: Workspace, ids: pa.Array, neighbours: str) -> ray.data.Dataset:
    """Rows of pixels uint8 [3, S, S], song_embedding float32 [D] and neighbours float32 [K, D].

    Args:
        neighbours: folder of the table that `store_conditions` made.
    """
    vectors = 1 + settings.generator.transformer.neighbours
    row_bytes = 3 * settings.cover.size**2 + 4 * vectors * settings.encoder.embed_dim
    read = partial(_read_examples, settings, workspace, neighbours)
    return training_dataset(settings, pa.table({"song_id": ids}), read, row_bytes)


def _read_examples(settings: Settings, workspace: Workspace, neighbours: str, batch: Block) -> Block:
    ids = [str(song_id) for song_id in batch["song_id"]]
    pixels = read_pixels(workspace.covers(settings.stored_cover), ids, settings.cover.size)
    song_embedding, near = read_conditions(neighbours, list(pixels))
    return {"pixels": np.stack(list(pixels.values())), "song_embedding": song_embedding, "neighbours": near}


def _train_loop(config: dict[str, Any]) -> None:
    settings = Settings.model_validate(config["settings"])
    steps = settings.generator.transformer.steps
    torch.set_num_threads(settings.train.threads)
    accelerator = Accelerator(cpu=not settings.train.use_gpu)
    workers = ray.train.get_context().get_world_size()
    batch_size = max(1, min(settings.generator.transformer.batch_size, config["covers"]) // workers)
    steps_per_epoch = max(1, config["covers"] // workers // batch_size)
    trainer = TransformerTrainer(
        settings, rank=accelerator.process_index, device=accelerator.device, prepare=accelerator.prepare
    )
    progress = Progress(config, settings.train, steps)
    first = 0
    if state := progress.resume():
        trainer.load_state_dict(state)
        first = state["step"]
    for step, batch in batches(batch_size, steps_per_epoch, first, steps, seed=settings.generator.seed):
        progress.after_step(step + 1, trainer.step(step, batch), trainer.state_dict, last=step + 1 == steps)
