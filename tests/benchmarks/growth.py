"""Time and memory of training against the number of tiles, each size in a process of its own.

    python tests/benchmarks/growth.py [--sizes 1000,10000,100000,1000000] [--epochs 2]

Only as many tiles are drawn, loaded and learned from as `learn.dataset.DATASET` allows, so from there on all columns
except those for the list of tiles stay the same. At most FILES arrays are written: the library lists them again and
again, as files of other sounds, because a million of them would take 128 GB of disk.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from neural_grain.data.tiles import Source, Tile, TrainingPairs
from neural_grain.dsp.settings import GrainSettings, SpectrogramSettings, default_settings
from neural_grain.learn.adam import Adam
from neural_grain.learn.dataset import load_tiles, split_tiles
from neural_grain.learn.game import AuditGame
from neural_grain.learn.model import GrainModel
from neural_grain.learn.settings import TrainOptions
from neural_grain.learn.training import n_batches, train_epoch

T = TypeVar("T")
FILES = 2000
TILES_PER_SOURCE = 4
COLUMNS = (
    ("tiles", 8), ("listed (MB)", 12), ("used", 6), ("draw (s)", 9), ("load (s)", 9),
    ("steps", 6), ("epoch (s)", 10), ("peak (MB)", 10),
)  # fmt: skip


def write_library(folder: Path, n_tiles: int, settings: SpectrogramSettings) -> TrainingPairs:
    """Write up to FILES arrays and list ``n_tiles`` tiles of them, four of each source."""
    rng = np.random.default_rng(0)
    arrays = [folder / f"{i}.npy" for i in range(min(n_tiles, FILES))]
    for path in arrays:
        x = rng.uniform(0.1, 0.6) + 0.05 * rng.standard_normal((settings.n_mels, settings.tile_frames))
        x[rng.integers(0, settings.n_mels, 12)] += 0.4
        np.save(path, x.clip(0, 1).astype(np.float32))
    grains = 2.0 ** rng.uniform(-10, -2, n_tiles)
    sources = [Source(folder / f"{i}.wav", float(grains[i]), 1, 1) for i in range(-(-n_tiles // TILES_PER_SOURCE))]
    tiles = [
        Tile(
            arrays[i % len(arrays)],
            arrays[i % len(arrays)],
            None,
            sources[i // TILES_PER_SOURCE].path,
            0.0,
            float(grains[i]),
            12.0,
        )
        for i in range(n_tiles)
    ]
    return TrainingPairs(settings, tuple(sources), tuple(tiles))


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """The seconds that ``work`` takes, and its result."""
    started = time.monotonic()
    result = work()
    return time.monotonic() - started, result


def peak_mb() -> float:
    """The largest amount of memory that this process has used so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(n_tiles: int, epochs: int) -> str:
    """One row of the table."""
    settings, options = default_settings(GrainSettings()), TrainOptions()
    with tempfile.TemporaryDirectory() as name:
        before_mb = peak_mb()
        pairs = write_library(Path(name), n_tiles, settings)
        listed_mb = peak_mb() - before_mb
        draw_s, split = timed(lambda: split_tiles(pairs, options.seed))
        load_s, (tiles, _) = timed(lambda: [load_tiles(part, settings) for part in split])
    torch.manual_seed(options.seed)
    game = AuditGame(settings)
    model = GrainModel(settings)
    optimizer = Adam(model.parameters())
    epoch_s, _ = timed(lambda: [train_epoch(game, model, optimizer, tiles, i + 1, options) for i in range(epochs)])
    values = (
        n_tiles, f"{listed_mb:.0f}", sum(map(len, split)), f"{draw_s:.1f}", f"{load_s:.1f}",
        n_batches(len(tiles.tones), options.batch_size), f"{epoch_s / epochs:.1f}", f"{peak_mb():.0f}",
    )  # fmt: skip
    return "".join(f"{value!s:>{width}s}" for value, (_, width) in zip(values, COLUMNS, strict=True))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1000,10000,100000,1000000")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(measure(args.one, args.epochs))
        return
    print("".join(f"{name:>{width}s}" for name, width in COLUMNS), flush=True)
    for size in args.sizes.split(","):
        subprocess.run([sys.executable, __file__, "--one", size, "--epochs", str(args.epochs)], check=True)


if __name__ == "__main__":
    main()
