"""Tiles as PNG pictures with axes, a title and a colour bar.

matplotlib draws the empty axes once. Every tile is then pasted into them as palette indices, which takes a few
milliseconds instead of half a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neural_grain.base.files import atomic_write
from neural_grain.dsp.settings import SpectrogramSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TICKS_HZ = (100, 500, 1_000, 2_000, 5_000, 10_000, 15_000)


@dataclass(frozen=True)
class PictureSettings:
    """Look of a picture. Lengths of the layout are fractions of the figure: left, bottom, width, height."""

    size_inches: tuple[float, float] = (7.6, 4.4)
    dpi: int = 100
    axes_box: tuple[float, float, float, float] = (0.11, 0.13, 0.75, 0.75)
    colour_bar_box: tuple[float, float, float, float] = (0.88, 0.13, 0.02, 0.75)
    colour_map: str = "magma"
    #: Colours of the 256 in the palette, 0.45 dB each; the others are greys for text. Pictures with three bytes per
    #: pixel take five times as long to write.
    n_levels: int = 224
    title_height_pixels: int = 20
    title_gap_pixels: int = 22  # from the top of the title to the top of the axes
    font_size: int = 12


PICTURE = PictureSettings()


@dataclass(frozen=True)
class EmptyAxes:
    """Axes without a tile: RGB pixels, shape (height, width, 3), and where the tile belongs."""

    pixels: np.ndarray
    rows: slice
    columns: slice


class TilePainter:
    """Draws tiles of one kind as pictures.

    Parameters
    ----------
    settings : SpectrogramSettings

    Attributes
    ----------
    rows, columns : slice, the pixels of a picture that show the tile
    """

    def __init__(self, settings: SpectrogramSettings):
        axes = draw_empty_axes(settings)
        self.rows, self.columns = axes.rows, axes.columns
        self._palette = colour_palette()
        self._empty = nearest_colours(axes.pixels, self._palette)
        n_rows, n_columns = self.rows.stop - self.rows.start, self.columns.stop - self.columns.start
        self._band_of_row = np.arange(n_rows)[::-1] * settings.n_mels // n_rows
        self._frame_of_column = np.arange(n_columns) * settings.tile_frames // n_columns

    def save(self, path: Path, x: np.ndarray, title: str) -> None:
        """Write one tile as a PNG. It is not flushed to the disk; see `atomic_write`.

        Parameters
        ----------
        path : Path
        x : np.ndarray, shape (n_mels, tile_frames), in [0, 1]
        title : str
        """
        from PIL import Image

        pixels = self._empty.copy()
        levels = np.round((PICTURE.n_levels - 1) * np.clip(x, 0, 1)).astype(np.uint8)
        pixels[self.rows, self.columns] = levels[self._band_of_row][:, self._frame_of_column]
        top = self.rows.start - PICTURE.title_gap_pixels
        _write_title(pixels[top : top + PICTURE.title_height_pixels, self.columns.start :], title)
        picture = Image.fromarray(pixels)
        picture.putpalette(self._palette.tobytes())
        with atomic_write(path, flush=False) as temporary:
            picture.save(temporary, format="PNG", compress_level=1)


def draw_empty_axes(settings: SpectrogramSettings) -> EmptyAxes:
    """Draw the axes and the colour bar of a tile with matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=PICTURE.size_inches, dpi=PICTURE.dpi)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes(PICTURE.axes_box)
    duration_s = settings.tile_frames * (settings.grain.hop_length / settings.grain.sample_rate_hz)
    mesh = axes.imshow(
        np.zeros((settings.n_mels, settings.tile_frames)), PICTURE.colour_map, aspect="auto", origin="lower",
        vmin=-settings.dynamic_range_db, vmax=0, extent=(0, duration_s, 0, settings.n_mels),
    )  # fmt: skip
    label_axes(axes, settings)
    axes.set_xlabel("time in the tile (s)")
    figure.colorbar(mesh, cax=figure.add_axes(PICTURE.colour_bar_box), label="level (dB under the loudest band)")
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    box, height = axes.get_window_extent(), len(pixels)
    rows = slice(height - round(box.y1), height - round(box.y0))
    return EmptyAxes(pixels, rows, slice(round(box.x0), round(box.x1)))


def label_axes(axes: Axes, settings: SpectrogramSettings) -> None:
    """Label the mel axis of a picture, whose rows are band numbers, with frequencies in Hz."""
    edges = settings.band_edges_hz
    ticks = [hz for hz in TICKS_HZ if edges[0] <= hz <= edges[-1]]
    axes.set_yticks(
        np.clip(np.interp(ticks, edges[1:-1], np.arange(settings.n_mels)) + 0.5, 0, settings.n_mels),
        [f"{hz:,}" for hz in ticks],
    )
    axes.set_ylabel("frequency (Hz)")


def colour_palette() -> np.ndarray:
    """The colours of the levels, from low to high, then greys from black to white. Shape (256, 3), uint8."""
    from matplotlib import colormaps

    colours = colormaps[PICTURE.colour_map](np.linspace(0, 1, PICTURE.n_levels))[:, :3]
    greys = np.linspace((0, 0, 0), (1, 1, 1), 256 - PICTURE.n_levels)
    return np.round(255 * np.concatenate((colours, greys))).astype(np.uint8)


def nearest_colours(pixels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Index of the nearest colour of the palette for each RGB pixel.

    Parameters
    ----------
    pixels : np.ndarray, shape (height, width, 3), 0 to 255
    palette : np.ndarray, shape (256, 3), uint8

    Returns
    -------
    np.ndarray, shape (height, width), uint8
    """
    packed = pixels.astype(int) @ (1 << 16, 1 << 8, 1)
    unique, index = np.unique(packed, return_inverse=True)  # few colours occur, so that few distances are computed
    colours = np.stack((unique >> 16, unique >> 8 & 255, unique & 255), axis=1)
    nearest = np.abs(colours[:, None] - palette.astype(int)).sum(axis=2).argmin(axis=1)
    return nearest.astype(np.uint8)[index].reshape(packed.shape)


def _write_title(strip: np.ndarray, title: str) -> None:
    """Write a title into palette indices (height, width), with the greys of the palette."""
    from matplotlib.font_manager import findfont
    from PIL import Image, ImageDraw, ImageFont

    # The font is loaded for every tile, because a painter may have been sent from a machine with other paths.
    font = ImageFont.truetype(findfont("DejaVu Sans"), PICTURE.font_size)
    # The text is drawn in grey levels first: among palette indices PIL can't smooth its edges.
    drawn = Image.new("L", strip.shape[::-1], 255)
    ImageDraw.Draw(drawn).text((0, 0), title, fill=0, font=font)
    letters = np.asarray(drawn, int)
    greys = PICTURE.n_levels + letters * (256 - PICTURE.n_levels) // 256
    np.copyto(strip, greys, "unsafe", where=letters < 255)
