"""TODO"""

from __future__ import annotations

import copy
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from neural_grain.base.errors import PipelineError
from neural_grain.data.tiles import TrainingPairs
from neural_grain.learn.checkpoint import EpochProgress, load_state, model_content, read_checkpoint, save_checkpoint
from neural_grain.learn.dataset import Tiles, fingerprint, load_parts
from neural_grain.learn.device import check_device
from neural_grain.learn.figures import draw_history, draw_sample
from neural_grain.learn.game import AuditGame
from neural_grain.learn.history import EpochScores, distance_in_db, share_nearer, write_history
from neural_grain.learn.model import GATE_TEMPERATURES, GrainModel
from neural_grain.learn.settings import TrainSettings
from neural_grain.learn.team import ALONE, Team

LEARNING_RATE = 1e-2  # a fifth of it left D a smooth curve over frequency, blind to what is there; twice was unstable
CRITIC_WEIGHT = 5000.0  # half of it came out 3 % worse on a real library, twice no better
VIOLATION_WEIGHT = 15.0  # a fifth of it comes 3 % nearer to nature, but is 0.13 octaves off instead of 0.07
GRADIENT_LIMIT = 10.0
MIN_STEPS = 16  # steps an epoch has at least: a small library is gone through more often
HELD_OUT_DRAWS = 4  # of a batch each, the same tiles after every epoch
CHECKPOINT_EVERY = 10


def learning_rate_at(progress: float) -> float:
    """Learning rate at a share 0..1 of the training: a tenth of it to warm up, then a half cosine down."""
    warm_up = min(1.0, (progress + 1e-3) / 0.1)
    return LEARNING_RATE * warm_up * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


class Stopped(Exception):
    """The user asked to stop; the step was finished."""

    def __init__(self, progress: EpochProgress):
        super().__init__()
        self.progress = progress


