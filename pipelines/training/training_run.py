"""A Ray Train run: checkpoints in the workspace, progress, learning-rate schedule, moving average of the weights.

A run is named after the version it makes. Started again under that name, Ray Train returns its last checkpoint, so a
killed run goes on; a worker that dies is replaced and goes on from there too. Whatever is drawn hangs on the step and
not on what came before, and the rows come in one order, so a run that was interrupted ends as it would have.
"""

import math
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
import ray.data
import ray.exceptions
import ray.train
import torch
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from tensorboardX import SummaryWriter
from torch import Tensor
from torch.nn import Module, Parameter
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from gatefold.config import TrainSettings
from gatefold.errors import Corrupt
from gatefold.progress import OnProgress
from gatefold.storage import objects
from gatefold.storage.arrow_files import arrow_filesystem
from gatefold.storage.leases import Lease
from gatefold.workspace import Workspace

_STATE = "state.pt"
_CURVE_POINTS = 48
_PROGRESS_TIMEOUT_S = 5.0
_SHUFFLED_BATCHES = 16  # that are held in memory to draw from


@ray.remote(num_cpus=0, max_restarts=-1)
class ProgressActor:
    """The progress that the first worker reports, for the driver to read. Nothing but what is shown depends on it: when
    it is lost, it is started again, and knows the rest from the next step on."""

    def __init__(self) -> None:
        self._noted = (0, 0)

    def note(self, done: int, total: int) -> None:
        """Keeps how many steps are done, of how many."""
        self._noted = (done, total)

    def read(self) -> tuple[int, int]:
        """Steps done and steps in all, as noted last."""
        return self._noted


def run_training(
    loop: Callable[[dict[str, Any]], None],
    config: dict[str, Any],
    *,
    name: str,
    settings: TrainSettings,
    workspace: Workspace,
    datasets: dict[str, ray.data.Dataset],
    lease: Lease,
    on_progress: OnProgress,
) -> str:
    """Run `loop` on the workers until it is done; the URI of its last checkpoint's folder.

    Where the lease is lost this ends, and the workers do so before they save the next time.

    Args:
        loop: given `config` on every worker, with what `Progress` needs in it.
        name: of the run; the same name goes on where that run stopped.
        lease: on this run.

    Raises: LeaseLost; Corrupt for a run without a step; what the workers raised.
    """
    filesystem, path = arrow_filesystem(workspace.runs)
    progress_actor = start_progress_actor()
    trainer = TorchTrainer(
        loop,
        train_loop_config={
            **config,
            "progress_actor": progress_actor,
            "lease": lease,
            "tensorboard": objects.local_path(objects.join(workspace.runs, name, "tensorboard")),
        },
        scaling_config=ray.train.ScalingConfig(num_workers=workers_of(settings), use_gpu=settings.use_gpu),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=settings.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
        datasets=datasets,
        dataset_config=ray.train.DataConfig(execution_options=ray.data.ExecutionOptions(preserve_order=True)),
    )
    fitting = _Fitting(trainer)
    fitting.start()
    _follow(fitting, progress_actor, lease, on_progress)
    checkpoint = fitting.result().checkpoint
    if checkpoint is None:
        raise Corrupt(f"training '{name}' ended without a single step; it is not published")
    return str(checkpoint.path)


