"""Training: the model plays the audit game in epochs of a bounded number of batches.

In each batch, pairs are made of the library's tiles, each is moved to the other in both directions, and the referees of
`learn.game` judge the result. Adam minimises

    loss = (distance + correction_weight * correction) / distance_unit
           + violation_weight * (violation_texture + violation_smooth)

The correction, by which D departs from the typical texture of the library, is small unless it brings a tile nearer to
the truth: under loud tones any texture would do.

The pairs of an epoch are drawn anew, and their number has a limit, so training takes the same time for a thousand tiles
and for a million. The random draws of an epoch depend on the seed and the number of the epoch alone. A run that is
interrupted, at any step, and resumed therefore ends with exactly the same weights.

In: `TrainingPairs` and `TrainOptions`. Out: a `TrainedModel`, and in the output folder checkpoints/latest.pt after
every epoch; after every tenth epoch and the last one also checkpoints/epoch_NNNN.pt, samples/epoch_NNNN.png and
training_history.{csv,png}.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from neural_grain.base.errors import PipelineError
from neural_grain.data.tiles import TrainingPairs
from neural_grain.learn.adam import Adam
from neural_grain.learn.checkpoint import EpochProgress, load_state, model_content, save_checkpoint
from neural_grain.learn.dataset import Library, Tiles, fingerprint, load_library
from neural_grain.learn.device import check_device
from neural_grain.learn.figures import draw_history, draw_sample
from neural_grain.learn.game import AuditGame, Judgement
from neural_grain.learn.history import EpochScores, HeldOutScores, share_nearer, write_history
from neural_grain.learn.model import KERNEL, GrainModel
from neural_grain.learn.model_file import read_checkpoint
from neural_grain.learn.settings import LATEST_NAME, TrainOptions


@dataclass(frozen=True)
class TrainingSettings:
    """How the model learns; the options of a run are in `TrainOptions`."""

    learning_rate: float = 1e-2
    distance_unit_db2: float = 20.0  # dB**2 of distance that weigh as much as an octave of violation
    violation_weight: float = 1.0
    correction_weight: float = 2e-3  # 7 dB of correction cost as much as 0.3 dB of distance
    max_gradient_norm: float = 10.0  # so that no single batch can spoil the weights
    min_batches: int = 8  # in an epoch: a small library is gone through more than once
    max_batches: int = 32  # in an epoch: training must not take longer for a larger library
    held_out_batches: int = 4  # to judge on, the same ones after every epoch
    report_every_epochs: int = 10  # drawing takes as long as some epochs of a small library


TRAINING = TrainingSettings()


@dataclass(frozen=True)
class TrainedModel:
    """What a training run ends with.

    Parameters
    ----------
    model : GrainModel
    history : list of EpochScores, one for each epoch
    nearer_than_one_gain : float, `share_nearer` of the held-out tiles
    """

    model: GrainModel
    history: list[EpochScores]
    nearer_than_one_gain: float


@dataclass
class TrainingRun:
    """Everything that a run reads and changes between its first step and its last."""

    pairs: TrainingPairs
    options: TrainOptions
    identity: str  # `fingerprint`
    output_dir: Path
    library: Library
    game: AuditGame
    model: GrainModel
    optimizer: Adam
    one_gain: HeldOutScores  # of what works without a model
    history: list[EpochScores]
    progress: EpochProgress | None  # of an epoch in which an earlier run was interrupted

    @property
    def latest(self) -> Path:
        """The checkpoint that a run can be resumed from."""
        return self.output_dir / LATEST_NAME


class StoppedInEpoch(Exception):
    """The user asked to stop, and the step in progress was finished."""

    def __init__(self, progress: EpochProgress):
        super().__init__()
        self.progress = progress


def train(
    pairs: TrainingPairs,
    options: TrainOptions,
    output_dir: Path,
    *,
    device: str = "cpu",
    resume: bool = False,
    progress: Callable[[Iterable, int], Iterable] = lambda items, total: items,
) -> TrainedModel:
    """Train a model, with a checkpoint after every epoch and reports after every tenth.

    Parameters
    ----------
    output_dir : folder with the subfolders "checkpoints" and "samples"
    resume : continue from checkpoints/latest.pt
    progress : wraps the loop over epochs, given their number

    Raises
    ------
    PipelineError
        If the tiles can't be used, the training diverges or ``resume`` finds no checkpoint that fits.
    KeyboardInterrupt
        After Ctrl-C, once the step in progress is finished and saved.
    """
    run = prepare_run(pairs, options, output_dir, device, resume)
    if run.history and run.progress is None:
        write_reports(run)  # the interrupted run may have ended between its checkpoint and its reports
    epochs = range(len(run.history) + 1, options.epochs + 1)
    for epoch in progress(epochs, len(epochs)):
        try:
            with stop_after_step() as stop_requested:
                run.history.append(run_epoch(run, epoch, stop_requested))
                run.progress = None
                save_state(run)
                must_stop = stop_requested()
        except StoppedInEpoch as stop:
            run.progress = stop.progress
            save_state(run)
            raise KeyboardInterrupt from stop
        except PipelineError as err:
            has_checkpoint = epoch > 1 or resume
            last_good = f"; the last good checkpoint is {run.latest}" if has_checkpoint else ""
            raise PipelineError(f"{err}{last_good}") from err
        write_reports(run)
        if must_stop:
            raise KeyboardInterrupt
    nearer = share_nearer(run.one_gain, run.history[-1].held_out)
    return TrainedModel(run.model, run.history, nearer)


def prepare_run(
    pairs: TrainingPairs, options: TrainOptions, output_dir: Path, device: str, resume: bool
) -> TrainingRun:
    """Load the tiles, and make the model or take it from a checkpoint."""
    library, identity = load_library(pairs, options.seed, device), fingerprint(pairs, options)
    torch.manual_seed(options.seed)
    model = GrainModel(pairs.settings, library.texture).to(device)
    optimizer = Adam(model.parameters())
    history, progress = [], None
    if resume:
        latest = output_dir / LATEST_NAME
        content = read_checkpoint(latest)
        history, progress = load_state(content, latest, identity, model, optimizer)
    check_device(model, library.train)
    game = AuditGame(pairs.settings, device)
    one_gain = judge(game, GrainModel(pairs.settings).to(device), library.held_out, options)
    return TrainingRun(
        pairs, options, identity, output_dir, library, game, model, optimizer, one_gain, history, progress
    )


def run_epoch(run: TrainingRun, epoch: int, stop_requested: Callable[[], bool]) -> EpochScores:
    """Train for one epoch and judge the model on held-out tiles."""
    started = time.monotonic()
    train_scores = train_epoch(
        run.game, run.model, run.optimizer, run.library.train, epoch, run.options, run.progress, stop_requested
    )
    held_out = judge(run.game, run.model, run.library.held_out, run.options)
    return EpochScores(
        epoch=epoch,
        **train_scores,
        **{f"held_out_{name}": score for name, score in asdict(held_out).items()},
        learning_rate=learning_rate_at(epoch / run.options.epochs),
        gate_temperature=float(run.model.temperature),
        seconds=time.monotonic() - started,
    )


def train_epoch(
    game: AuditGame,
    model: GrainModel,
    optimizer: Adam,
    tiles: Tiles,
    epoch: int,
    options: TrainOptions,
    progress: EpochProgress | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """Train for one epoch, or for the rest of one that was interrupted.

    Parameters
    ----------
    epoch : int, counted from 1
    progress : where an interrupted run stopped inside this epoch
    stop_requested : asked after every step

    Returns
    -------
    dict, mean scores over the steps, by column of training_history.csv

    Raises
    ------
    PipelineError
        If a loss or gradient is not finite.
    StoppedInEpoch
        If ``stop_requested()`` is true after a step.
    """
    rng = np.random.default_rng([options.seed, epoch])
    if progress is None:
        progress = EpochProgress(0, {}, {})
    else:
        rng.bit_generator.state = progress.random_state
    n_steps = n_batches(len(tiles.tones), options.batch_size)
    model.train()
    model.temperature.fill_(gate_temperature_at(epoch, options.epochs))
    for step in range(progress.step, n_steps):
        optimizer.learning_rate = learning_rate_at((epoch - 1 + step / n_steps) / options.epochs)
        judgement = game.judge(model, game.draw_pairs(tiles, options.batch_size, rng))
        fault = optimise(model, optimizer, total_loss(judgement))
        if fault:
            raise PipelineError(f"epoch {epoch}: the {fault} is not finite")
        for name, score in vars(judgement).items():
            progress.scores.setdefault(name, []).append(score.item())
        if stop_requested():
            raise StoppedInEpoch(EpochProgress(step + 1, rng.bit_generator.state, progress.scores))
    return {name: mean_score(name, scores) for name, scores in progress.scores.items()}


def n_batches(n_tiles: int, batch_size: int) -> int:
    """Batches in an epoch: as many as the tiles fill, between the two limits."""
    return min(max(math.ceil(n_tiles / batch_size), TRAINING.min_batches), TRAINING.max_batches)


def learning_rate_at(progress: float) -> float:
    """Learning rate at a share 0 to 1 of the training: it rises over the first tenth, then falls as half a cosine."""
    warm_up = min(1.0, (progress + 1e-3) / 0.1)
    return TRAINING.learning_rate * warm_up * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def gate_temperature_at(epoch: int, epochs: int) -> float:
    """Temperature of the gate in an epoch, counted from 1: it grows by the same factor from each to the next."""
    first, last = KERNEL.gate_temperatures
    return first * (last / first) ** ((epoch - 1) / max(1, epochs - 1))


def total_loss(judgement: Judgement) -> Tensor:
    """The loss of a batch, a tensor without shape."""
    violation = judgement.violation_texture + judgement.violation_smooth
    distance = judgement.distance + TRAINING.correction_weight * judgement.correction
    return distance / TRAINING.distance_unit_db2 + TRAINING.violation_weight * violation


def optimise(model: GrainModel, optimizer: Adam, loss: Tensor) -> str | None:
    """Make one step of the optimizer; if "loss" or "gradient" is not finite, leave the weights and return which."""
    optimizer.zero_grad()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(model.parameters(), TRAINING.max_gradient_norm)
    if not torch.isfinite(loss):
        return "loss"
    if not torch.isfinite(norm):
        return "gradient"
    optimizer.step()
    return None


def mean_score(name: str, scores: list[float]) -> float:
    """Mean of the scores of one column of training_history.csv: octaves, or the root of mean squares in dB."""
    return float(np.mean(scores)) if name.startswith("violation") else math.sqrt(np.mean(scores))


def judge(game: AuditGame, model: GrainModel, held_out: Tiles, options: TrainOptions) -> HeldOutScores:
    """Scores of a model on held-out tiles; the same pairs are drawn every time."""
    rng = np.random.default_rng([options.seed, 2**31])
    model.eval()
    with torch.no_grad():
        judgements = [
            game.judge(model, game.draw_pairs(held_out, options.batch_size, rng))
            for _ in range(TRAINING.held_out_batches)
        ]
    violations = [each.item() for j in judgements for each in (j.violation_texture, j.violation_smooth)]
    distance = math.sqrt(np.mean([judgement.distance.item() for judgement in judgements]))
    return HeldOutScores(distance, float(np.mean(violations)))


@contextmanager
def stop_after_step() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a request, which the yielded function reports; a second one interrupts at once."""
    requests: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread receives signals
        return

    def request(number: int, _frame: object) -> None:
        if requests:
            raise KeyboardInterrupt
        requests.append(number)

    handler_before = signal.signal(signal.SIGINT, request)
    try:
        yield lambda: bool(requests)
    finally:
        signal.signal(signal.SIGINT, handler_before)


def save_state(run: TrainingRun) -> None:
    """Write checkpoints/latest.pt, from which the run can be resumed."""
    content = {
        "weights": run.model.state_dict(),
        "optimizer": {"state": run.optimizer.state()},
        "history": [asdict(row) for row in run.history],
        "begun": asdict(run.progress) if run.progress else None,
        "fingerprint": run.identity,
    }
    save_checkpoint(run.latest, content)


def write_reports(run: TrainingRun) -> None:
    """After every tenth epoch and the last one: write the model, a sample of its work, and the history."""
    epoch = len(run.history)
    if epoch % TRAINING.report_every_epochs and epoch != run.options.epochs:
        return
    content = model_content(run.model, run.pairs, run.options, run.history, {})
    save_checkpoint(run.output_dir / "checkpoints" / f"epoch_{epoch:04d}.pt", content)
    draw_sample(
        run.output_dir / "samples" / f"epoch_{epoch:04d}.png", run.model, run.library.held_out, run.pairs.settings
    )
    write_history(run.output_dir / "training_history.csv", run.history)
    draw_history(run.output_dir / "training_history.png", run.history, run.one_gain)
