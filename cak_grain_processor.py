#!/usr/bin/env python3
"""Learn from a library where grain goes: stage 3 of the Neural Grain Processor.

The model is a conditioning-aware kernel (CAK): output = input + learned pattern x control,

    y = x + D(x) c gate(c) scale,      c gate(c) = 0 at c = 0

(Rockman, "CAK: Emergent Audio Effects from Minimal Deep Learning", arXiv 2508.02643) on the
normalised log-mel picture x. D is a small convolutional detector; the control c is in octaves
of grain, + smooth, - texture; the gate is signed. It is trained by an audit game on natural
grain pairs: tiles of lower and of higher grain are moved to the grain of a third, and two
referees judge them. The critic compares them with natural tiles of that grain, mel band by
mel band, by the Wasserstein distance, which in one dimension needs no trained network: it is
the distance between sorted values (Villani, "Topics in Optimal Transportation", 2003, 2.2).
The auditor computes from the band powers by how many octaves the grain really moved, and
charges |measured - claimed| in both directions.

Reads:  training_pairs.json and the tiles that it names; for the audit, the audio itself
Writes: grain_processor_v2_output/{final_grain_processor_v2.pt, audit.json, audit.png,
        training_history.csv, training_history.png, checkpoints/, samples/}
Exit status: 0 trained and audited; 1 trained, but some held-out file could not be audited;
             2 wrong usage or nothing to learn from; 130 interrupted

    python cak_grain_processor.py
    python cak_grain_processor.py --epochs 200 --seed 1 --device cpu
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import math
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convert_to_spectrograms import (
    CEILING,
    DEFAULT_PAIRS,
    NEPER_PER_DB,
    SpectrogramSettings,
    TrainingPairs,
    analyse,
    bins_per_band,
    label_axes,
    load_tile,
    move_grain,
    parse_spectrogram_settings,
    read_pairs,
    settings_record,
)
from measure_audio_grain import (
    FEW_FILES,
    NARROW_OCTAVES,
    PipelineError,
    Sound,
    check_writable,
    grain_spread_octaves,
    one_line,
    open_sound,
    progress_bar,
    replacing,
    run_main,
    warn,
    write_json,
)

DEFAULT_OUTPUT_DIR = "grain_processor_v2_output"
FINAL_NAME = "final_grain_processor_v2.pt"
CHECKPOINT_VERSION = 1
CONTROL_RANGE = 3.0  # octaves to either side of 0

CHANNELS = 16
SMOOTH_FRAMES = 5  # x is averaged over 58 ms before D looks at it, and the pattern over 35 ms after:
PATTERN_FRAMES = 3  # gains that follow every frame of a noise are heard as musical noise
CONTEXT_BANDS, CONTEXT_FRAMES = 4, 8  # the coarse branch of D sees cells of so many bands and frames
FIRST_SCALE = 0.25  # an expander of this strength moves grain by about an octave
CHUNK_FRAMES, CHUNK_MARGIN = 4096, 64  # a long picture is gone through in pieces; D sees 30 frames to a side

CROP_FRAMES = 64  # 0.74 s of a tile: a step costs a quarter, and a tile gives other crops next time
LEARNING_RATE = 2e-3
GATE_TEMPERATURES = (2.0, 20.0)  # first and last epoch
NATURAL_OCTAVES = 0.35  # a natural tile has the target's grain if it is so near
CLAIM_OCTAVES = (0.3, 3.2)  # a tile is moved if the target is at least and at most so far from it
CRITIC_WEIGHT = 10.0
VIOLATION_WEIGHT = 0.1  # of the pairs, both directions
REACH_WEIGHT = 0.4  # of any tile at any position of the slider, so that the slider works beyond the pairs
FLATTEST_OCTAVES = 0.2  # no tile is asked for more texture than to within this of flat bands
MIN_STEPS = 8  # steps an epoch has at least: a small library is gone through more often
HELD_OUT_EVERY = 4
HELD_OUT_DRAWS = 2  # of a batch each, the same tiles after every epoch
MIN_FILES = 4
CHECKPOINT_EVERY = 10
AUDIT_FILES = 24
AUDIT_POSITIONS = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
MONOTONE_OCTAVES = 0.02
GOOD_OCTAVES = 0.05
SAMPLE_CONTROLS = (-3.0, -1.5, 0.0, 1.5, 3.0)
HISTORY_PANELS = {
    "distance to natural tiles of the same grain": ("distance_texture", "distance_smooth", "held_out_distance"),
    "violation: |measured - claimed| (octaves)": (
        "violation_texture",
        "violation_smooth",
        "violation_anywhere",
        "held_out_violation",
    ),
    "learning rate": ("learning_rate",),
    "seconds an epoch": ("seconds",),
}


@dataclass(frozen=True)
class TrainSettings:
    """What decides the weights, beside the tiles."""

    epochs: int = 100
    batch_size: int = 16
    seed: int = 0


@dataclass(frozen=True)
class Tiles:
    """Tiles in memory, on the training device.

    ``x`` is (tiles, n_mels, frames); ``log2_grain`` (tiles,) and ``loudest_frame_db`` (tiles,)
    stand beside it.
    """

    x: Tensor
    log2_grain: np.ndarray
    loudest_frame_db: Tensor

    def crops(self, index: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Random crops of some tiles, (len(index), n_mels, CROP_FRAMES), and their files' loudest frames."""
        starts = rng.integers(0, self.x.shape[2] - CROP_FRAMES + 1, len(index))
        x = torch.stack([self.x[i, :, a : a + CROP_FRAMES] for i, a in zip(index, starts, strict=True)])
        return x, self.loudest_frame_db[torch.as_tensor(index, device=self.x.device)]