def start_progress_actor() -> Any:
    """On the driver's node while that has room: the run lives no longer than that."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ProgressActor.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]


def _read_progress(progress_actor: Any) -> tuple[int, int]:
    """Steps done and steps in all; two zeros while the progress_actor is lost."""
    try:
        noted: tuple[int, int] = ray.get(progress_actor.read.remote(), timeout=_PROGRESS_TIMEOUT_S)
    except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
        return 0, 0
    return noted


def _follow(fitting: "_Fitting", progress_actor: Any, lease: Lease, on_progress: OnProgress) -> None:
    """Until the run has ended. Raises: LeaseLost."""
    while fitting.is_alive():
        fitting.join(0.5)
        lease.check_renewed()
        done, total = _read_progress(progress_actor)
        if total:
            on_progress(done, total)


def workers_of(settings: TrainSettings) -> int:
    """Processes that a run gets on the cluster that is connected."""
    if settings.num_workers is not None:
        return settings.num_workers
    resources = ray.cluster_resources()
    return max(1, int(resources.get("GPU", 0)) if settings.use_gpu else min(4, int(resources.get("CPU", 1))))


class _Fitting(threading.Thread):
    """The run, on a thread: on the main thread Ray Train would take Ctrl-C for itself, and keep it when it is done."""

    def __init__(self, trainer: TorchTrainer) -> None:
        super().__init__(daemon=True)
        self._trainer = trainer
        self._result: ray.train.Result | None = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._result = self._trainer.fit()
        except BaseException as error:  # noqa: BLE001 - raised by `result`
            self._error = error

    def result(self) -> ray.train.Result:
        """Raises: what the run raised."""
        if self._error is not None:
            raise self._error
        return self._result


class Progress:
    """A worker's side of a run: where it resumes, when it saves, what it notes. Steps count over the whole run.

    The first worker writes TensorBoard events beside the checkpoints, where these lie on a disk.
    """

    def __init__(self, config: dict[str, Any], settings: TrainSettings, total_steps: int) -> None:
        self._progress_actor, self._every, self._total = (
            config["progress_actor"],
            settings.checkpoint_steps,
            total_steps,
        )
        self._lease: Lease = config["lease"]
        self._first = ray.train.get_context().get_world_rank() == 0
        self._folder: Path | None = config["tensorboard"] if self._first else None
        self._writer: SummaryWriter | None = None
        self._resumed: list[int] = []

    def resume(self) -> dict[str, Any] | None:
        """The state last saved, or None at the beginning. Raises: LeaseLost when another run goes on from it."""
        if self._first:
            self._lease.check()
        checkpoint = ray.train.get_checkpoint()
        state = None
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                state = load_state(Path(folder))
            self._resumed = [*state["resumed"], state["step"]]
        if self._folder is not None:  # what was noted of steps that are done again is taken back
            self._writer = SummaryWriter(str(self._folder), purge_step=state["step"] + 1 if state else None)
        return state

    def after_step(
        self, step: int, figures: Mapping[str, float], make_state: Callable[[], dict[str, Any]], *, last: bool
    ) -> None:
        """Reports progress to the driver, and saves where due. All workers call this after the same steps: a report is
        a barrier.

        Args:
            figures: of this step, by name; they go to TensorBoard.
            last: that no step follows.
        """
        if self._first:
            self._progress_actor.note.remote(step, self._total)
        if self._writer is not None:
            for name, figure in figures.items():
                self._writer.add_scalar(name, figure, step)
        if step % self._every and not last:
            return
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if self._first:
                self._lease.check()  # a worker of a driver that was killed finds another holder, and saves nothing
                state = {"step": step, "last": last, "resumed": self._resumed, **make_state()}
                torch.save(state, Path(folder) / _STATE)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report({"step": step, **figures}, checkpoint=checkpoint, checkpoint_dir_name=f"step-{step:07d}")
        if self._writer is not None:
            self._writer.close() if last else self._writer.flush()


def batches(
    batch_size: int, steps_per_epoch: int, first: int, steps: int, *, seed: int
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Numbered batches of the worker's share, shuffled anew in each epoch: (step, column to tensor [batch_size, ...]).

    Those of a begun epoch that were used before are passed over.

    Args:
        first: number of the first step that is wanted.
        steps: of the whole training; the last batch has number `steps - 1`.
        seed: of the shuffling, with the epoch added.

    Raises: Corrupt where an epoch has fewer than `steps_per_epoch`.
    """
    shard = ray.train.get_dataset_shard("train")
    for epoch in range(first // steps_per_epoch, math.ceil(steps / steps_per_epoch)):
        shuffled = iter(
            shard.iter_torch_batches(
                batch_size=batch_size,
                drop_last=True,
                local_shuffle_buffer_size=_SHUFFLED_BATCHES * batch_size,
                local_shuffle_seed=seed + epoch,
            )
        )
        begin = epoch * steps_per_epoch
        for step in range(begin, min(begin + steps_per_epoch, steps)):
            if (batch := next(shuffled, None)) is None:
                raise Corrupt(
                    f"epoch {epoch + 1} has {step - begin:,} batches of {batch_size} songs for this worker instead of "
                    f"{steps_per_epoch:,}, so it would learn from fewer songs than it says; run "
                    "`gatefold spectrograms` and `gatefold covers`, and train again"
                )
            if step >= first:
                yield step, batch


def load_state(folder: Path) -> dict[str, Any]:
    """What `Progress.after_step` wrote: tensors and plain values only, nothing that could run."""
    state: dict[str, Any] = torch.load(folder / _STATE, weights_only=True, map_location="cpu")
    return state


def last_state(checkpoint_path: str, workspace: Workspace) -> dict[str, Any]:
    """The state that a run ended with, of its checkpoint's folder in this workspace, read by the driver.

    Raises: Corrupt where it is not of the last step: the run did less than it was asked for.
    """
    filesystem, _ = arrow_filesystem(workspace.runs)
    with ray.train.Checkpoint(checkpoint_path, filesystem).as_directory() as folder:
        state = load_state(Path(folder))
    if not state["last"]:
        raise Corrupt(
            f"the training at '{checkpoint_path}' ended after step {state['step']:,} and before its last one, so it is "
            "not published; the same command goes on from there"
        )
    return state


class OptimizerSchedule:
    """Optimizers under one learning-rate schedule: a linear warm-up, then a cosine down to nothing over `steps`
    steps."""

    def __init__(self, optimizers: Sequence[Optimizer], *, warmup: float, steps: int) -> None:
        warm = max(1, round(warmup * steps))

        def factor(step: int) -> float:
            return min((step + 1) / warm, 0.5 * (1 + math.cos(math.pi * min(step / steps, 1))))

        self._optimizers = optimizers
        self._schedules = [LambdaLR(optimizer, factor) for optimizer in optimizers]
        self._parts: list[Any] = [*self._optimizers, *self._schedules]

    def step(self) -> None:
        """One update by the gradients, which are cleared, and the learning rate of the next."""
        for optimizer, schedule in zip(self._optimizers, self._schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return float(self._optimizers[0].param_groups[0]["lr"])

    def state_dict(self) -> list[dict[str, Any]]:
        """Of each optimizer, then of each schedule."""
        return [part.state_dict() for part in self._parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Takes back what `state_dict` gave."""
        for part, state in zip(self._parts, states, strict=True):
            part.load_state_dict(state)


class LossHistory:
    """The loss of a run in a few dozen points, each the mean over a span of steps: enough to see how it went."""

    def __init__(self, steps: int) -> None:
        self._span = math.ceil(steps / _CURVE_POINTS)
        self._points: list[tuple[int, float, int]] = []  # last step, mean, steps so far

    def add(self, step: int, loss: float) -> None:
        """The loss of the next step, which is numbered `step`."""
        if not self._points or self._points[-1][2] == self._span:
            self._points.append((step, 0.0, 0))
        _, mean, count = self._points[-1]
        self._points[-1] = (step, mean + (loss - mean) / (count + 1), count + 1)

    def state_dict(self) -> list[tuple[int, float, int]]:
        """Points: last step, mean loss, steps that it is the mean of."""
        return list(self._points)

    def load_state_dict(self, state: list[tuple[int, float, int]]) -> None:
        """Takes back what `state_dict` gave."""
        self._points = list(state)


def history(state: Mapping[str, Any]) -> dict[str, Any]:
    """What a report has of a run by its last state: its steps, those it was resumed at, and its curve.

    `curve` has pairs: a step, and the mean loss since the step of the pair before.
    """
    curve = [[step, round(loss, 5)] for step, loss, _ in state["curve"]]
    return {"steps": state["step"], "resumed": state["resumed"], "curve": curve}


@torch.no_grad()
def update_ema(average: Module, model: Module, *, decay: float, step: int) -> None:
    """Exponential moving average: the weights of `average` move towards those of the model; buffers are copied.

    In the first steps its decay is lower, by step / (step + 9), or the weights of the beginning would stay in it.
    """
    both = zip(average.parameters(), model.parameters(), strict=True)
    learned = [(mean, now) for mean, now in both if now.requires_grad]
    keep = min(decay, step / (step + 9))
    torch._foreach_lerp_([mean for mean, _ in learned], [now for _, now in learned], 1 - keep)
    for mean, now in zip(average.buffers(), model.buffers(), strict=True):
        mean.copy_(now)


def step_generator(seed: int, step: int, rank: int) -> torch.Generator:
    """The random generator of a worker in a step, always the same; sets torch's own too, for dropout."""
    torch.manual_seed(hash((seed, step, rank, 1)))
    return torch.Generator().manual_seed(hash((seed, step, rank)))


def adamw(parameters: Iterable[Parameter], *, lr: float, weight_decay: float) -> AdamW:
    """Biases, norms and scalars do not decay; what is frozen is left out."""
    matrices: list[Parameter] = []
    others: list[Parameter] = []
    for parameter in parameters:
        if not parameter.requires_grad:
            continue
        (matrices if parameter.ndim > 1 else others).append(parameter)
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return AdamW(groups, lr=lr, betas=(0.9, 0.99))
