"""A real library: do moved tiles look like natural tiles of the same grain?

    python tests/benchmarks/real_library.py training_pairs.json [--seeds 0,1,2] [--variants full]

Three quarters of the files train, the rest are judged: of these, tiles below the library's median
grain are raised and those above it lowered, by 1, 2 and 3 octaves, each contender by the amount
at which the auditor measures just that. Judges, the lower the better but for the last:
nearest: mean distance to the 5 nearest natural tiles of that grain (within half an octave, of
other files) in 12 principal components of each band's mean and standard deviation over time;
frechet: distance of the Gaussians fitted to moved and to natural tiles in the same components;
fooled: error rate of a logistic regression that tells moved from natural tiles on files that it
was not trained on (0.5: it can't tell them apart).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from contenders import HAND_MADE, VARIANTS, contender, train_on
from scipy.linalg import sqrtm

from neural_grain.data.tiles import load_tile, read_pairs
from neural_grain.dsp.gains import lerp_weights
from neural_grain.dsp.settings import CELL_FRAMES, DYNAMIC_RANGE_DB
from neural_grain.learn.auditor import renormalise
from neural_grain.learn.dataset import Tiles, split_files
from neural_grain.learn.game import AuditGame

OCTAVES = (1.0, 2.0, 3.0)
HEARD_DB = 80.0  # below the loudest band
N_COMPONENTS, N_NEAREST, NEAR_OCTAVES = 12, 5, 0.5


def features(tiles: np.ndarray) -> np.ndarray:
    """Mean and standard deviation over time of each band, as deep as one hears: (tiles, 2 n_mels)."""
    tiles = np.clip(1 + (tiles - 1) * (DYNAMIC_RANGE_DB / HEARD_DB), 0, 1)
    return np.concatenate((tiles.mean(2), tiles.std(2)), axis=1)


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of the Gaussians of two sets (Heusel et al., NIPS 2017)."""
    covariances = [np.cov(z.T) + 1e-6 * np.eye(z.shape[1]) for z in (a, b)]
    cross = sqrtm(covariances[0] @ covariances[1]).real
    return float(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(covariances[0] + covariances[1] - 2 * cross))


def fooled(moved: np.ndarray, natural: np.ndarray, moved_file: np.ndarray, natural_file: np.ndarray) -> float:
    """Error rate of a logistic regression, trained on even files and tried on odd ones and the other way round."""
    z = torch.tensor(np.concatenate((moved, natural)), dtype=torch.float32)
    z = (z - z.mean(0)) / (z.std(0) + 1e-6)
    label = torch.cat((torch.ones(len(moved)), torch.zeros(len(natural))))
    part = torch.tensor(np.concatenate((moved_file, natural_file)) % 2)
    errors = []
    for train in (0, 1):
        weights = torch.zeros(z.shape[1] + 1, requires_grad=True)
        optimizer = torch.optim.Adam([weights], 0.05)
        share = label[part == train].mean()
        balance = torch.where(label == 1, 0.5 / share, 0.5 / (1 - share))
        for _ in range(300):
            logits = z @ weights[1:] + weights[0]
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, label, balance, reduction="none")
            loss = loss[part == train].mean() + 1e-2 * weights.square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        wrong = ((logits > 0).float() != label).float()[part != train]
        kinds = label[part != train]
        errors.append(0.5 * (wrong[kinds == 1].mean() + wrong[kinds == 0].mean()).item())
    return float(np.mean(errors))


