"""Train the conditional diffusion model on the catalogue's covers, and publish it as a pipeline bundle."""

import copy
import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import pyarrow as pa
import ray.data
import ray.train
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Muon, Optimizer

from gatefold.augmentation import mirror
from gatefold.config import Settings, TransformerSettings
from gatefold.covers import to_model
from gatefold.errors import BundleNotFound
from gatefold.generator.transformer import build_pipeline, build_transformer, flow_loss
from gatefold.retrieval import CoverIndex
from gatefold.storage import objects, tables
from gatefold.storage.bundles import open_bundle
from gatefold.storage.generators import publish_generator
from gatefold.storage.indexes import load_index
from gatefold.workspace import Workspace
from pipelines.conditions import conditions_of
from pipelines.pairs import Block, paired_ids, stream
from pipelines.report import OnProgress, Report, silent, write_report
from pipelines.training import (
    Curve,
    Descent,
    Progress,
    adamw,
    autocast_dtype,
    batches,
    drawing,
    history,
    last_state,
    move_average,
    run_training,
)
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
        checkpoint = run_training(
            _train_loop,
            {"settings": settings.model_dump(mode="json"), "covers": len(ids)},
            name=f"generator-{versions.generator}",
            settings=settings.train,
            workspace=workspace,
            datasets={"train": _stream_examples(settings, workspace, ids, index_uri)},
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
            encoder_fingerprint=load_index(index_uri).encoder_fingerprint,
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


def _stream_examples(settings: Settings, workspace: Workspace, ids: list[str], index_uri: str) -> ray.data.Dataset:
    """Rows of pixels uint8 [3, S, S], song float32 [D] and neighbours float32 [K, D]."""
    vectors = 1 + settings.generator.transformer.neighbours
    row_bytes = 3 * settings.cover.size**2 + 4 * vectors * settings.encoder.embed_dim
    read = partial(_read_examples, settings, workspace, index_uri)
    return stream(settings, pa.table({"song_id": ids}), read, row_bytes)


def _read_examples(settings: Settings, workspace: Workspace, index_uri: str, batch: Block) -> Block:
    rows = tables.read_rows(workspace.covers(settings.cover), [str(s) for s in batch["song_id"]], ["song_id", "pixels"])
    neighbours = settings.generator.transformer.neighbours
    conditions = conditions_of(_index(index_uri), rows["song_id"].to_pylist(), neighbours)
    return {"pixels": tables.tensors(rows["pixels"]), "song": conditions.song, "neighbours": conditions.neighbours}


@lru_cache(maxsize=1)
def _index(uri: str) -> CoverIndex:
    """Loaded once in each process that reads examples, block after block, epoch after epoch."""
    return load_index(uri)


def _train_loop(config: dict[str, Any]) -> None:
    settings = Settings.model_validate(config["settings"])
    knobs = settings.generator.transformer
    torch.set_num_threads(settings.train.threads)
    torch.manual_seed(settings.generator.seed)
    accelerator = Accelerator(cpu=not settings.train.use_gpu, mixed_precision=_precision(settings))
    transformer = build_transformer(knobs, settings.cover, settings.encoder.embed_dim)
    average = copy.deepcopy(transformer).requires_grad_(False)
    descent = Descent(_optimizers(transformer, knobs), warmup=knobs.warmup, steps=knobs.steps)
    curve = Curve(knobs.steps)
    progress = Progress(config, settings.train, knobs.steps)
    workers = ray.train.get_context().get_world_size()
    batch_size = max(1, min(knobs.batch_size, config["covers"]) // workers)
    steps_per_epoch = max(1, config["covers"] // workers // batch_size)
    first = 0
    if state := progress.resume():
        transformer.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        descent.load_state_dict(state["descent"])
        curve.load_state_dict(state["curve"])
        first = state["step"]
    average.to(accelerator.device)
    model = accelerator.prepare(transformer)
    train_step = _stepper(settings, accelerator, model, descent)
    for step, batch in batches(batch_size, steps_per_epoch, first, knobs.steps, seed=settings.generator.seed):
        figures = {"lr": descent.lr, "loss": train_step(step, batch)}
        move_average(average, transformer, decay=knobs.ema_decay, step=step + 1)
        curve.add(step + 1, figures["loss"])
        progress.after_step(
            step + 1,
            figures,
            lambda: {
                "model": transformer.state_dict(),
                "average": average.state_dict(),
                "descent": descent.state_dict(),
                "curve": curve.state_dict(),
            },
            last=step + 1 == knobs.steps,
        )


def _optimizers(transformer: torch.nn.Module, knobs: TransformerSettings) -> list[Optimizer]:
    """Muon for the blocks' matrices but the modulations, AdamW for the rest: half the KID after the same time.

    Source: Jordan et al. 2024, "Muon"; Liu et al. 2025, "Muon is Scalable for LLM Training", section 2.2 (the scale).
    """
    matrices: list[Parameter] = []
    others: list[Parameter] = []
    for name, parameter in transformer.named_parameters():
        hidden = parameter.ndim == 2 and name.startswith("transformer_blocks.") and ".norm" not in name
        (matrices if hidden else others).append(parameter)
    muon = Muon(matrices, lr=knobs.lr, weight_decay=knobs.weight_decay, adjust_lr_fn="match_rms_adamw")
    return [muon, adamw(others, lr=knobs.lr, weight_decay=knobs.weight_decay)]


def _precision(settings: Settings) -> str:
    device = torch.device("cuda" if settings.train.use_gpu else "cpu")
    return "bf16" if autocast_dtype(device) else "no"


def _stepper(
    settings: Settings, accelerator: Accelerator, model: torch.nn.Module, descent: Descent
) -> Callable[[int, dict[str, Tensor]], float]:
    def train_step(step: int, batch: dict[str, Tensor]) -> float:
        generator = drawing(settings.generator.seed, step, accelerator.process_index)
        pixels = mirror(to_model(batch["pixels"]), generator)
        with accelerator.autocast():
            loss = flow_loss(
                model,
                pixels,
                batch["song"],
                batch["neighbours"],
                dropout=settings.generator.transformer.condition_dropout,
                generator=generator,
            )
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        descent.step()
        return float(loss.detach())

    return train_step
