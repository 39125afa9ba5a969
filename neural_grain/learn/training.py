"""Training: the model plays the audit game in epochs of a bounded number of batches.

In each batch, tiles of the library are moved to other grains, half of them in each direction, and the referees
of `learn.game` judge the result. Adam minimises

    loss = sum over both directions of
           critic_weight (noise distance + resemblance weight * natural distance) + violation_weight * violation

The batches of an epoch are drawn anew, and their number has a limit, so training takes the same time for a
thousand tiles and for a million. The random draws of an epoch depend on the seed and the number of the epoch
alone. A run that is interrupted, at any step, and resumed therefore ends with exactly the same weights.

In: `TrainingPairs` and `TrainOptions`. Out: a `TrainedModel`, and in the output folder checkpoints/latest.pt after
every epoch; after every tenth epoch and the last one also checkpoints/epoch_NNNN.pt, samples/epoch_NNNN.png and
training_history.{csv,png}.
"""

from __future__ import annotations

import copy
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
from neural_grain.learn.checkpoint import EpochProgress, load_state, model_content, read_checkpoint, save_checkpoint
from neural_grain.learn.dataset import Library, Tiles, fingerprint, load_library
from neural_grain.learn.device import check_device
from neural_grain.learn.figures import draw_history, draw_sample
from neural_grain.learn.game import AuditGame, Judgement
from neural_grain.learn.history import EpochScores, HeldOutScores, distance_in_db, share_nearer, write_history
from neural_grain.learn.model import KERNEL, GrainModel
from neural_grain.learn.settings import TrainOptions


