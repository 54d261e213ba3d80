"""Train the conditional diffusion model on the catalogue's covers, and publish it as a pipeline bundle."""

import time
from functools import partial
from typing import Any

import pyarrow as pa
import ray.data
import ray.train
import torch
from accelerate import Accelerator

from gatefold.config import Settings
from gatefold.errors import BundleNotFound
from gatefold.generator.transformer import build_pipeline, build_transformer
from gatefold.storage import objects, tables
from gatefold.storage.bundles import open_bundle
from gatefold.storage.generators import publish_generator
from gatefold.workspace import Workspace
from pipelines.conditions import read_conditions, store_conditions
from pipelines.pairs import Block, paired_ids, stream
from pipelines.report import OnProgress, Report, silent, write_report
from pipelines.training import Progress, batches, history, last_state, run_training
from pipelines.transformer_trainer import TransformerTrainer
from pipelines.versions import versions_of

STAGE = "train-generator"


def train_generator(settings: Settings, workspace: Workspace, on_progress: OnProgress = silent) -> Report:
    """A generator bundle for the workspace's present index; nothing is done where it stands already."""
    began = time.monotonic()
    versions = versions_of(settings, workspace)
    uri = objects.join(workspace.generators, versions.generator)
    index_uri = objects.join(workspace.indexes, versions.index)
    try:
        bundle, done = open_bundle(uri, "generator"), 0
    except BundleNotFound:
        index = open_bundle(index_uri, "index")
        ids = paired_ids(settings, workspace, "train")
        neighbours = workspace.neighbours(versions.index, settings.generator.transformer.neighbours)
        store_conditions(neighbours, index_uri, ids, settings.generator.transformer.neighbours)
        checkpoint = run_training(
            _train_loop,
            {"settings": settings.model_dump(mode="json"), "covers": len(ids)},
            name=f"generator-{versions.generator}",
            settings=settings.train,
            workspace=workspace,
            datasets={"train": _stream_examples(settings, workspace, ids, neighbours)},
            on_progress=on_progress,
        )
        state = last_state(checkpoint, workspace)
        transformer = build_transformer(settings.generator.transformer, settings.cover, settings.encoder.embed_dim)
        transformer.load_state_dict(state["average"])
        pipeline = build_pipeline(
            transformer,
            neighbours=settings.generator.transformer.neighbours,
            num_inference_steps=settings.generator.transformer.num_inference_steps,
            guidance_scale=settings.generator.transformer.guidance_scale,
            encoder_fingerprint=index.lineage["encoder"],
        )
        lineage = {"index": index.fingerprint, **index.lineage}
        details = {"covers": len(ids), **history(state)}
        bundle = publish_generator(uri, pipeline, version=versions.generator, lineage=lineage, details=details)
        done = len(ids)
    learned: Any = bundle.details
    report = Report(
        stage=STAGE,
        done=done,
        skipped=0 if done else 1,
        rejected=0,
        seconds=time.monotonic() - began,
        details={"version": bundle.version, "fingerprint": bundle.fingerprint, **learned},
    )
    write_report(workspace, report)
    return report


def _stream_examples(settings: Settings, workspace: Workspace, ids: list[str], neighbours: str) -> ray.data.Dataset:
    """Rows of pixels uint8 [3, S, S], song_embedding float32 [D] and neighbours float32 [K, D].

    Args:
        neighbours: folder of the table that `store_conditions` made.
    """
    vectors = 1 + settings.generator.transformer.neighbours
    row_bytes = 3 * settings.cover.size**2 + 4 * vectors * settings.encoder.embed_dim
    read = partial(_read_examples, settings, workspace, neighbours)
    return stream(settings, pa.table({"song_id": ids}), read, row_bytes)


def _read_examples(settings: Settings, workspace: Workspace, neighbours: str, batch: Block) -> Block:
    rows = tables.read_rows(workspace.covers(settings.cover), [str(s) for s in batch["song_id"]], ["song_id", "pixels"])
    song_embedding, near = read_conditions(neighbours, rows["song_id"].to_pylist())
    return {"pixels": tables.tensors(rows["pixels"]), "song_embedding": song_embedding, "neighbours": near}


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