@contextmanager
def stop_after_step() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a wish that is asked for; the second interrupts at once."""
    wishes: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False  # only the main thread receives signals
        return

    def wish(number: int, _frame: object) -> None:
        if wishes:
            raise KeyboardInterrupt
        wishes.append(number)

    before = signal.signal(signal.SIGINT, wish)
    try:
        yield lambda: bool(wishes)
    finally:
        signal.signal(signal.SIGINT, before)


def train_epoch(
    game: AuditGame,
    model: GrainModel,
    optimizer: torch.optim.Optimizer,
    movers: Tiles,
    epoch: int,
    settings: TrainSettings,
    begun: EpochProgress | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> dict[str, float]:
    """One epoch; its randomness hangs on seed and epoch alone, so that a resumed run repeats it.

    Raises
    ------
    PipelineError
        If a loss or gradient is not finite.
    Stopped
        After a step, with the progress that ``begun`` takes up.
    """
    rng = np.random.default_rng([settings.seed, epoch])
    progress = begun or EpochProgress(0, {}, {})
    if begun:
        rng.bit_generator.state = begun.random_state
    n_steps = max(MIN_STEPS, math.ceil(len(movers.arrays) / settings.batch_size))
    model.train()
    model.temperature.fill_(np.geomspace(*GATE_TEMPERATURES, settings.epochs)[epoch - 1])
    for step in range(progress.step, n_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at((epoch - 1 + step / n_steps) / settings.epochs)
        moves = game.play(model, movers, settings.batch_size, rng)
        loss = sum(
            CRITIC_WEIGHT * (move.noise_distance + game.doubt * (0 if move.distance is None else move.distance))
            + VIOLATION_WEIGHT * move.violation
            for move in moves.values()
        )
        optimizer.zero_grad()
        loss.backward()
        game.team.add_gradients(model)
        norm = nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_LIMIT)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise PipelineError(f"epoch {epoch}: the {'gradient' if torch.isfinite(loss) else 'loss'} is not finite")
        optimizer.step()
        for name, move in moves.items():
            for kind, score in move.scores().items():
                progress.scores.setdefault(f"{kind}_{name}", []).append(score)
        if game.team.any(is_stopped()):
            raise Stopped(EpochProgress(step + 1, rng.bit_generator.state, progress.scores))
    return {
        name: float(np.mean(values))
        if name.startswith("violation")
        else distance_in_db(values, game.settings.dynamic_range_db)
        for name, values in progress.scores.items()
    }


def judge(game: AuditGame, model: GrainModel, held_out: Tiles, settings: TrainSettings) -> dict[str, float]:
    """What the referees say of held-out tiles, the same draw every time: two distances in dB, violation in octaves."""
    rng = np.random.default_rng([settings.seed, 2**31])
    model.eval()
    with torch.no_grad():
        scores = [
            move.scores()
            for _ in range(HELD_OUT_DRAWS)
            for move in game.play(model, held_out, settings.batch_size, rng, as_recorded=True).values()
        ]
    dynamic_range_db = game.settings.dynamic_range_db
    return {
        "held_out_distance": distance_in_db((score["distance"] for score in scores), dynamic_range_db),
        "held_out_noise": distance_in_db((score["noise"] for score in scores), dynamic_range_db),
        "held_out_violation": float(np.mean([score["violation"] for score in scores])),
    }


def run_epoch(
    game: AuditGame,
    model: GrainModel,
    optimizer: torch.optim.Optimizer,
    movers: Tiles,
    held_out: Tiles,
    epoch: int,
    settings: TrainSettings,
    begun: EpochProgress | None,
    is_stopped: Callable[[], bool],
) -> EpochScores:
    """`train_epoch`, and what it came to on held-out tiles."""
    started = time.monotonic()
    return EpochScores(
        epoch=epoch,
        **train_epoch(game, model, optimizer, movers, epoch, settings, begun, is_stopped),
        **judge(game, model, held_out, settings),
        learning_rate=learning_rate_at(epoch / settings.epochs),
        gate_temperature=float(model.temperature),
        seconds=time.monotonic() - started,
    )


def write_reports(
    output_dir: Path,
    model: GrainModel,
    sample: Tensor,
    pairs: TrainingPairs,
    settings: TrainSettings,
    history: list[EpochScores],
    expander: dict[str, float],
) -> None:
    """What every tenth epoch leaves, and the last: a model, its sample, and the history."""
    epoch = len(history)
    if epoch % CHECKPOINT_EVERY and epoch != settings.epochs:
        return
    save_checkpoint(
        output_dir / "checkpoints" / f"epoch_{epoch:04d}.pt", model_content(model, pairs, settings, history, {})
    )
    draw_sample(output_dir / "samples" / f"epoch_{epoch:04d}.png", model, sample, pairs.settings)
    write_history(output_dir / "training_history.csv", history)
    draw_history(output_dir / "training_history.png", history, expander)


def train(
    pairs: TrainingPairs,
    settings: TrainSettings,
    output_dir: Path,
    *,
    device: str = "cpu",
    resume: bool = False,
    progress: Callable[[Iterable, int], Iterable] = lambda items, total: items,
    team: Team = ALONE,
) -> tuple[GrainModel, list[EpochScores], float]:
    """Train a model, with a checkpoint after every epoch and pictures every tenth.

    Returns
    -------
    The model, a row for each epoch, and `share_nearer` of held-out tiles

    Raises
    ------
    PipelineError
        If the tiles can't be used, the training diverges or ``resume`` finds nothing that fits.
    """
    latest, identity = output_dir / "checkpoints" / "latest.pt", fingerprint(pairs, settings)
    movers, held_out = team.agreed(partial(load_parts, pairs, settings, device, team.of_first(identity)))
    torch.manual_seed(settings.seed)
    model = GrainModel(pairs.settings).to(device)
    untrained = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, betas=(0.9, 0.99))
    history: list[EpochScores] = []
    begun: EpochProgress | None = None
    if resume:
        content = team.of_first(team.agreed(lambda: read_checkpoint(latest) if team.is_first else {}))
        history, begun = load_state(content, latest, identity, model, optimizer)
    check_device(model, movers)
    game = AuditGame(pairs.settings, movers, settings.seed, team)
    for one in (model, untrained):
        one.detector.full_fluctuation.copy_(game.critic.full_fluctuation)
    expander = judge(game, untrained, held_out, settings)

    def save(begun: EpochProgress | None) -> None:
        state = {
            "weights": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "history": [asdict(row) for row in history],
            "begun": asdict(begun) if begun else None,
            "fingerprint": identity,
        }
        save_checkpoint(latest, state)

    middle = int(np.argsort(held_out.log2_grain)[len(held_out.arrays) // 2])
    sample = torch.from_numpy(np.array(held_out.arrays[middle])).to(device)

    show = partial(write_reports, output_dir, model, sample, pairs, settings, history, expander)
    if history and begun is None and team.is_first:
        show()  # the run that stopped may have been killed before it did
    for epoch in progress(range(len(history) + 1, settings.epochs + 1), settings.epochs - len(history)):
        try:
            with stop_after_step() as is_stopped:
                row = run_epoch(game, model, optimizer, movers, held_out, epoch, settings, begun, is_stopped)
                begun = None
                history.append(row)
                if team.is_first:
                    save(None)
                ends = team.any(is_stopped())
        except Stopped as stop:
            if team.is_first:
                save(stop.progress)
            raise KeyboardInterrupt from stop
        except PipelineError as err:
            raise PipelineError(
                f"{err}; the last good checkpoint is {latest if history or resume else 'none'}"
            ) from err
        if team.is_first:
            show()
        if ends:
            raise KeyboardInterrupt
    return model, history, share_nearer(expander, vars(history[-1]), game.doubt)
