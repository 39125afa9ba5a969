"""TODO"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from neural_grain.base.errors import PipelineError, printable
from neural_grain.data.metadata import FEW_FILES
from neural_grain.data.tiles import TrainingPairs, load_tile
from neural_grain.dsp.settings import CELL_FRAMES, DYNAMIC_RANGE_DB, SpectrogramSettings, settings_record
from neural_grain.learn.auditor import band_fractions_column, log2_flatness
from neural_grain.learn.modulation import band_fluctuation, mean_level, modulation_beside_noise, noise_modulation
from neural_grain.learn.settings import TrainSettings

CROP_FRAMES = 2 * CELL_FRAMES  # what the referees see of a tile
CLAIM_OCTAVES = 0.3  # a tile is moved by at least so much, and at most by CONTROL_RANGE
HELD_OUT_EVERY = 4
TILES_BYTES = 1 << 30  # of tiles; more are mapped from disk
MIN_FILES = 4


@dataclass(frozen=True)
class Tiles:
    """Tiles of some files, in memory or mapped from disk: ``arrays`` of shape (n_mels, frames).

    ``log2_grain`` is the flatness of their bands, which is what the referees measure; ``means`` over
    time, (tiles, n_mels), is what the resemblance critic knows of each, ``levels`` and
    ``fluctuations``, of the same shape, what the noise critic does.
    """

    arrays: Sequence[np.ndarray]
    log2_grain: np.ndarray
    means: Tensor
    levels: Tensor
    fluctuations: Tensor
    device: str

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray], settings: SpectrogramSettings, device: str = "cpu") -> Tiles:
        """Tiles with what is measured of them."""
        shares, modulation = band_fractions_column(settings), noise_modulation(settings)
        dynamic_range_db = settings.dynamic_range_db
        grains, means, levels, fluctuations = [], [], [], []
        for array in arrays:
            x = torch.from_numpy(np.array(array))[None]
            grains.append(log2_flatness(x, shares, dynamic_range_db))
            means.append(x.clamp(0, 1).mean(2))
            levels.append(mean_level(x, dynamic_range_db))
            fluctuations.append(band_fluctuation(modulation_beside_noise(x, modulation, dynamic_range_db).mean(2)))
        measured = (torch.cat(values).to(device) for values in (means, levels, fluctuations))
        return cls(arrays, torch.cat(grains).numpy(), *measured, device)

    def crops(self, n: int, rng: np.random.Generator, among: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
        """Two cells each of ``n`` random tiles.

        Returns
        -------
        Tensor, shape (n, n_mels, CROP_FRAMES)
        Tensor, shape (n, n_mels), fluctuations of the whole tiles
        """
        index = rng.choice(len(self.arrays) if among is None else among, n)
        starts = rng.integers(0, self.arrays[0].shape[1] - CROP_FRAMES + 1, n)
        x = np.stack([self.arrays[i][:, a : a + CROP_FRAMES] for i, a in zip(index, starts, strict=True)])
        return torch.from_numpy(x).to(self.device), self.fluctuations[index]


class TilesOnDisk(Sequence):
    """Tiles that are mapped while they are looked at: more than a process may hold open at a time.

    Parameters
    ----------
    paths : list of Path, of arrays that `load_tile` has checked

    Raises
    ------
    PipelineError
        If one has gone meanwhile.
    """

    def __init__(self, paths: list[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> np.ndarray:
        try:
            return np.load(self.paths[i], mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as err:
            raise PipelineError(f"{printable(self.paths[i])}: is no longer there, or no longer a tile") from err


def split_files(pairs: TrainingPairs, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of the sources to train on and of those to judge on: every fourth in the order of grain."""
    order = sorted(range(len(pairs.sources)), key=lambda i: (pairs.sources[i].grain, pairs.sources[i].path))
    offset = int(np.random.default_rng(seed).integers(HELD_OUT_EVERY))
    held_out = order[offset::HELD_OUT_EVERY]
    return sorted(set(order) - set(held_out)), sorted(held_out)


def load_tiles(pairs: TrainingPairs, sources: Iterable[int], device: str) -> Tiles:
    """All tiles of some sources: in memory, or mapped from disk if they are many; all are checked first.

    Raises
    ------
    PipelineError
        If an array is missing or damaged.
    """
    wanted = {pairs.sources[i].path for i in sources}
    tiles = [tile for tile in pairs.tiles if tile.source in wanted]
    n_bytes = len(tiles) * pairs.settings.n_mels * pairs.settings.tile_frames * 4
    checked = (load_tile(tile.array, pairs.settings) for tile in tiles)
    if n_bytes <= TILES_BYTES:
        return Tiles.of(list(checked), pairs.settings, device)
    for _ in checked:
        pass
    return Tiles.of(TilesOnDisk([tile.array for tile in tiles]), pairs.settings, device)


def check_library(pairs: TrainingPairs) -> None:
    """Refuse a library that there is nothing to learn from, before any training.

    Raises
    ------
    PipelineError
        Too few files, all of one grain, or pictures of another depth than this version learns from.
    """
    if pairs.settings.dynamic_range_db != DYNAMIC_RANGE_DB:
        raise PipelineError(
            f"tiles are {pairs.settings.dynamic_range_db:g} dB deep, this version learns from {DYNAMIC_RANGE_DB:g}: "
            "make them again with: python convert_to_spectrograms.py"
        )
    if len(pairs.sources) < MIN_FILES:
        raise PipelineError(
            f"{len(pairs.sources)} files: a model needs at least {MIN_FILES}, better {FEW_FILES}; add recordings and run stages 1 and 2 again"
        )
    spread = max(np.log2([tile.grain for tile in pairs.tiles])) - min(np.log2([tile.grain for tile in pairs.tiles]))
    if spread < 2 * CLAIM_OCTAVES:
        raise PipelineError(
            f"all tiles are of one grain (within {spread:.2f} octaves): nothing to learn; add smoother and grainier sounds"
        )


def fingerprint(pairs: TrainingPairs, settings: TrainSettings) -> str:
    """What a run that is resumed must have in common with the one that stopped."""
    grains = [f"{tile.source.name}:{tile.start_s}:{tile.grain!r}" for tile in pairs.tiles]
    return hashlib.sha256(repr((asdict(settings), settings_record(pairs.settings), grains)).encode()).hexdigest()


def load_parts(pairs: TrainingPairs, settings: TrainSettings, device: str, expected: str) -> tuple[Tiles, Tiles]:
    """The tiles to train on and those to judge on.

    Raises
    ------
    PipelineError
        If they can't be used, or their `fingerprint` is not that of the first process.
    """
    if fingerprint(pairs, settings) != expected:
        raise PipelineError("the processes have different tiles or options: give all the same training_pairs.json")
    check_library(pairs)
    train_on, judge_on = split_files(pairs, settings.seed)
    return load_tiles(pairs, train_on, device), load_tiles(pairs, judge_on, device)
