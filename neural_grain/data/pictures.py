"""TODO"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from neural_grain.base.files import atomic_write
from neural_grain.dsp.settings import SpectrogramSettings

PICTURE_LEVELS = 224  # colours, 0.45 dB each; the other 32 are greys, for text. Three bytes take five times as long
TICKS_HZ = (100, 500, 1_000, 2_000, 5_000, 10_000, 15_000)


class TilePainter:
    """Draws tiles as pictures with axes, fast: matplotlib draws the empty axes once, tiles are pasted in."""

    def __init__(self, settings: SpectrogramSettings):
        from matplotlib import colormaps
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        shape = (settings.n_mels, settings.tile_frames)
        figure = Figure(figsize=(7.6, 4.4), dpi=100)
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_axes((0.11, 0.13, 0.75, 0.75))
        hop_s = settings.grain.hop_length / settings.grain.sample_rate_hz
        duration_s = settings.tile_frames * hop_s
        mesh = axes.imshow(
            np.zeros(shape), "magma", aspect="auto", origin="lower", vmin=-settings.dynamic_range_db, vmax=0,
            extent=(0, duration_s, 0, settings.n_mels),
        )  # fmt: skip
        label_axes(axes, settings)
        axes.set_xlabel("time in the tile (s)")
        figure.colorbar(mesh, cax=figure.add_axes((0.88, 0.13, 0.02, 0.75)), label="level (dB under the loudest band)")
        canvas.draw()
        magma = colormaps["magma"](np.linspace(0, 1, PICTURE_LEVELS))[:, :3]
        greys = np.linspace((0, 0, 0), (1, 1, 1), 256 - PICTURE_LEVELS)
        self._palette = np.round(255 * np.concatenate((magma, greys))).astype(np.uint8)
        drawn = np.asarray(canvas.buffer_rgba())[..., :3].astype(int)
        colours, number = np.unique(drawn @ (1 << 16, 1 << 8, 1), return_inverse=True)
        colours = np.stack((colours >> 16, colours >> 8 & 255, colours & 255), axis=1)
        nearest = np.abs(colours[:, None] - self._palette.astype(int)).sum(axis=2).argmin(axis=1)
        height = drawn.shape[0]
        self._empty = nearest.astype(np.uint8)[number].reshape(drawn.shape[:2])
        box = axes.get_window_extent()
        self._rows = slice(height - round(box.y1), height - round(box.y0))
        self._columns = slice(round(box.x0), round(box.x1))
        self._title_at = (self._columns.start, self._rows.start - 22)
        n_rows, n_columns = self._rows.stop - self._rows.start, self._columns.stop - self._columns.start
        self._from_band = np.arange(n_rows)[::-1] * shape[0] // n_rows
        self._from_frame = np.arange(n_columns) * shape[1] // n_columns

    def save(self, path: Path, x: np.ndarray, title: str) -> None:
        """Write one tile (n_mels, tile_frames) in [0, 1] as a PNG with its title."""
        from matplotlib.font_manager import findfont
        from PIL import Image, ImageDraw, ImageFont

        pixels = self._empty.copy()
        levels = np.round((PICTURE_LEVELS - 1) * np.clip(x, 0, 1)).astype(np.uint8)
        pixels[self._rows, self._columns] = levels[self._from_band][:, self._from_frame]
        font = ImageFont.truetype(findfont("DejaVu Sans"), 12)  # not kept: on another machine it lies elsewhere
        left, top = self._title_at
        strip = Image.new("L", (pixels.shape[1] - left, 20), 255)  # where colours are numbers it would be drawn jagged
        ImageDraw.Draw(strip).text((0, 0), title, fill=0, font=font)
        letters = np.asarray(strip, int)
        greys = PICTURE_LEVELS + letters * (256 - PICTURE_LEVELS) // 256
        np.copyto(pixels[top : top + strip.height, left:], greys, "unsafe", where=letters < 255)
        picture = Image.fromarray(pixels)
        picture.putpalette(self._palette.tobytes())
        with atomic_write(path) as temporary:
            picture.save(temporary, format="PNG", compress_level=1)


def label_axes(axes, settings: SpectrogramSettings) -> None:
    """Frequency in Hz along the mel axis of a picture whose rows are band numbers."""
    edges = settings.band_edges_hz
    ticks = [hz for hz in TICKS_HZ if edges[0] <= hz <= edges[-1]]
    axes.set_yticks(
        np.clip(np.interp(ticks, edges[1:-1], np.arange(settings.n_mels)) + 0.5, 0, settings.n_mels),
        [f"{hz:,}" for hz in ticks],
    )
    axes.set_ylabel("frequency (Hz)")
