"""The tiles that a model learns from and the tiles that it is judged on.

Of a tile, the power of tones and texture is kept in each band and cell of 0.37 s. Files are split into a training
part and a held-out part, so that no tile is judged whose file, or a copy of it, was learned from. Each part is limited
to a fixed number of tiles, spread evenly over the order of grain: a model of a few thousand weights learns
no more from a million tiles, and training must not take longer for a larger library or need more memory.

In: training_pairs.json as `TrainingPairs`. Out: `Tiles`, held in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from neural_grain.base.errors import PipelineError
from neural_grain.data.metadata import FEW_FILES
from neural_grain.data.tiles import Tile, TilePictures, TrainingPairs, group_copies, load_tile
from neural_grain.dsp.generation import GeneratedTexture, typical_texture
from neural_grain.dsp.mel import band_fractions
from neural_grain.dsp.settings import (
    CELL_FRAMES,
    DYNAMIC_RANGE_DB,
    NEPER_PER_DB,
    SpectrogramSettings,
    settings_record,
)
from neural_grain.learn.settings import CLAIM_OCTAVES, MIN_FILES, TrainOptions


@dataclass(frozen=True)
class DatasetSettings:
    """How a library is divided and how much of it is used."""

    held_out_every: int = 4  # files, in the order of grain: a quarter is enough to judge on
    max_train_tiles: int = 8192  # 67 MB in memory
    max_held_out_tiles: int = 1024  # judging draws fewer than 256 of them


DATASET = DatasetSettings()


class FileSplit(NamedTuple):
    """Indices into ``TrainingPairs.sources``, ascending."""

    train: list[int]
    held_out: list[int]


class TileSplit(NamedTuple):
    """The tiles that a run uses."""

    train: list[Tile]
    held_out: list[Tile]


class Library(NamedTuple):
    """The tiles that a run uses, in memory."""

    train: Tiles
    held_out: Tiles
    texture: GeneratedTexture  # what the texture of those to train on is like


@dataclass(frozen=True)
class Tiles:
    """Levels (natural logarithms of power, 0 for the file's loudest band) of tiles, shape (tiles, n_mels, cells)."""

    tones: Tensor
    texture: Tensor

    @classmethod
    def of(cls, pictures: Iterable[TilePictures], settings: SpectrogramSettings, device: str = "cpu") -> Tiles:
        """Reduce tiles to their cells."""
        levels = np.stack([_cell_levels(tile, settings.dynamic_range_db) for tile in pictures])
        tones, texture = (torch.from_numpy(levels[:, layer].copy()).to(device) for layer in (0, 1))
        return cls(tones, texture)

    def typical_texture(self, crest_db: np.ndarray, settings: SpectrogramSettings) -> GeneratedTexture:
        """What their texture is like, given its crest factors in dB, shape (tiles,)."""
        # The mean of decibels, not of powers: where a sound is cut in the middle of a wave, one cell is loud.
        mean_db = self.texture.mean(2).cpu().numpy() / NEPER_PER_DB
        return typical_texture(mean_db, crest_db, band_fractions(settings))


def _cell_levels(tile: TilePictures, dynamic_range_db: float) -> np.ndarray:
    """Levels of tones and texture in each cell of a tile, shape (2, n_mels, cells), not below the floor."""
    neper = np.float32(NEPER_PER_DB * dynamic_range_db)
    power, texture = (
        np.exp(neper * (x.reshape(len(x), -1, CELL_FRAMES) - 1)).mean(axis=2) for x in (tile.whole, tile.texture)
    )
    # Where noise and tones overlap, their powers do not add up exactly.
    return np.log(np.maximum(np.stack([power - texture, texture]), np.exp(-neper)))


def check_library(pairs: TrainingPairs) -> None:
    """Refuse a library that nothing can be learned from, before any tile is read.

    Raises
    ------
    PipelineError
        If there are too few files, if all tiles have the same grain, or if the pictures have another dynamic range
        than this version learns from.
    """
    if pairs.settings.dynamic_range_db != DYNAMIC_RANGE_DB:
        raise PipelineError(
            f"tiles are {pairs.settings.dynamic_range_db:g} dB deep, this version learns from {DYNAMIC_RANGE_DB:g}: "
            "make them again with: python convert_to_spectrograms.py"
        )
    n_files = len(group_copies(pairs))
    if n_files < MIN_FILES:
        copies = f" and {len(pairs.sources) - n_files} copies" if n_files < len(pairs.sources) else ""
        raise PipelineError(
            f"only {n_files} recording{'s' * (n_files != 1)}{copies}: a model needs at least {MIN_FILES}, "
            f"better {FEW_FILES}; add recordings and run stages 1 and 2 again"
        )
    spread_octaves = float(np.ptp(np.log2([tile.grain for tile in pairs.tiles])))
    if spread_octaves < 2 * CLAIM_OCTAVES:
        raise PipelineError(
            f"all tiles have the same grain (within {spread_octaves:.2f} octaves): nothing can be learned from them; "
            "add smoother and grainier sounds"
        )


def split_files(pairs: TrainingPairs, seed: int) -> FileSplit:
    """Divide the files: every fourth in the order of grain is held out, from an offset that the seed decides.

    Copies of one sound count as one file, so that none is judged whose copy was learned from.
    """
    offset = int(np.random.default_rng(seed).integers(DATASET.held_out_every))
    held_out = {i for group in group_copies(pairs)[offset :: DATASET.held_out_every] for i in group}
    return FileSplit([i for i in range(len(pairs.sources)) if i not in held_out], sorted(held_out))


def draw_tiles(tiles: list[Tile], limit: int, rng: np.random.Generator) -> list[Tile]:
    """Draw at most ``limit`` tiles: one of each of ``limit`` equal shares of the order of grain.

    Returns
    -------
    list of Tile, in the order of ``tiles``; all of them if they are not more than ``limit``
    """
    if len(tiles) <= limit:
        return tiles
    by_grain = sorted(range(len(tiles)), key=lambda i: tiles[i].grain)
    bounds = np.linspace(0, len(tiles), limit + 1).astype(int)
    return [tiles[i] for i in sorted(by_grain[k] for k in rng.integers(bounds[:-1], bounds[1:]))]


def split_tiles(pairs: TrainingPairs, seed: int) -> TileSplit:
    """The tiles that a run with this seed learns from and is judged on."""
    held_out_files = {pairs.sources[i].path for i in split_files(pairs, seed).held_out}
    train = [tile for tile in pairs.tiles if tile.source not in held_out_files]
    held_out = [tile for tile in pairs.tiles if tile.source in held_out_files]
    rng = np.random.default_rng([seed, 2**31 + 2])
    return TileSplit(
        draw_tiles(train, DATASET.max_train_tiles, rng), draw_tiles(held_out, DATASET.max_held_out_tiles, rng)
    )


def load_tiles(tiles: Iterable[Tile], settings: SpectrogramSettings, device: str = "cpu") -> Tiles:
    """Read, check and reduce tiles.

    Raises
    ------
    PipelineError
        If an array is missing or damaged.
    """
    return Tiles.of((load_tile(tile, settings) for tile in tiles), settings, device)


def load_library(pairs: TrainingPairs, seed: int, device: str = "cpu") -> Library:
    """Read the tiles that a run with this seed uses, after checking that something can be learned from them."""
    check_library(pairs)
    train, held_out = split_tiles(pairs, seed)
    tiles, held_out_tiles = (load_tiles(part, pairs.settings, device) for part in (train, held_out))
    texture = tiles.typical_texture(np.array([tile.crest_db for tile in train]), pairs.settings)
    return Library(tiles, held_out_tiles, texture)


def fingerprint(pairs: TrainingPairs, options: TrainOptions) -> str:
    """Digest of the options, the settings and the grain of all tiles: a run can be resumed only if it is the same."""
    grains = [f"{tile.source.name}:{tile.start_s}:{tile.grain!r}" for tile in pairs.tiles]
    return hashlib.sha256(repr((asdict(options), settings_record(pairs.settings), grains)).encode()).hexdigest()
