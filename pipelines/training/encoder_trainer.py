"""Training of the dual encoder, step by step, and its recall on validation songs.

A step draws by its number and its worker, not by what came before, so one who goes on from a saved state ends bit for
bit where it would have without the break. How batches come and where states go is not known here.

Shape legend: B = pairs on this worker, W = windows, M = mel bands, F = frames, S = pixels a side, D = joint space.
"""

import copy
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn import functional as fn

from gatefold.config import Settings
from gatefold.encoder.augmentation import augment_cover, augment_song
from gatefold.encoder.losses import gathered, genre_contrast, loss_for
from gatefold.encoder.towers import DualEncoder
from gatefold.evaluation.metrics import ranks_of_own
from gatefold.images.pixels import to_model
from gatefold.storage.models.encoders import build_encoder
from gatefold.workspace import Workspace
from pipelines.training.precision import agreed_dtype
from pipelines.training.training_data import Block, read_pairs, without_genre
from pipelines.training.training_run import LossHistory, OptimizerSchedule, adamw, step_generator, update_ema

_RECALL_AT = 10
_AT_ONCE = 32  # validation songs, all their windows together
_CPU = torch.device("cpu")


class EncoderTrainer:
    """Both towers, the moving average of their weights, which is published, optimizer and loss history."""

    def __init__(
        self,
        settings: Settings,
        *,
        steps: int,
        rank: int = 0,
        device: torch.device = _CPU,
        prepare: Callable[[Module], Module] = lambda module: module,
    ) -> None:
        """A trainer before its first step.

        Args:
            prepare: takes the module to the device, and round it puts what joins the gradients of several workers.
        """
        encoder_settings = settings.encoder
        torch.manual_seed(encoder_settings.seed)
        self._settings, self._rank, self._device = settings, rank, device
        self._module = build_encoder(encoder_settings, settings.audio, settings.cover)
        self._module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self._module).eval().requires_grad_(False).to(device)
        self._model = prepare(self._module)
        self._schedule = OptimizerSchedule(
            [adamw(self._model.parameters(), lr=encoder_settings.lr, weight_decay=encoder_settings.weight_decay)],
            warmup=encoder_settings.warmup,
            steps=steps,
        )
        self._loss, self._dtype = loss_for(encoder_settings), agreed_dtype(device)
        self._losses = LossHistory(steps)
        self._recalls: list[tuple[int, float]] = []
        self._best: dict[str, Any] | None = None

    def fit_feature_norm(self, sample: Block) -> None:
        """Fits the towers' feature norms, before the first step.

        Args:
            sample: rows of `read_pairs`, the same on every worker: log_mel float16 [B, W, M, F], pixels uint8
                [B, 3, S, S].
        """
        log_mel, pixels = (torch.from_numpy(sample[side]).to(self._device) for side in ("log_mel", "pixels"))
        for encoder in (self._module, self.average):
            encoder.fit_feature_norm(log_mel.flatten(0, 1).float(), to_model(pixels))

    def step(self, step: int, batch: dict[str, Tensor]) -> dict[str, float]:
        """Trains one step; its loss and learning rate.

        Args:
            step: number of the step, from 0.
            batch: rows of `stream_pairs`: log_mel float16 [B, W, M, F], pixels uint8 [B, 3, S, S], genre int64 [B].
        """
        encoder_settings = self._settings.encoder
        generator = step_generator(encoder_settings.seed, step, self._rank)
        windows = batch["log_mel"]
        drawn = torch.randint(windows.shape[1], (len(windows),), generator=generator).to(windows.device)
        log_mel = windows[torch.arange(len(windows), device=windows.device), drawn].float()
        song, cover = augment_song(log_mel, generator), augment_cover(to_model(batch["pixels"]), generator)
        loss = self._backward(step, song, cover, batch["genre"])
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        figures = {"loss": loss, "lr": self._schedule.lr}
        self._schedule.step()
        update_ema(self.average, self._module, decay=encoder_settings.ema_decay, step=step + 1)
        self._losses.add(step + 1, figures["loss"])
        return figures

    def _backward(self, step: int, song: Tensor, cover: Tensor, genre: Tensor) -> float:
        """The loss of the whole batch; its gradients are left in the parameters.

        A batch of more than `encoder.pairs_at_once` is embedded twice, in pieces: for the gradients of the loss by the
        embeddings, and then piece by piece for those of the embeddings by the weights.

        Source: Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", section 3.
        """
        size = self._settings.encoder.pairs_at_once or len(song)
        if size >= len(song):
            loss = self._loss_of(self._embedded(song, cover), genre)
            loss.backward()  # type: ignore[no-untyped-call]
            return float(loss.detach())
        pieces = list(zip(torch.split(song, size), torch.split(cover, size), strict=True))
        with torch.no_grad():
            first = [self._embedded(*piece, drawn=(step, number)) for number, piece in enumerate(pieces)]
        songs, covers, scales, biases = zip(*first, strict=True)
        made = [torch.cat(songs), torch.cat(covers), scales[0], biases[0]]
        leaves = [side.detach().requires_grad_() for side in made]
        loss = self._loss_of(leaves, genre)
        loss.backward()  # type: ignore[no-untyped-call]
        by_song, by_cover, *by_scalars = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
        slopes = zip(torch.split(by_song, size), torch.split(by_cover, size), strict=True)
        for number, (piece, slope) in enumerate(zip(pieces, slopes, strict=True)):
            last = number + 1 == len(pieces)
            with nullcontext() if last else getattr(self._model, "no_sync", nullcontext)():  # workers join them once
                again = self._embedded(*piece, drawn=(step, number))
                whole = [*slope, *(by_scalar / len(pieces) for by_scalar in by_scalars)]
                sides = [(side * by).sum() for side, by in zip(again, whole, strict=True)]
                torch.stack(sides).sum().backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _embedded(self, song: Tensor, cover: Tensor, drawn: tuple[int, int] | None = None) -> list[Tensor]:
        """The towers' outputs for pairs: two embeddings float32 [B, D], logit scale [], logit bias [].

        Args:
            drawn: step and piece; the same ones drop out the same features again.
        """
        if drawn is not None:
            torch.manual_seed(hash((self._settings.encoder.seed, self._rank, *drawn)))
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype is not None):
            songs, covers, *scalars = self._model(song, cover)
        return [songs.float(), covers.float(), *scalars]

    def _loss_of(self, embedded: list[Tensor], genre: Tensor) -> Tensor:
        song, cover, logit_scale, logit_bias = embedded
        loss = self._loss(song, cover, logit_scale, logit_bias)
        encoder_settings = self._settings.encoder
        if encoder_settings.genre_weight:
            loss = loss + encoder_settings.genre_weight * genre_contrast(
                song, cover, genre, encoder_settings.temperature
            )
        return loss

    def note_recall(self, step: int, recall: float) -> dict[str, float]:
        """What the average reached after `step` steps. It is kept unless one before was better."""
        self._recalls.append((step, recall))
        if self._best is None or recall >= self._best["recall"]:
            weights = {name: tensor.clone() for name, tensor in self.average.state_dict().items()}
            self._best = {"step": step, "recall": recall, "weights": weights}
        return {f"recall_at_{_RECALL_AT}": recall}

    @property
    def dtype(self) -> torch.dtype | None:
        """What a step autocasts to, if to anything."""
        return self._dtype

    @property
    def has_stalled(self) -> bool:
        """Whether `encoder.patience` evaluations have brought nothing better than one before them."""
        recalls = [recall for _, recall in self._recalls]
        patience = self._settings.encoder.patience
        return patience is not None and bool(recalls) and len(recalls) - 1 - recalls.index(max(recalls)) >= patience

    def state_dict(self) -> dict[str, Any]:
        """All that a training goes on from: tensors and plain values."""
        return {
            "model": self._module.state_dict(),
            "average": self.average.state_dict(),
            "descent": self._schedule.state_dict(),
            "curve": self._losses.state_dict(),
            "recalls": self._recalls,
            "best": self._best,
            "dtype": self._dtype,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved state, in the arithmetic that it was begun in."""
        self._module.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self._schedule.load_state_dict(state["descent"])
        self._losses.load_state_dict(state["curve"])
        self._recalls, self._best, self._dtype = list(state["recalls"]), state["best"], state["dtype"]


class Validation:
    """Songs that are not trained on, of which each worker embeds its share: how well they find their covers."""

    def __init__(self, settings: Settings, workspace: Workspace, ids: list[str], rank: int, workers: int) -> None:
        each = math.ceil(len(ids) / workers)
        own = [ids[place % len(ids)] for place in range(rank * each, (rank + 1) * each)]  # some again, to be as many
        self._share: Block = read_pairs(settings, workspace, without_genre(own)) if own else {}
        self._songs, self._evaluations = len(ids), settings.encoder.evaluations

    def is_due(self, step: int, steps: int) -> bool:
        """Whether to measure after this step of so many."""
        return self._songs > 0 and (step % math.ceil(steps / self._evaluations) == 0 or step == steps)

    @torch.no_grad()
    def recall_of(self, encoder: DualEncoder, dtype: torch.dtype | None) -> float:
        """Share of these songs that find their own cover among the first ten; on every worker the same.

        Args:
            dtype: to autocast to, if to anything.
        """
        device, songs, covers = encoder.logit_scale.device, [], []
        for start in range(0, len(self._share["pixels"]), _AT_ONCE):
            some = slice(start, start + _AT_ONCE)
            log_mel = torch.from_numpy(self._share["log_mel"][some]).to(device, torch.float32)  # [B, W, M, F]
            pixels = to_model(torch.from_numpy(self._share["pixels"][some]).to(device))
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                windows = encoder.encode_song(log_mel.flatten(0, 1)).float()
                covers.append(encoder.encode_cover(pixels).float())
            songs.append(fn.normalize(windows.view(*log_mel.shape[:2], -1).mean(1), dim=-1))
        song, cover = (gathered(torch.cat(side))[: self._songs].cpu().numpy() for side in (songs, covers))
        return float((ranks_of_own(song @ cover.T) <= _RECALL_AT).mean())


def weights_to_publish(state: dict[str, Any]) -> dict[str, Tensor]:
    """Of a learner's last state the weights by name, each [...] of its own shape: those that reached the best recall,
    or the last where none was measured.

    Args:
        state: of `EncoderTrainer`, as it is kept in a checkpoint.
    """
    best = state["best"]
    weights: dict[str, Tensor] = best["weights"] if best else state["average"]
    return weights
