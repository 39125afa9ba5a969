"""A real library: do moved tiles look like natural tiles of the same grain?

    python tests/benchmarks/real_library.py training_pairs.json [--seeds 0,1,2] [--variants full]

Three quarters of the files train, the others are judged: their tiles below the library's median grain are raised and
those above it are lowered, by 1, 2 and 3 octaves, each contender with the amount at which the auditor measures
exactly that. The tiles are compared in 12 principal components of each band's mean and standard deviation over time.

nearest: mean distance to the 5 nearest natural tiles of that grain (within half an octave, of other files).
frechet: distance of the Gaussians fitted to moved and to natural tiles.
fooled: error rate of a logistic regression that separates moved from natural tiles, on files that it was not trained
on; 0.5 means that it can't.

Lower is better for the first two, higher for the last.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from contenders import HAND_MADE, VARIANTS, Contender, contender, train_on, variants_of
from scipy.linalg import sqrtm

from neural_grain.data.tiles import TrainingPairs, load_tile, read_pairs
from neural_grain.dsp.gains import lerp_weights
from neural_grain.dsp.settings import CELL_FRAMES, DYNAMIC_RANGE_DB
from neural_grain.learn.dataset import Tiles, split_files
from neural_grain.learn.game import AuditGame

OCTAVES = (1.0, 2.0, 3.0)
DIRECTIONS = {"texture": -1, "smooth": 1}
AUDIBLE_DB = 80.0  # below the loudest band
N_COMPONENTS, N_NEAREST, NEAR_OCTAVES = 12, 5, 0.5

Table = dict[tuple[str, str], list["Scores"]]
"""Scores of each seed, by direction and name of the contender."""


class Scores(NamedTuple):
    """What the three judges say of one contender."""

    nearest: float
    frechet: float
    fooled: float


class Library(NamedTuple):
    """All tiles of a library and what is compared of them."""

    x: np.ndarray  # (tiles, n_mels, frames)
    file: np.ndarray  # (tiles,), index of the source
    held_out: np.ndarray  # (tiles,), bool
    log2_grain: np.ndarray  # (tiles,)
    centre: np.ndarray  # (features,)
    components: np.ndarray  # (N_COMPONENTS, features)

    def project(self, x: np.ndarray) -> np.ndarray:
        """Principal components of tiles: (tiles, N_COMPONENTS)."""
        return (features(x) - self.centre) @ self.components.T


class Comparison(NamedTuple):
    """Moved tiles, and the natural tiles that each of them is compared with, as principal components."""

    moved: np.ndarray
    moved_file: np.ndarray
    natural: np.ndarray
    natural_file: np.ndarray
    nearest: list[float]  # mean distance of each moved tile to the nearest natural ones


def features(x: np.ndarray) -> np.ndarray:
    """Mean and standard deviation over time of each band, within the audible range: (tiles, 2 n_mels)."""
    x = np.clip(1 + (x - 1) * (DYNAMIC_RANGE_DB / AUDIBLE_DB), 0, 1)
    return np.concatenate((x.mean(2), x.std(2)), axis=1)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of the Gaussians fitted to two sets (Heusel et al., NIPS 2017)."""
    covariances = [np.cov(z.T) + 1e-6 * np.eye(z.shape[1]) for z in (a, b)]
    cross = sqrtm(covariances[0] @ covariances[1]).real
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(covariances[0] + covariances[1] - 2 * cross))


def classifier_error(comparison: Comparison) -> float:
    """Error rate of a logistic regression that is trained on even files and tested on odd ones, and the reverse."""
    moved, natural = comparison.moved, comparison.natural
    z = torch.tensor(np.concatenate((moved, natural)), dtype=torch.float32)
    z = (z - z.mean(0)) / (z.std(0) + 1e-6)
    label = torch.cat((torch.ones(len(moved)), torch.zeros(len(natural))))
    half = torch.tensor(np.concatenate((comparison.moved_file, comparison.natural_file)) % 2)
    errors = []
    for train in (0, 1):
        weights = torch.zeros(z.shape[1] + 1, requires_grad=True)
        optimizer = torch.optim.Adam([weights], 0.05)
        share = label[half == train].mean()
        balance = torch.where(label == 1, 0.5 / share, 0.5 / (1 - share))
        for _ in range(300):
            logits = z @ weights[1:] + weights[0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, label, balance, reduction="none")
            loss = loss[half == train].mean() + 1e-2 * weights.square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        wrong = ((logits > 0).float() != label).float()[half != train]
        tested = label[half != train]
        errors.append(0.5 * (wrong[tested == 1].mean() + wrong[tested == 0].mean()).item())
    return float(np.mean(errors))


