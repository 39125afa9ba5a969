"""The division of a library into a training part and a held-out part, and the limits of both."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from learning import SETTINGS

from neural_grain.base.errors import PipelineError
from neural_grain.data.tiles import Source, Tile, TilePictures, TrainingPairs, group_copies, read_pairs
from neural_grain.learn import dataset
from neural_grain.learn.dataset import (
    Tiles,
    check_library,
    fingerprint,
    load_library,
    load_tiles,
    split_files,
    split_tiles,
)
from neural_grain.learn.settings import TrainOptions


def listed_library(n_files: int, tiles_per_file: int) -> TrainingPairs:
    """Files and tiles of random grain that exist in the list only."""
    rng = np.random.default_rng(0)
    sources = [
        Source(Path(f"/{i}.wav"), float(grain), 1, 1) for i, grain in enumerate(rng.uniform(0.001, 0.5, n_files))
    ]
    tiles = [
        Tile(
            array=Path(f"/{source.path.stem}_{k}.npy"),
            texture=Path(f"/{source.path.stem}_{k}.texture.npy"),
            image=None,
            source=source.path,
            start_s=float(k),
            grain=float(rng.uniform(0.001, 0.5)),
            crest_db=12.0,
        )
        for source in sources
        for k in range(tiles_per_file)
    ]
    return TrainingPairs(SETTINGS, tuple(sources), tuple(tiles))


@pytest.mark.parametrize(("octaves", "is_enough"), [(0.59, False), (0.61, True)])
def test_a_library_needs_twice_the_grain_of_the_smallest_move(octaves, is_enough):
    """A tile is claimed to have moved by 0.3 octaves at least, in both directions."""
    pairs = listed_library(40, 2)
    grains = 0.01 * 2 ** np.linspace(0, octaves, 80)
    pairs = replace(
        pairs, tiles=tuple(replace(tile, grain=float(g)) for tile, g in zip(pairs.tiles, grains, strict=True))
    )
    with contextlib.nullcontext() if is_enough else pytest.raises(PipelineError, match=r"within 0.59 octaves"):
        check_library(pairs)


@pytest.fixture
def small_limits(monkeypatch) -> None:
    monkeypatch.setattr(dataset, "DATASET", replace(dataset.DATASET, max_train_tiles=100, max_held_out_tiles=20))


def test_every_fourth_file_in_the_order_of_grain_is_held_out():
    pairs = listed_library(40, 1)
    train, held_out = split_files(pairs, seed=0)
    assert sorted(train + held_out) == list(range(40))
    by_grain = sorted(range(40), key=lambda i: pairs.sources[i].grain)
    assert np.all(np.diff([by_grain.index(i) for i in sorted(held_out, key=by_grain.index)]) == 4)
    assert {tuple(split_files(pairs, seed).held_out) for seed in range(20)} == {
        tuple(sorted(by_grain[offset::4])) for offset in range(4)
    }


def with_copies(pairs: TrainingPairs, copied: range) -> TrainingPairs:
    """A library in which some files are there twice, with their tiles."""

    def again(path: Path) -> Path:
        return path.with_name(f"copy of {path.name}")

    twins = tuple(replace(source, path=again(source.path)) for source in pairs.sources[copied.start : copied.stop])
    names = {source.path for source in twins}
    tiles = (replace(tile, array=again(tile.array), source=again(tile.source)) for tile in pairs.tiles)
    return replace(
        pairs,
        sources=pairs.sources + twins,
        tiles=pairs.tiles + tuple(tile for tile in tiles if tile.source in names),
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("copied", [range(40), range(10, 13)])
def test_a_file_and_its_copy_are_on_the_same_side_and_the_other_files_where_they_would_be_without_it(seed, copied):
    pairs = listed_library(40, 2)
    alone, split = split_files(pairs, seed), split_files(with_copies(pairs, copied), seed)
    for part, part_alone in zip(split, alone, strict=True):
        assert part == part_alone + [40 + i - copied.start for i in part_alone if i in copied]


def test_files_that_differ_in_one_tile_are_no_copies():
    pairs = with_copies(listed_library(8, 2), range(8))
    other = replace(pairs.tiles[-1], grain=float(np.nextafter(pairs.tiles[-1].grain, 1)))
    groups = group_copies(replace(pairs, tiles=(*pairs.tiles[:-1], other)))
    assert sorted(map(sorted, groups)) == [*([i, i + 8] for i in range(7)), [7], [15]]


def test_a_library_within_the_limits_is_used_completely_and_in_its_order():
    pairs = listed_library(40, 3)
    train, held_out = split_tiles(pairs, seed=0)
    held_out_files = {pairs.sources[i].path for i in split_files(pairs, 0).held_out}
    assert train == [tile for tile in pairs.tiles if tile.source not in held_out_files]
    assert held_out == [tile for tile in pairs.tiles if tile.source in held_out_files]


@pytest.mark.usefixtures("small_limits")
def test_of_a_larger_library_as_many_tiles_are_drawn_as_the_limits_allow_spread_evenly_over_grain():
    pairs = listed_library(800, 3)
    split = split_tiles(pairs, seed=0)
    assert list(map(len, split)) == [100, 20]
    held_out_files = {pairs.sources[i].path for i in split_files(pairs, 0).held_out}
    for drawn, is_held_out in zip(split, (False, True), strict=True):
        part = [tile for tile in pairs.tiles if (tile.source in held_out_files) == is_held_out]
        assert drawn == sorted(set(drawn), key=part.index)
        ranks = np.sort([sorted(tile.grain for tile in part).index(tile.grain) for tile in drawn])
        np.testing.assert_array_equal(ranks * len(drawn) // len(part), np.arange(len(drawn)))


@pytest.mark.usefixtures("small_limits")
def test_the_seed_decides_which_tiles_are_drawn():
    pairs = listed_library(800, 3)
    assert split_tiles(pairs, seed=1) == split_tiles(pairs, seed=1)
    same_files = next(s for s in range(2, 50) if split_files(pairs, s) == split_files(pairs, 1))
    assert split_tiles(pairs, seed=1) != split_tiles(pairs, same_files)


def test_only_the_drawn_tiles_are_read(copied, monkeypatch):
    monkeypatch.setattr(dataset, "DATASET", replace(dataset.DATASET, max_train_tiles=5, max_held_out_tiles=2))
    pairs = read_pairs(copied.folder / "training_pairs.json")
    drawn = {tile.array for part in split_tiles(pairs, seed=0) for tile in part}
    assert len(drawn) == 7
    for tile in pairs.tiles:
        if tile.array not in drawn:
            tile.array.unlink()
    train, held_out, _ = load_library(pairs, seed=0)
    assert (len(train.tones), len(held_out.tones)) == (5, 2)
    with pytest.raises(PipelineError, match="not readable as a tile"):
        load_tiles(pairs.tiles, pairs.settings)


def test_the_cells_of_a_tile_have_the_mean_powers_of_its_tones_and_texture():
    rng = np.random.default_rng(0)
    whole = rng.uniform(0.5, 1, (128, 256)).astype(np.float32)
    texture = (whole - rng.uniform(0.05, 0.3, whole.shape)).astype(np.float32)
    tiles = Tiles.of([TilePictures(whole, texture)], SETTINGS)
    power, of_texture = (10 ** (10 * (x - 1)).reshape(128, 8, 32) for x in (whole, texture))
    np.testing.assert_allclose(tiles.texture[0].exp(), of_texture.mean(axis=2), rtol=1e-4)
    np.testing.assert_allclose(tiles.tones[0].exp(), (power - of_texture).mean(axis=2), rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda pairs: with_copies(replace(pairs, sources=pairs.sources[:3]), range(3)),
            "only 3 recordings and 3 copies: a model needs at least 4",
        ),
        (lambda pairs: replace(pairs, sources=pairs.sources[:3]), "only 3 recordings: a model needs at least 4"),
        (
            lambda pairs: replace(pairs, tiles=tuple(replace(tile, grain=0.1) for tile in pairs.tiles)),
            "all tiles have the same grain",
        ),
        (
            lambda pairs: replace(pairs, settings=replace(pairs.settings, dynamic_range_db=80.0)),
            "tiles are 80 dB deep, this version learns from 100",
        ),
    ],
)
def test_a_library_that_nothing_can_be_learned_from_is_refused(change, message):
    with pytest.raises(PipelineError, match=message):
        check_library(change(listed_library(8, 1)))


def test_the_fingerprint_changes_with_all_that_decides_the_weights():
    pairs, options = listed_library(8, 2), TrainOptions()
    first = pairs.tiles[0]
    others = [
        (pairs, TrainOptions(epochs=99)),
        (pairs, TrainOptions(batch_size=31)),
        (pairs, TrainOptions(seed=1)),
        (replace(pairs, tiles=(replace(first, grain=first.grain * (1 + 1e-12)), *pairs.tiles[1:])), options),
        (replace(pairs, tiles=pairs.tiles[1:]), options),
        (replace(pairs, settings=replace(pairs.settings, dynamic_range_db=80.0)), options),
    ]
    fingerprints = {fingerprint(*other) for other in [(pairs, options), *others]}
    assert len(fingerprints) == 1 + len(others)
    assert fingerprint(pairs, options) == fingerprint(listed_library(8, 2), TrainOptions())
