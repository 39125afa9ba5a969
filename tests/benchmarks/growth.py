"""Time and memory of training against the number of tiles, each size in a process of its own.

    python tests/benchmarks/growth.py [--sizes 100,1000,10000]

Tiles are written to a temporary folder and read by stage 3's own loader: beyond 1 GB they are mapped.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from neural_grain.data.tiles import Source, Tile, TrainingPairs
from neural_grain.dsp.settings import GrainSettings, default_settings
from neural_grain.learn import dataset as learn_dataset
from neural_grain.learn import game as learn_game
from neural_grain.learn import model as learn_model
from neural_grain.learn import settings as learn_settings
from neural_grain.learn import training as learn_training

EPOCHS = 2


def measure(n_tiles: int) -> str:
    """One row of the table."""
    settings, rng = default_settings(GrainSettings()), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder, tiles = Path(name), []
        for i in range(n_tiles):
            x = rng.uniform(0.1, 0.6) + 0.05 * rng.standard_normal((settings.n_mels, settings.tile_frames))
            x[rng.integers(0, settings.n_mels, 12)] += 0.4
            np.save(folder / f"{i}.npy", x.clip(0, 1).astype(np.float32))
            tiles.append(Tile(folder / f"{i}.npy", None, folder / "a.wav", 0.0, 0.01))
        pairs = TrainingPairs(settings, (Source(folder / "a.wav", 0.01, 1, 1),), tuple(tiles))
        started = time.monotonic()
        movers = learn_dataset.load_tiles(pairs, [0], "cpu")
        loaded_s = time.monotonic() - started
        started = time.monotonic()
        game, model = learn_game.AuditGame(settings, movers, 0), learn_model.GrainModel(settings)
        critic_s = time.monotonic() - started
        optimizer = torch.optim.Adam(model.parameters(), learn_training.LEARNING_RATE)
        started = time.monotonic()
        for epoch in range(1, EPOCHS + 1):
            learn_training.train_epoch(game, model, optimizer, movers, epoch, learn_settings.TrainSettings())
        epoch_s = (time.monotonic() - started) / EPOCHS
    steps = max(learn_training.MIN_STEPS, -(-n_tiles // learn_settings.TrainSettings.batch_size))
    kind = "memory" if isinstance(movers.arrays, list) else "mapped"
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return f"{n_tiles:7d} {kind:>7s} {loaded_s:8.1f} {critic_s:10.1f} {epoch_s:10.2f} {steps / epoch_s:8.1f} {peak_mb:9.0f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="100,1000,10000")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(measure(args.one))
        return
    print("  tiles   held  load (s) critic (s)  epoch (s)  steps/s  peak (MB)", flush=True)
    for size in args.sizes.split(","):
        subprocess.run([sys.executable, __file__, "--one", size], check=True)


if __name__ == "__main__":
    main()