def move(game: AuditGame, x: np.ndarray, pattern_of: Contender, octaves: float) -> np.ndarray:
    """Tiles moved by so many octaves along a contender's pattern."""
    n_frames = x.shape[2]
    weights = lerp_weights((np.arange(n_frames) + 0.5) / CELL_FRAMES, -(-n_frames // CELL_FRAMES))
    patterns = [pattern_of(tile) for tile in x]
    if patterns[0].ndim == 3:
        patterns = [both[1 if octaves < 0 else 0] for both in patterns]
    pattern = torch.from_numpy(np.stack([np.float32(weights.interpolate(cells)) for cells in patterns]))
    pattern = 0.04 * pattern / pattern.square().mean((1, 2), keepdim=True).sqrt()
    tiles = torch.from_numpy(x)
    amount = game.solve_amount(tiles, pattern, torch.full((len(x),), octaves))
    return game.apply(tiles, pattern * amount[:, None, None]).clamp(0, 1).numpy()


def open_library(pairs: TrainingPairs, seed: int) -> Library:
    """Read all tiles; the seed decides which are held out."""
    x = np.stack([load_tile(tile.array, pairs.settings) for tile in pairs.tiles])
    numbers = {source.path: i for i, source in enumerate(pairs.sources)}
    file = np.array([numbers[tile.source] for tile in pairs.tiles])
    natural = features(x)
    centre = natural.mean(0)
    components = np.linalg.svd(natural - centre, full_matrices=False)[2][:N_COMPONENTS]
    log2_grain = Tiles.of(x, pairs.settings).log2_grain
    return Library(x, file, np.isin(file, split_files(pairs, seed).held_out), log2_grain, centre, components)


def compare(library: Library, game: AuditGame, pattern_of: Contender | None, sign: int) -> Comparison:
    """Move the held-out tiles of one half of the grains, and find natural tiles of the grain that they now have."""
    z, grain = library.project(library.x), library.log2_grain
    chosen = np.flatnonzero(library.held_out & (sign * (grain - np.median(grain)) > 0))
    moved, moved_file, natural, natural_file, nearest = [], [], [], [], []
    for octaves in OCTAVES:
        x = library.x[chosen]
        y = x if pattern_of is None else move(game, x, pattern_of, sign * octaves)
        for point, i, target in zip(library.project(y), chosen, grain[chosen] - sign * octaves, strict=True):
            near = np.flatnonzero((np.abs(grain - target) <= NEAR_OCTAVES) & (library.file != library.file[i]))
            if len(near) < N_NEAREST:
                continue
            nearest.append(np.sort(np.linalg.norm(z[near] - point, axis=1))[:N_NEAREST].mean())
            moved.append(point)
            moved_file.append(library.file[i])
            natural += list(z[near])
            natural_file += list(library.file[near])
    return Comparison(np.array(moved), np.array(moved_file), np.array(natural), np.array(natural_file), nearest)


def judge(pairs: TrainingPairs, seed: int, variants: list[str], epochs: int, table: Table) -> None:
    """Add one seed's scores of all contenders to the table."""
    library = open_library(pairs, seed)
    train = list(library.x[~library.held_out])
    game = AuditGame(pairs.settings, Tiles.of(train, pairs.settings), seed)
    contenders: dict[str, Contender | None] = {**HAND_MADE, "nothing": None}
    for variant in variants:
        contenders[variant] = contender(train_on(train, pairs.settings, variant, seed, epochs), pairs.settings)
    for direction, sign in DIRECTIONS.items():
        for name, pattern_of in contenders.items():
            comparison = compare(library, game, pattern_of, sign)
            distance = frechet_distance(comparison.moved, comparison.natural)
            scores = Scores(float(np.mean(comparison.nearest)), distance, classifier_error(comparison))
            table.setdefault((direction, name), []).append(scores)


def print_table(table: Table, variants: list[str]) -> None:
    """Means over seeds, and their ratios to the best hand-made contender."""
    means = {key: Scores(*np.mean(scores, axis=0)) for key, scores in table.items()}
    print("mean over seeds; ratio to the best hand-made contender")
    for direction in DIRECTIONS:
        best = Scores(*np.min([means[direction, name] for name in HAND_MADE], axis=0))
        print(f"{direction:46s} nearest  ratio  frechet  ratio  fooled")
        for name in (*HAND_MADE, "nothing", *variants):
            nearest, frechet, fooled = means[direction, name]
            ratios = nearest / best.nearest, frechet / best.frechet
            print(f"  {name:44s} {nearest:7.3f} {ratios[0]:6.2f} {frechet:8.3f} {ratios[1]:6.2f} {fooled:7.2f}")
    totals = []
    for name in (*HAND_MADE, *variants):
        product = math.prod(means[direction, name].nearest * means[direction, name].frechet for direction in DIRECTIONS)
        totals.append(f"{name} {product**0.25:.3f}")
    print("geometric mean of the four distances: " + ", ".join(totals))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--variants", default="full", help=f"of: {'; '.join(VARIANTS)} (or all)")
    parser.add_argument("--epochs", type=int, default=100)
    args = parser.parse_args()
    pairs, variants, table = read_pairs(args.pairs), variants_of(args.variants), {}
    for seed in map(int, args.seeds.split(",")):
        judge(pairs, seed, variants, args.epochs, table)
    print_table(table, variants)


if __name__ == "__main__":
    main()