def move(game: AuditGame, tiles: np.ndarray, pattern_of: Callable, claim: np.ndarray) -> np.ndarray:
    """Tiles moved by their claims along a contender's pattern."""
    x = torch.from_numpy(tiles)
    n_frames = tiles.shape[2]
    before, after, share = lerp_weights((np.arange(n_frames) + 0.5) / CELL_FRAMES, -(-n_frames // CELL_FRAMES))
    cells = [pattern_of(tile) for tile in tiles]
    if cells[0].ndim == 3:
        cells = [both[1 if octaves < 0 else 0] for both, octaves in zip(cells, claim, strict=True)]
    frames = [np.float32(c[:, before] * (1 - share) + c[:, after] * share) for c in cells]
    pattern = torch.from_numpy(np.stack(frames))
    pattern = 0.04 * pattern / pattern.square().mean((1, 2), keepdim=True).sqrt()
    claims = torch.tensor(claim, dtype=torch.float32)
    amount = game.solved(x, pattern, claims)
    return (
        renormalise(x, pattern * amount[:, None, None], game.shares.log(), game.settings.dynamic_range_db)
        .clamp(0, 1)
        .numpy()
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--variants", default="full", help=f"of: {'; '.join(VARIANTS)} (or all)")
    parser.add_argument("--epochs", type=int, default=100)
    args = parser.parse_args()
    pairs = read_pairs(args.pairs)
    variants = list(VARIANTS) if args.variants == "all" else args.variants.split(";")
    x = np.stack([load_tile(tile.array, pairs.settings) for tile in pairs.tiles])
    numbers = {source.path: i for i, source in enumerate(pairs.sources)}
    file = np.array([numbers[tile.source] for tile in pairs.tiles])
    table: dict[tuple[str, str], list] = {}
    for seed in map(int, args.seeds.split(",")):
        held_out = np.isin(file, split_files(pairs, seed)[1])
        train = list(x[~held_out])
        game = AuditGame(pairs.settings, Tiles.of(train, pairs.settings), seed)
        grain = game.log2_flatness(torch.from_numpy(x)).numpy()
        natural = features(x)
        centre = natural.mean(0)
        components = np.linalg.svd(natural - centre, full_matrices=False)[2][:N_COMPONENTS]
        natural = (natural - centre) @ components.T
        contenders = {**HAND_MADE, "nothing": None}
        for variant in variants:
            contenders[variant] = contender(train_on(train, pairs.settings, variant, seed, args.epochs), pairs.settings)
        median = np.median(grain)
        for direction, sign in (("texture", -1), ("smooth", 1)):
            chosen = np.flatnonzero(held_out & (sign * (grain - median) > 0))
            for name, pattern_of in contenders.items():
                distances, moved_all, natural_all, moved_file, natural_file = [], [], [], [], []
                for octaves in OCTAVES:
                    claim = np.full(len(chosen), sign * octaves)
                    y = x[chosen] if pattern_of is None else move(game, x[chosen], pattern_of, claim)
                    z = (features(y) - centre) @ components.T
                    for point, i, target in zip(z, chosen, grain[chosen] - claim, strict=True):
                        near = np.flatnonzero((np.abs(grain - target) <= NEAR_OCTAVES) & (file != file[i]))
                        if len(near) < N_NEAREST:
                            continue
                        distance = np.sort(np.linalg.norm(natural[near] - point, axis=1))[:N_NEAREST]
                        distances.append(distance.mean())
                        moved_all.append(point)
                        moved_file.append(file[i])
                        natural_all += list(natural[near])
                        natural_file += list(file[near])
                moved, like = np.array(moved_all), np.array(natural_all)
                scores = (
                    np.mean(distances),
                    frechet(moved, like),
                    fooled(moved, like, np.array(moved_file), np.array(natural_file)),
                )
                table.setdefault((direction, name), []).append(scores)
    print("mean over seeds; ratio to the best hand-made contender")
    for direction in ("texture", "smooth"):
        best = np.min([np.mean(table[direction, name], axis=0) for name in HAND_MADE], axis=0)
        print(f"{direction:34s} nearest  ratio  frechet  ratio  fooled")
        for name in (*HAND_MADE, "nothing", *variants):
            nearest, distance, error = np.mean(table[direction, name], axis=0)
            row = f"  {name:32s} {nearest:7.3f} {nearest / best[0]:6.2f} {distance:8.3f} {distance / best[1]:6.2f} {error:7.2f}"
            print(row)
    total = {
        name: math.prod(np.mean(table[d, name], axis=0)[k] for d in ("texture", "smooth") for k in (0, 1)) ** 0.25
        for name in (*HAND_MADE, *variants)
    }
    print("geometric mean of the four distances: " + ", ".join(f"{name} {value:.3f}" for name, value in total.items()))


if __name__ == "__main__":
    main()
