"""Tiles as PNG pictures: the whole sound and its texture side by side, with axes, a title and a colour bar.

matplotlib draws the empty axes once. The two pictures of every tile are then pasted into them as palette indices, which
takes a few milliseconds instead of half a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from neural_grain.base.caches import provide_cache_folder
from neural_grain.base.files import atomic_write
from neural_grain.data.tiles import TilePictures
from neural_grain.dsp.settings import SpectrogramSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TICKS_HZ = (100, 500, 1_000, 2_000, 5_000, 10_000, 15_000)


@dataclass(frozen=True)
class PictureSettings:
    """Look of a picture. Lengths of the layout are fractions of the figure: left, bottom, width, height."""

    size_inches: tuple[float, float] = (12.0, 4.6)
    dpi: int = 100
    whole_box: tuple[float, float, float, float] = (0.07, 0.12, 0.415, 0.74)
    texture_box: tuple[float, float, float, float] = (0.50, 0.12, 0.415, 0.74)
    colour_bar_box: tuple[float, float, float, float] = (0.93, 0.12, 0.013, 0.74)
    colour_map: str = "magma"
    #: Colours of the 256 in the palette, 0.45 dB each; the others are greys for text. Pictures with three bytes per
    #: pixel take five times as long to write.
    n_levels: int = 224
    title_height_pixels: int = 20
    title_gap_pixels: int = 42  # from the top of the title to the top of the axes, with a line between them
    font_size: int = 12
    axes_title_size: float = 9.0  # points


PICTURE = PictureSettings()


class PanelColumns(NamedTuple):
    """The columns of pixels that show each of the two pictures of a tile."""

    whole: slice
    texture: slice


@dataclass(frozen=True)
class EmptyAxes:
    """Axes without a tile: RGB pixels, shape (height, width, 3), and where the pictures of a tile belong."""

    pixels: np.ndarray
    rows: slice
    columns: PanelColumns


class TilePainter:
    """Draws tiles of one kind as pictures.

    Parameters
    ----------
    settings : SpectrogramSettings

    Attributes
    ----------
    rows : slice, the pixels of a picture that show the tile
    columns : PanelColumns
    """

    def __init__(self, settings: SpectrogramSettings):
        axes = draw_empty_axes(settings)
        self.rows, self.columns = axes.rows, axes.columns
        self._palette = colour_palette()
        self._empty = nearest_colours(axes.pixels, self._palette)
        self._band_of_row = _indices(self.rows, settings.n_mels)[::-1]
        self._frames_of_columns = [_indices(columns, settings.tile_frames) for columns in self.columns]

    def save(self, path: Path, pictures: TilePictures, title: str) -> None:
        """Write one tile as a PNG. It is not flushed to the disk; see `atomic_write`."""
        from PIL import Image

        pixels = self._empty.copy()
        for x, columns, frames in zip(pictures, self.columns, self._frames_of_columns, strict=True):
            levels = np.round((PICTURE.n_levels - 1) * np.clip(x, 0, 1)).astype(np.uint8)
            pixels[self.rows, columns] = levels[self._band_of_row][:, frames]
        top = self.rows.start - PICTURE.title_gap_pixels
        _write_title(pixels[top : top + PICTURE.title_height_pixels, self.columns.whole.start :], title)
        picture = Image.fromarray(pixels)
        picture.putpalette(self._palette.tobytes())
        with atomic_write(path, flush=False) as temporary:
            picture.save(temporary, format="PNG", compress_level=1)


def _indices(pixels: slice, n: int) -> np.ndarray:
    """Which of ``n`` values each of some pixels shows."""
    n_pixels = pixels.stop - pixels.start
    return np.arange(n_pixels) * n // n_pixels


def draw_empty_axes(settings: SpectrogramSettings) -> EmptyAxes:
    """Draw the axes and the colour bar of a tile with matplotlib."""
    provide_cache_folder()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=PICTURE.size_inches, dpi=PICTURE.dpi)
    canvas = FigureCanvasAgg(figure)
    duration_s = settings.tile_frames * (settings.grain.hop_length / settings.grain.sample_rate_hz)
    boxes = []
    for place, name in ((PICTURE.whole_box, "whole sound"), (PICTURE.texture_box, "texture: transients and noise")):
        axes = figure.add_axes(place)
        mesh = axes.imshow(
            np.zeros((settings.n_mels, settings.tile_frames)), PICTURE.colour_map, aspect="auto", origin="lower",
            vmin=-settings.dynamic_range_db, vmax=0, extent=(0, duration_s, 0, settings.n_mels),
        )  # fmt: skip
        label_axes(axes, settings)
        axes.set_title(name, loc="left", fontsize=PICTURE.axes_title_size)
        axes.set_xlabel("time in the tile (s)")
        boxes.append(axes.get_window_extent())
    axes.set_ylabel("")
    axes.set_yticklabels([])
    figure.colorbar(mesh, cax=figure.add_axes(PICTURE.colour_bar_box), label="dB below the loudest band of the sound")
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    rows = slice(len(pixels) - round(boxes[0].y1), len(pixels) - round(boxes[0].y0))
    return EmptyAxes(pixels, rows, PanelColumns(*(slice(round(box.x0), round(box.x1)) for box in boxes)))


def label_axes(axes: Axes, settings: SpectrogramSettings, along: str = "y") -> None:
    """Label the mel axis of a picture, "x" or "y", which counts bands, with frequencies in Hz."""
    edges = settings.band_edges_hz
    ticks = [hz for hz in TICKS_HZ if edges[0] <= hz <= edges[-1]]
    places = np.clip(np.interp(ticks, edges[1:-1], np.arange(settings.n_mels)) + 0.5, 0, settings.n_mels)
    axis = getattr(axes, f"{along}axis")
    axis.set_ticks(places, [f"{hz:,}" for hz in ticks])
    axis.set_label_text("frequency (Hz)")


def colour_palette() -> np.ndarray:
    """The colours of the levels, from low to high, then greys from black to white. Shape (256, 3), uint8."""
    provide_cache_folder()
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


def save_figure(figure: Figure, path: Path) -> None:
    """Write a matplotlib figure as PNG in one atomic step."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