@dataclass(frozen=True)
class TrainingSettings:
    """How the model learns; the options of a run are in `TrainOptions`."""

    learning_rate: float = 1e-2  # a fifth of it left D a smooth curve that ignores the input; twice was unstable
    adam_betas: tuple[float, float] = (0.9, 0.99)  # torch's 0.999 remembers 1,000 steps, most of a short run
    critic_weight: float = 5000.0  # half of it came out 3 % worse on a real library, twice no better
    violation_weight: float = 15.0  # a fifth of it is 3 % nearer to nature, but misses by 0.13 octaves, not by 0.07
    max_gradient_norm: float = 10.0  # so that no single batch can spoil the weights
    min_batches: int = 16  # in an epoch: a small library is gone through more than once
    max_batches: int = 64  # in an epoch: training must not take longer for a larger library
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
    nearer_than_expander : float, `share_nearer` of the held-out tiles
    """

    model: GrainModel
    history: list[EpochScores]
    nearer_than_expander: float


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
    optimizer: torch.optim.Optimizer
    expander: HeldOutScores  # of the untrained model
    history: list[EpochScores]
    progress: EpochProgress | None  # of an epoch in which an earlier run was interrupted

    @property
    def latest(self) -> Path:
        """The checkpoint that a run can be resumed from."""
        return self.output_dir / "checkpoints" / "latest.pt"


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
            last_good = run.latest if run.history or resume else "none"
            raise PipelineError(f"{err}; the last good checkpoint is {last_good}") from err
        write_reports(run)
        if must_stop:
            raise KeyboardInterrupt
    nearer = share_nearer(run.expander, run.history[-1].held_out, run.game.resemblance_weight)
    return TrainedModel(run.model, run.history, nearer)


def prepare_run(
    pairs: TrainingPairs, options: TrainOptions, output_dir: Path, device: str, resume: bool
) -> TrainingRun:
    """Load the tiles, make the model or take it from a checkpoint, and let the noise critic learn.

    The critic comes last because it takes the longest: what can't be used is refused before.
    """
    library, identity = load_library(pairs, options.seed, device), fingerprint(pairs, options)

    torch.manual_seed(options.seed)
    model = GrainModel(pairs.settings).to(device)
    untrained = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), TRAINING.learning_rate, betas=TRAINING.adam_betas)
    history, progress = [], None
    if resume:
        latest = output_dir / "checkpoints" / "latest.pt"
        content = read_checkpoint(latest)
        history, progress = load_state(content, latest, identity, model, optimizer)
    check_device(model, library.train)

    game = AuditGame(pairs.settings, library.train, options.seed)
    for network in (model, untrained):
        network.detector.full_fluctuation.copy_(game.critic.full_fluctuation)
    expander = judge(game, untrained, library.held_out, options)
    return TrainingRun(
        pairs, options, identity, output_dir, library, game, model, optimizer, expander, history, progress
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
    optimizer: torch.optim.Optimizer,
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
    n_steps = n_batches(len(tiles.arrays), options.batch_size)
    model.train()
    model.temperature.fill_(np.geomspace(*KERNEL.gate_temperatures, options.epochs)[epoch - 1])
    for step in range(progress.step, n_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at((epoch - 1 + step / n_steps) / options.epochs)
        judgements = game.judge_batch(model, tiles, options.batch_size, rng)
        fault = optimise(model, optimizer, total_loss(judgements, game.resemblance_weight))
        if fault:
            raise PipelineError(f"epoch {epoch}: the {fault} is not finite")
        for direction, judgement in judgements.items():
            for kind, score in judgement.scores().items():
                progress.scores.setdefault(f"{kind}_{direction}", []).append(score)
        if stop_requested():
            raise StoppedInEpoch(EpochProgress(step + 1, rng.bit_generator.state, progress.scores))
    return {name: mean_score(name, scores, game.settings.dynamic_range_db) for name, scores in progress.scores.items()}


def n_batches(n_tiles: int, batch_size: int) -> int:
    """Batches in an epoch: as many as the tiles fill, between the two limits."""
    return min(max(math.ceil(n_tiles / batch_size), TRAINING.min_batches), TRAINING.max_batches)


def learning_rate_at(progress: float) -> float:
    """Learning rate at a share 0 to 1 of the training: it rises over the first tenth, then falls as half a cosine."""
    warm_up = min(1.0, (progress + 1e-3) / 0.1)
    return TRAINING.learning_rate * warm_up * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def total_loss(judgements: dict[str, Judgement], resemblance_weight: float) -> Tensor:
    """The loss of a batch, a tensor without shape."""
    losses = []
    for judgement in judgements.values():
        natural = 0.0 if judgement.natural_distance is None else judgement.natural_distance
        critics = TRAINING.critic_weight * (judgement.noise_distance + resemblance_weight * natural)
        losses.append(critics + TRAINING.violation_weight * judgement.violation)
    return sum(losses)


def optimise(model: GrainModel, optimizer: torch.optim.Optimizer, loss: Tensor) -> str | None:
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


def mean_score(name: str, scores: list[float], dynamic_range_db: float) -> float:
    """Mean of the scores of one column of training_history.csv, in its unit."""
    return float(np.mean(scores)) if name.startswith("violation") else distance_in_db(scores, dynamic_range_db)


def judge(game: AuditGame, model: GrainModel, held_out: Tiles, options: TrainOptions) -> HeldOutScores:
    """Scores of a model on held-out tiles; the same tiles, crops and claims are drawn every time."""
    rng = np.random.default_rng([options.seed, 2**31])
    model.eval()
    with torch.no_grad():
        scores = [
            judgement.scores()
            for _ in range(TRAINING.held_out_batches)
            for judgement in game.judge_batch(model, held_out, options.batch_size, rng, keep_tones=True).values()
        ]
    dynamic_range_db = game.settings.dynamic_range_db
    return HeldOutScores(
        **{name: mean_score(name, [score[name] for score in scores], dynamic_range_db) for name in scores[0]}
    )


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
        "optimizer": run.optimizer.state_dict(),
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
    held_out = run.library.held_out
    middle = int(np.argsort(held_out.log2_grain)[len(held_out.arrays) // 2])
    sample = torch.from_numpy(np.array(held_out.arrays[middle])).to(held_out.device)
    draw_sample(run.output_dir / "samples" / f"epoch_{epoch:04d}.png", run.model, sample, run.pairs.settings)
    write_history(run.output_dir / "training_history.csv", run.history)
    draw_history(run.output_dir / "training_history.png", run.history, run.expander)