# The model


def smooth_in_time(x: Tensor, n_frames: int) -> Tensor:
    """Running mean over an odd number of frames, (batch, n_mels, frames), edges repeated."""
    return F.avg_pool1d(F.pad(x, (n_frames // 2, n_frames // 2), mode="replicate"), n_frames, stride=1)


class PatternDetector(nn.Module):
    """D: picture (batch, n_mels, frames) -> pattern of the same shape, zero mean over bands.

    Two scales: 5 x 3 bands x frames, and a coarse one of 4 x 8 cells that sees a third of the
    spectrum at once. The frequency coordinate lets it learn that texture lives in some bands
    even where a sound has none yet. It starts as the spectral expander x - mean(x).
    """

    def __init__(self, n_mels: int, channels: int = CHANNELS):
        super().__init__()
        n_inputs = 4  # x, x minus frame mean, frame mean, frequency
        self.register_buffer("frequency", torch.linspace(-1, 1, n_mels), persistent=False)
        self.fine = nn.Conv2d(n_inputs, channels, (5, 3), padding=(2, 0))
        self.coarse = nn.Sequential(
            nn.Conv2d(n_inputs, channels, (9, 1), padding=(4, 0)),
            nn.SiLU(),
            nn.Conv2d(channels, channels, (5, 1), padding=(2, 0)),
        )
        self.mix = nn.Sequential(
            nn.SiLU(),
            nn.Conv2d(channels, channels, (3, 1), padding=(1, 0)),
            nn.SiLU(),
            nn.Conv2d(channels, 1, (3, 1), padding=(1, 0)),
        )
        nn.init.zeros_(self.mix[-1].weight)
        nn.init.zeros_(self.mix[-1].bias)

    def forward(self, x: Tensor) -> Tensor:
        """Pattern for unit control before scaling."""
        n_frames = x.shape[-1]
        x = smooth_in_time(x, SMOOTH_FRAMES)
        mean = x.mean(1, keepdim=True)
        inputs = torch.stack(
            (2 * x - 1, 2 * (x - mean), (2 * mean - 1).expand_as(x), self.frequency[None, :, None].expand_as(x)), 1
        )  # (batch, 4, n_mels, frames)
        fine = self.fine(F.pad(inputs, (1, 1, 0, 0), mode="replicate"))
        cells = F.avg_pool2d(
            F.pad(inputs, (0, -n_frames % CONTEXT_FRAMES, 0, 0), mode="replicate"), (CONTEXT_BANDS, CONTEXT_FRAMES)
        )
        coarse = self.coarse(cells)
        coarse = F.interpolate(coarse, scale_factor=(CONTEXT_BANDS, CONTEXT_FRAMES), mode="bilinear")[..., :n_frames]
        pattern = self.mix(fine + coarse)[:, 0] / FIRST_SCALE + (x - mean)
        return smooth_in_time(pattern - pattern.mean(1, keepdim=True), PATTERN_FRAMES)


class GrainProcessor(nn.Module):
    """The CAK layer and its detector: y = x + D(x) c gate(c) scale.

    Parameters
    ----------
    n_mels : int > 0
    channels : int > 0, of the detector
    """

    def __init__(self, n_mels: int, channels: int = CHANNELS):
        super().__init__()
        self.detector = PatternDetector(n_mels, channels)
        self.scale = nn.Parameter(torch.tensor(FIRST_SCALE))
        self.register_buffer("temperature", torch.tensor(GATE_TEMPERATURES[0]))

    def gate(self, control: Tensor) -> Tensor:
        """Signed soft gate in [0, 1): 0 at control 0, near 1 beyond 2 / temperature."""
        return torch.tanh(0.5 * self.temperature * control.abs())

    def pattern(self, x: Tensor) -> Tensor:
        """D(x) scale, (batch, n_mels, frames): the change of x for one unit of c gate(c)."""
        return self.detector(x) * self.scale

    def forward(self, x: Tensor, control: Tensor) -> Tensor:
        """Change of the picture, D(x) c gate(c) scale; x (batch, n_mels, frames), control (batch,) octaves."""
        return self.pattern(x) * (control * self.gate(control))[:, None, None]


# The two referees


def band_levels(x: Tensor, dynamic_range_db: float) -> Tensor:
    """Natural logarithm of the band powers of a picture, 0 for the file's loudest band."""
    return NEPER_PER_DB * dynamic_range_db * (x - 1)


def held_energy(x: Tensor, change: Tensor, log_shares: Tensor, dynamic_range_db: float) -> Tensor:
    """The picture that is heard: x + change, every frame's energy held, its loudest band as loud as before.

    Parameters
    ----------
    x, change : Tensor, shape (batch, n_mels, frames)
    log_shares : Tensor, shape (n_mels, 1), logarithm of `bins_per_band`
    """
    before, after = band_levels(x, dynamic_range_db), band_levels(x + change, dynamic_range_db)
    energy = torch.logsumexp(before + log_shares, 1, keepdim=True) - torch.logsumexp(
        after + log_shares, 1, keepdim=True
    )
    y = x + change + energy / (NEPER_PER_DB * dynamic_range_db)
    return y - y.amax((1, 2), keepdim=True) + x.amax((1, 2), keepdim=True)


def natural_distance(moved: Tensor, natural: Tensor) -> Tensor:
    """Critic: squared 2-Wasserstein distance between the values of each mel band, mean over bands.

    Parameters
    ----------
    moved, natural : Tensor, shape (batch, n_mels, frames), the same for both
    """

    def sorted_values(x: Tensor) -> Tensor:
        return x.clamp(0, 1).transpose(0, 1).flatten(1).sort(1).values  # (n_mels, batch * frames)

    return (sorted_values(moved) - sorted_values(natural)).square().mean()


def audited_octaves(
    x: Tensor, change: Tensor, loudest_frame_db: Tensor, shares: Tensor, dynamic_range_db: float, active_range_db: float
) -> Tensor:
    """Auditor: octaves by which a change of the picture lowers grain, from the band powers alone.

    A gain that is constant inside a band leaves the structure inside it alone, so the change of
    ln flatness is mean_k(g_k) - ln mean_k(P_k exp g_k) + ln mean_k(P_k), k weighted by the
    bins of each band. Frames count as stage 1 counts them: active, weighted by their flatness.

    Parameters
    ----------
    x, change : Tensor, shape (batch, n_mels, frames)
    loudest_frame_db : Tensor, shape (batch,), of the tile's file
    shares : Tensor, shape (n_mels, 1), `bins_per_band`

    Returns
    -------
    Tensor, shape (batch,)
    """
    before, gain = band_levels(x, dynamic_range_db), NEPER_PER_DB * dynamic_range_db * change
    log_shares = shares.log()
    energy_before = torch.logsumexp(before + log_shares, 1)  # (batch, frames)
    energy_after = torch.logsumexp(before + gain + log_shares, 1)
    flatness_before = (shares * before).sum(1) - energy_before
    flatness_change = (shares * gain).sum(1) - energy_after + energy_before
    loudest = torch.minimum(energy_before.amax(1), NEPER_PER_DB * loudest_frame_db)
    silent = energy_before < loudest[:, None] - NEPER_PER_DB * active_range_db
    weight = flatness_before.masked_fill(silent, -math.inf)
    return (torch.logsumexp(weight, 1) - torch.logsumexp(weight + flatness_change, 1)) / math.log(2)


# The game


class AuditGame:
    """Draws natural grain pairs and lets the referees judge what the model makes of them.

    Parameters
    ----------
    settings : SpectrogramSettings
    natural : Tiles, what a moved tile is compared with
    """

    def __init__(self, settings: SpectrogramSettings, natural: Tiles):
        self.settings = settings
        self.natural = natural
        self.shares = torch.tensor(bins_per_band(settings), dtype=torch.float32, device=natural.x.device)[:, None]

    def _violation(self, x: Tensor, change: Tensor, loudest_frame_db: Tensor, claim: Tensor) -> Tensor:
        grain = self.settings.grain
        moved = audited_octaves(
            x, change, loudest_frame_db, self.shares, self.settings.dynamic_range_db, grain.active_range_db
        )
        return (moved - claim).abs().mean()

    def pairs(
        self, model: GrainProcessor, movers: Tiles, batch_size: int, rng: np.random.Generator
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """One target grain, natural tiles of it, and tiles moved to it from below and from above.

        Returns
        -------
        dict with "texture" and/or "smooth": (distance to natural tiles, violation in octaves)
        """
        target = movers.log2_grain[rng.integers(len(movers.log2_grain))]
        nearness = np.abs(self.natural.log2_grain - target)
        near = np.flatnonzero(nearness <= max(NATURAL_OCTAVES, nearness.min()))
        chosen = rng.choice(near, batch_size)
        natural, _ = self.natural.crops(chosen, rng)
        scores = {}
        for name, sign in (("texture", -1), ("smooth", 1)):
            far = sign * (movers.log2_grain - target)
            candidates = np.flatnonzero((far >= CLAIM_OCTAVES[0]) & (far <= CLAIM_OCTAVES[1]))
            if len(candidates) == 0:
                continue
            moved = rng.choice(candidates, batch_size)
            x, loudest_frame_db = movers.crops(moved, rng)
            claim = movers.log2_grain[moved] - self.natural.log2_grain[chosen]
            claim = torch.as_tensor(claim, dtype=torch.float32, device=x.device)
            change = model(x, claim)
            y = held_energy(x, change, self.shares.log(), self.settings.dynamic_range_db)
            scores[name] = natural_distance(y, natural), self._violation(x, change, loudest_frame_db, claim)
        return scores

    def anywhere(self, model: GrainProcessor, movers: Tiles, batch_size: int, rng: np.random.Generator) -> Tensor:
        """Violation of any tiles at any position of the slider that their flatness leaves room for."""
        x, loudest_frame_db = movers.crops(rng.integers(0, len(movers.log2_grain), batch_size), rng)
        claim = torch.as_tensor(
            rng.uniform(-CONTROL_RANGE, CONTROL_RANGE, batch_size), dtype=torch.float32, device=x.device
        )
        levels = band_levels(x, self.settings.dynamic_range_db)
        flatness = ((self.shares * levels).sum(1) - torch.logsumexp(levels + self.shares.log(), 1)).exp().mean(1)
        claim = torch.maximum(claim, flatness.log2() + FLATTEST_OCTAVES)
        return self._violation(x, model(x, claim), loudest_frame_db, claim)


def pattern_in_db(model: GrainProcessor, x: np.ndarray, settings: SpectrogramSettings) -> np.ndarray:
    """Gain in dB for unit amount, (n_mels, frames) like ``x``, gone through in pieces if it is long."""
    device = next(model.parameters()).device
    pieces = []
    with torch.inference_mode():
        for start in range(0, x.shape[1], CHUNK_FRAMES):
            first = max(0, start - CHUNK_MARGIN)
            piece = torch.from_numpy(np.ascontiguousarray(x[:, first : start + CHUNK_FRAMES + CHUNK_MARGIN])).to(device)
            pattern = model.pattern(piece[None])[0, :, start - first :][:, :CHUNK_FRAMES]
            pieces.append(pattern.cpu().numpy())
    return settings.dynamic_range_db * np.concatenate(pieces, axis=1)


# Training


@dataclass(frozen=True)
class EpochScores:
    """One row of training_history.csv."""

    epoch: int
    distance_texture: float
    distance_smooth: float
    violation_texture: float
    violation_smooth: float
    violation_anywhere: float
    held_out_distance: float
    held_out_violation: float
    learning_rate: float
    gate_temperature: float
    seconds: float


def split_files(pairs: TrainingPairs, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of the sources to train on and of those to judge on: every fourth in the order of grain."""
    order = sorted(range(len(pairs.sources)), key=lambda i: (pairs.sources[i].grain, pairs.sources[i].path))
    offset = int(np.random.default_rng(seed).integers(HELD_OUT_EVERY))
    held_out = order[offset::HELD_OUT_EVERY]
    return sorted(set(order) - set(held_out)), sorted(held_out)


def learning_rate_at(progress: float) -> float:
    """Learning rate at a share 0..1 of the training: a tenth of it to warm up, then a half cosine down."""
    warm_up = min(1.0, (progress + 1e-3) / 0.1)
    return LEARNING_RATE * warm_up * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def train_epoch(
    game: AuditGame,
    model: GrainProcessor,
    optimizer: torch.optim.Optimizer,
    movers: Tiles,
    epoch: int,
    settings: TrainSettings,
) -> dict[str, float]:
    """One epoch; its randomness hangs on seed and epoch alone, so that a resumed run repeats it.

    Raises
    ------
    PipelineError
        If a loss or gradient is not finite.
    """
    rng = np.random.default_rng([settings.seed, epoch])
    n_steps = max(MIN_STEPS, math.ceil(len(movers.log2_grain) / settings.batch_size))
    model.train()
    model.temperature.fill_(np.geomspace(*GATE_TEMPERATURES, settings.epochs)[epoch - 1])
    sums: dict[str, list[float]] = {}
    for step in range(n_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at((epoch - 1 + step / n_steps) / settings.epochs)
        scores = game.pairs(model, movers, settings.batch_size, rng)
        anywhere = game.anywhere(model, movers, settings.batch_size, rng)
        loss = REACH_WEIGHT * anywhere
        for distance, violation in scores.values():
            loss = loss + CRITIC_WEIGHT * distance + VIOLATION_WEIGHT * violation
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if not torch.isfinite(norm):
            raise PipelineError(f"epoch {epoch}: the {'gradient' if torch.isfinite(loss) else 'loss'} is not finite")
        optimizer.step()
        sums.setdefault("violation_anywhere", []).append(anywhere.item())
        for name, (distance, violation) in scores.items():
            sums.setdefault(f"distance_{name}", []).append(distance.item())
            sums.setdefault(f"violation_{name}", []).append(violation.item())
    return {name: float(np.mean(values)) for name, values in sums.items()}


def judge(game: AuditGame, model: GrainProcessor, held_out: Tiles, settings: TrainSettings) -> tuple[float, float]:
    """Distance to natural tiles and violation on held-out tiles, the same draw every time."""
    rng = np.random.default_rng([settings.seed, 2**31])
    model.eval()
    with torch.no_grad():
        scores = [
            pair
            for _ in range(HELD_OUT_DRAWS)
            for pair in game.pairs(model, held_out, settings.batch_size, rng).values()
        ]
    if not scores:
        return math.nan, math.nan
    return float(np.mean([d.item() for d, _ in scores])), float(np.mean([v.item() for _, v in scores]))


# The audit


@dataclass(frozen=True)
class AuditRow:
    """One held-out file rendered at one position of the slider and measured by stage 1."""

    file: str
    asked_octaves: float
    got_octaves: float
    within_reach: bool
    loudness_change_db: float


def rms_of(sound: Sound) -> float:
    """Root mean square of all samples of a sound."""
    return math.sqrt(
        sum(float(np.square(block, dtype=np.float64).sum()) for block in sound.blocks())
        / (sound.n_samples * sound.channels)
    )


def audit_file(path: Path, model: GrainProcessor, settings: SpectrogramSettings) -> list[AuditRow]:
    """Render one file across the slider and measure what came out.

    Raises
    ------
    PipelineError
        If the file can't be read any more.
    """
    sound = open_sound(path)
    analysis = analyse(sound, settings)
    pattern_db = pattern_in_db(model, analysis.x, settings)
    rows = []
    for octaves in AUDIT_POSITIONS:
        result = move_grain(analysis, pattern_db, octaves, ceiling=CEILING)
        loudness_db = 20 * math.log10(rms_of(result.sound) / rms_of(sound))
        rows.append(AuditRow(path.name, octaves, result.got_octaves, result.within_reach, loudness_db))
    return rows


def summarise_audit(rows: list[AuditRow], violation: float, n_files: int, spread_octaves: float) -> dict:
    """The audit in numbers and one verdict in words, as plain scalars."""
    files = sorted({row.file for row in rows})
    errors = [abs(row.got_octaves - row.asked_octaves) for row in rows if row.within_reach and row.asked_octaves]
    true_files = sum(
        all(
            abs(row.got_octaves - row.asked_octaves) <= GOOD_OCTAVES
            for row in rows
            if row.file == name and row.within_reach
        )
        for name in files
    )
    got = {name: [row.got_octaves for row in rows if row.file == name] for name in files}
    monotone = sum(bool(np.all(np.diff(octaves) >= -MONOTONE_OCTAVES)) for octaves in got.values())
    verdict = f"the slider keeps its word within {GOOD_OCTAVES:g} octaves on {true_files} of {len(files)} files"
    if n_files < FEW_FILES:
        verdict += f"; the library is small ({n_files} files): {FEW_FILES} or more teach a better pattern"
    if spread_octaves < NARROW_OCTAVES:
        verdict += (
            f"; its files hardly differ in grain ({spread_octaves:.2f} octaves): add smoother and grainier sounds"
        )
    return {
        "verdict": verdict,
        "files": len(files),
        "files_true": true_files,
        "files_monotone": monotone,
        "error_median_octaves": float(np.median(errors)) if errors else 0.0,
        "error_95th_octaves": float(np.percentile(errors, 95)) if errors else 0.0,
        "within_reach_share": float(np.mean([row.within_reach for row in rows])) if rows else 0.0,
        "loudness_change_max_db": max((abs(row.loudness_change_db) for row in rows), default=0.0),
        "held_out_violation_octaves": violation if math.isfinite(violation) else None,
    }


# Pictures


def save_figure(figure, path: Path) -> None:
    """Write a matplotlib figure as PNG under its final name only when it is whole."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def draw_history(path: Path, history: list[EpochScores]) -> None:
    """training_history.png: what the referees said, epoch by epoch."""
    from matplotlib.figure import Figure

    epochs = [row.epoch for row in history]
    figure = Figure(figsize=(11, 7), layout="constrained")
    panels = figure.subplots(2, 2)
    for axes, (title, names) in zip(panels.ravel(), HISTORY_PANELS.items(), strict=True):
        for name in names:
            axes.plot(
                epochs,
                [getattr(row, name) for row in history],
                label=name.replace("_", " "),
                marker="." if len(epochs) < 3 else "",
            )
        axes.set(title=title, xlabel="epoch", ylim=(0, None))
        axes.grid(alpha=0.3)
        if len(names) > 1:
            axes.legend()
    figure.suptitle(
        "Both should fall and then stay; held-out curves that rise again mean too small a library", fontsize=10
    )
    save_figure(figure, path)


def draw_sample(path: Path, model: GrainProcessor, x: Tensor, settings: SpectrogramSettings) -> None:
    """A tile at five positions of the slider, and the pattern that was added."""
    from matplotlib.figure import Figure

    log_shares = torch.tensor(bins_per_band(settings), dtype=torch.float32, device=x.device)[:, None].log()
    controls = torch.tensor(SAMPLE_CONTROLS, device=x.device)
    with torch.no_grad():
        batch = x.expand(len(controls), -1, -1)
        moved = held_energy(batch, model(batch, controls), log_shares, settings.dynamic_range_db).clamp(0, 1).cpu()
        pattern_db = settings.dynamic_range_db * model.pattern(x[None])[0].cpu().numpy()
    duration_s = x.shape[1] * settings.grain.hop_length / settings.grain.sample_rate_hz
    extent = (0, duration_s, 0, settings.n_mels)
    figure = Figure(figsize=(15, 6.5), layout="constrained")
    panels = figure.subplots(2, 3).ravel()
    for axes, control, picture in zip(panels, SAMPLE_CONTROLS, moved, strict=False):
        level_db = settings.dynamic_range_db * (picture.numpy() - 1)
        image = axes.imshow(
            level_db, "magma", aspect="auto", origin="lower", vmin=-settings.dynamic_range_db, vmax=0, extent=extent
        )
        axes.set_title(
            "0: the tile itself" if control == 0 else f"{control:+.1f} ({'smooth' if control > 0 else 'texture'})"
        )
    figure.colorbar(image, ax=panels[2], label="level (dB under the loudest band)")
    limit = float(np.abs(pattern_db).max()) or 1.0
    image = panels[5].imshow(
        pattern_db, "RdBu_r", aspect="auto", origin="lower", vmin=-limit, vmax=limit, extent=extent
    )
    panels[5].set_title("pattern: gain for one octave smoother")
    figure.colorbar(image, ax=panels[5], label="gain (dB)")
    for axes in panels:
        label_axes(axes, settings)
        axes.set_xlabel("time (s)")
    save_figure(figure, path)


def draw_audit(path: Path, rows: list[AuditRow], verdict: str) -> None:
    """audit.png: octaves measured against octaves asked, a line for each held-out file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.subplots()
    ends = (-CONTROL_RANGE, CONTROL_RANGE)
    axes.plot(ends, ends, color="0.4", linestyle="--", label="the law: got = asked", zorder=3)
    for name in sorted({row.file for row in rows}):
        mine = [row for row in rows if row.file == name]
        line = axes.plot(
            [row.asked_octaves for row in mine], [row.got_octaves for row in mine], alpha=0.6, linewidth=1
        )[0]
        beyond = [row for row in mine if not row.within_reach]
        axes.plot(
            [row.asked_octaves for row in beyond],
            [row.got_octaves for row in beyond],
            "o",
            mfc="none",
            color=line.get_color(),
        )
    axes.plot([], [], "o", mfc="none", color="0.3", label="beyond the file's reach")
    axes.set(xlabel="asked (octaves: - texture, + smooth)", ylabel="measured (octaves)", aspect="equal")
    axes.grid(alpha=0.3)
    axes.legend()
    axes.set_title("\n".join(verdict.split("; ")), fontsize=10)
    save_figure(figure, path)


# Files


def save_checkpoint(path: Path, content: dict) -> None:
    """Write a checkpoint (tensors, plain scalars, lists and dicts) so that it is never half there."""
    with replacing(path) as temporary:
        torch.save({"version": CHECKPOINT_VERSION, **content}, temporary)


def read_checkpoint(path: Path) -> dict:
    """Read a checkpoint; no code in it ever runs.

    Raises
    ------
    PipelineError
        If it is missing, damaged, of another version or not one of ours.
    """
    import pickle
    import zipfile

    if not path.exists():
        raise PipelineError(f"{path}: no model there; make one with: python cak_grain_processor.py")
    try:
        if not zipfile.is_zipfile(path):  # as torch.save writes it; the older format is not read at all
            raise ValueError("no zip archive")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        OSError,
        RuntimeError,
        ValueError,
        EOFError,
        LookupError,
        TypeError,
        AttributeError,
        pickle.UnpicklingError,
    ) as err:
        raise PipelineError(
            f"{path}: not readable as a model; make it again with: python cak_grain_processor.py"
        ) from err
    if not isinstance(content, dict) or content.get("version") != CHECKPOINT_VERSION:
        raise PipelineError(
            f"{path}: is no model of version {CHECKPOINT_VERSION}; make it again with: python cak_grain_processor.py"
        )
    return content


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to render: the network, the settings it was trained with, and its history in plain values."""

    model: GrainProcessor
    settings: SpectrogramSettings
    training: dict
    audit: dict

    def pattern_db(self, x: np.ndarray) -> np.ndarray:
        """Gain in dB for unit amount of smoothing, (n_mels, frames) like the picture ``x``."""
        return pattern_in_db(self.model, x, self.settings)


def load_model(path: Path, device: str = "cpu") -> LoadedModel:
    """Read a final model for rendering.

    Raises
    ------
    PipelineError
        If the file is no usable model.
    """
    content = read_checkpoint(path)
    settings = parse_spectrogram_settings(content.get("settings"), f"{path}: settings")
    channels = content.get("channels")
    if not isinstance(channels, int) or not 1 <= channels <= 256:
        raise PipelineError(f"{path}: field channels is {channels!r}, not 1 to 256")
    model = GrainProcessor(settings.n_mels, channels)
    try:
        model.load_state_dict(content["weights"])
    except (KeyError, RuntimeError, AttributeError, TypeError) as err:
        raise PipelineError(
            f"{path}: its weights do not fit the model; make it again with: python cak_grain_processor.py"
        ) from err
    if not all(torch.isfinite(tensor).all() for tensor in model.state_dict().values()):
        raise PipelineError(f"{path}: its weights are not finite; make it again with: python cak_grain_processor.py")
    return LoadedModel(model.to(device).eval(), settings, content.get("training", {}), content.get("audit", {}))


def load_tiles(pairs: TrainingPairs, sources: Iterable[int], device: str) -> Tiles:
    """All tiles of some sources, in memory.

    Raises
    ------
    PipelineError
        If an array is missing or damaged.
    """
    wanted = {pairs.sources[i].path for i in sources}
    tiles = [tile for tile in pairs.tiles if tile.source in wanted]
    x = np.stack([load_tile(tile.array, pairs.settings) for tile in tiles])
    return Tiles(
        torch.from_numpy(x).to(device),
        np.log2([tile.grain for tile in tiles]),
        torch.tensor([tile.loudest_frame_db for tile in tiles], dtype=torch.float32, device=device),
    )


def write_history(path: Path, history: list[EpochScores]) -> None:
    """Write training_history.csv, one row an epoch."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*asdict(history[0])])
        writer.writeheader()
        writer.writerows(asdict(row) for row in history)


# The stage


def choose_device(wanted: str) -> str:
    """The device for "auto", "cpu", "cuda" or "mps".

    Raises
    ------
    PipelineError
        If the device asked for is not there.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if available[name])
    if not available[wanted]:
        raise PipelineError(f"--device {wanted}: not available here; use --device auto")
    return wanted


def check_library(pairs: TrainingPairs) -> None:
    """Refuse a library that there is nothing to learn from, before any training.

    Raises
    ------
    PipelineError
        Too few files, or all of one grain.
    """
    if len(pairs.sources) < MIN_FILES:
        raise PipelineError(
            f"{len(pairs.sources)} files: a model needs at least {MIN_FILES}, better {FEW_FILES}; add recordings and run stages 1 and 2 again"
        )
    spread = max(np.log2([tile.grain for tile in pairs.tiles])) - min(np.log2([tile.grain for tile in pairs.tiles]))
    if spread < 2 * CLAIM_OCTAVES[0]:
        raise PipelineError(
            f"all tiles are of one grain (within {spread:.2f} octaves): nothing to learn; add smoother and grainier sounds"
        )


def fingerprint(pairs: TrainingPairs, settings: TrainSettings) -> str:
    """What a run that is resumed must have in common with the one that stopped."""
    grains = [f"{tile.source.name}:{tile.start_s}:{tile.grain!r}" for tile in pairs.tiles]
    return hashlib.sha256(repr((asdict(settings), settings_record(pairs.settings), grains)).encode()).hexdigest()


def train(
    pairs: TrainingPairs,
    settings: TrainSettings,
    output_dir: Path,
    *,
    device: str = "cpu",
    resume: bool = False,
    progress: Callable[[Iterable, int], Iterable] = lambda items, total: items,
) -> tuple[GrainProcessor, list[EpochScores]]:
    """Train a model, with a checkpoint after every epoch and pictures every tenth.

    Raises
    ------
    PipelineError
        If the tiles can't be used, the training diverges or ``resume`` finds nothing that fits.
    """
    check_library(pairs)
    train_on, judge_on = split_files(pairs, settings.seed)
    movers, held_out = load_tiles(pairs, train_on, device), load_tiles(pairs, judge_on, device)
    torch.manual_seed(settings.seed)
    model = GrainProcessor(pairs.settings.n_mels).to(device)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, betas=(0.9, 0.99))
    game = AuditGame(pairs.settings, movers)
    latest, identity = output_dir / "checkpoints" / "latest.pt", fingerprint(pairs, settings)
    history: list[EpochScores] = []
    if resume:
        content = read_checkpoint(latest)
        if content.get("fingerprint") != identity:
            raise PipelineError(f"{latest}: was made from other tiles or options; leave out --resume to start again")
        model.load_state_dict(content["weights"])
        optimizer.load_state_dict(content["optimizer"])
        history = [EpochScores(**row) for row in content["history"]]
    sample = held_out.x[int(np.argsort(held_out.log2_grain)[len(held_out.log2_grain) // 2])]
    for epoch in progress(range(len(history) + 1, settings.epochs + 1), settings.epochs - len(history)):
        started = time.monotonic()
        try:
            scores = train_epoch(game, model, optimizer, movers, epoch, settings)
        except PipelineError as err:
            raise PipelineError(f"{err}; the last good checkpoint is {latest if history else 'none'}") from err
        distance, violation = judge(game, model, held_out, settings)
        missing = dict.fromkeys(
            ("distance_texture", "distance_smooth", "violation_texture", "violation_smooth"), math.nan
        )
        row = EpochScores(
            epoch=epoch, **{**missing, **scores}, held_out_distance=distance, held_out_violation=violation,
            learning_rate=learning_rate_at(epoch / settings.epochs), gate_temperature=float(model.temperature),
            seconds=time.monotonic() - started,
        )  # fmt: skip
        history.append(row)
        state = {
            "weights": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "history": [asdict(row) for row in history],
            "fingerprint": identity,
        }
        save_checkpoint(latest, state)
        if epoch % CHECKPOINT_EVERY == 0 or epoch == settings.epochs:
            save_checkpoint(
                output_dir / "checkpoints" / f"epoch_{epoch:04d}.pt", final_content(model, pairs, settings, history, {})
            )
            draw_sample(output_dir / "samples" / f"epoch_{epoch:04d}.png", model, sample, pairs.settings)
            write_history(output_dir / "training_history.csv", history)
            draw_history(output_dir / "training_history.png", history)
    return model, history


def final_content(
    model: GrainProcessor, pairs: TrainingPairs, settings: TrainSettings, history: list[EpochScores], audit: dict
) -> dict:
    """Everything needed to render, and where it comes from; no optimiser state."""
    return {
        "weights": {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
        "channels": model.detector.fine.out_channels,
        "settings": settings_record(pairs.settings),
        "training": {
            **asdict(settings),
            "epochs_done": len(history),
            "files": len(pairs.sources),
            "tiles": len(pairs.tiles),
            "grain_spread_octaves": grain_spread_octaves(source.grain for source in pairs.sources),
            "torch": str(torch.__version__),
            "numpy": str(np.__version__),
        },
        "audit": audit,
    }


def audit(
    pairs: TrainingPairs,
    model: GrainProcessor,
    history: list[EpochScores],
    seed: int,
    progress: Callable[[Iterable, int], Iterable] = lambda items, total: items,
) -> tuple[list[AuditRow], dict, list[str]]:
    """Render held-out files across the slider and measure them with stage 1's function.

    Returns
    -------
    rows, summary, and a line for each file that could not be audited
    """
    _, judge_on = split_files(pairs, seed)
    chosen = [
        judge_on[i] for i in np.linspace(0, len(judge_on) - 1, min(AUDIT_FILES, len(judge_on))).round().astype(int)
    ]
    rows, failures = [], []
    model.eval()
    for source in progress([pairs.sources[i] for i in chosen], len(chosen)):
        try:
            rows += audit_file(source.path, model, pairs.settings)
        except PipelineError as err:
            failures.append(f"{one_line(source.path)}: {err}")
    spread = grain_spread_octaves(source.grain for source in pairs.sources)
    return rows, summarise_audit(rows, history[-1].held_out_violation, len(pairs.sources), spread), failures


# The command line


def positive(text: str) -> int:
    """An integer of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def build_parser() -> argparse.ArgumentParser:
    """The command line of stage 3."""
    parser = argparse.ArgumentParser(
        prog="cak_grain_processor.py", description="Learn the grain pattern of a library and audit the model."
    )
    parser.add_argument(
        "--pairs",
        type=Path,
        default=Path(DEFAULT_PAIRS),
        metavar="FILE",
        help="what stage 2 wrote (default: %(default)s)",
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path(DEFAULT_OUTPUT_DIR),
        metavar="FOLDER",
        help="gets the model and its reports (default: %(default)s)",
    )
    parser.add_argument("--epochs", type=positive, default=TrainSettings.epochs, help="(default: %(default)s)")
    parser.add_argument("--batch-size", type=positive, default=TrainSettings.batch_size, help="(default: %(default)s)")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=TrainSettings.seed, help="the same seed gives the same model (default: %(default)s)"
    )
    parser.add_argument("--resume", action="store_true", help="go on after the last epoch of an interrupted run")
    return parser


def _go_on_hint(args: argparse.Namespace) -> str:
    latest = args.output_dir / "checkpoints" / "latest.pt"
    return (
        "interrupted; go on with --resume"
        if latest.exists()
        else "interrupted before the first epoch ended; start again"
    )


def _run(args: argparse.Namespace) -> int:
    pairs = read_pairs(args.pairs)
    if args.seed < 0:
        raise PipelineError(f"--seed {args.seed}: must be 0 or more")
    for folder in (args.output_dir, args.output_dir / "checkpoints", args.output_dir / "samples"):
        check_writable(folder)
    settings = TrainSettings(args.epochs, args.batch_size, args.seed)
    device = choose_device(args.device)
    print(f"training on {len(pairs.tiles)} tiles of {len(pairs.sources)} files, device {device}", file=sys.stderr)
    model, history = train(
        pairs, settings, args.output_dir, device=device, resume=args.resume, progress=progress_bar("training", "epoch")
    )
    rows, summary, failures = audit(pairs, model, history, args.seed, progress_bar("auditing"))
    save_checkpoint(args.output_dir / FINAL_NAME, final_content(model, pairs, settings, history, summary))
    write_json(
        args.output_dir / "audit.json", {"version": 1, "summary": summary, "rows": [asdict(row) for row in rows]}
    )
    draw_audit(args.output_dir / "audit.png", rows, summary["verdict"])
    for failure in failures:
        warn(f"not audited: {failure}")
    print(f"audit: {summary['verdict']}")
    print(
        f"       error {summary['error_median_octaves']:.3f} octaves in the median, {summary['error_95th_octaves']:.3f} at the 95th percentile; "
        f"{summary['within_reach_share']:.0%} of positions within reach"
    )
    print(f"wrote {args.output_dir / FINAL_NAME}, audit.png, audit.json, training_history.png and .csv beside it")
    print(
        "next: python neural_audio_processor.py"
        + ("" if args.output_dir == Path(DEFAULT_OUTPUT_DIR) else f" --model {str(args.output_dir / FINAL_NAME)!r}")
    )
    return 1 if failures else 0


def main(argv: list[str] | None = None) -> int:
    """Run stage 3 from the command line; returns the exit status."""
    args = build_parser().parse_args(argv)
    return run_main(lambda: _run(args), lambda: _go_on_hint(args))


if __name__ == "__main__":
    sys.exit(main())
