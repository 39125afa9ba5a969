"""Channel layouts: which loudspeaker each channel of a sound belongs to.

A layout is written as the channel mask of WAVE_FORMAT_EXTENSIBLE: bit i stands for loudspeaker i, and the channels
come in the order of the bits. 0 means that the layout is not stated. Inside the program channels always have that
order. Some codecs have another order, and take the number of channels for the layout:

    Vorbis, Opus   Vorbis I specification, section 4.3.9; RFC 7845, section 5.1.1.2
    ALAC           Apple, "ALACMagicCookieDescription", Channel Layout Info

In: blocks of samples, shape (samples, channels). Out: the same with the channels in another order.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from neural_grain.base.errors import PipelineError

SPEAKERS = (
    "FL", "FR", "FC", "LFE", "BL", "BR", "FLC", "FRC", "BC", "SL", "SR", "TC", "TFL", "TFC", "TFR", "TBL", "TBC", "TBR",
)  # fmt: skip
FLAC_MASKS = {1: 0x4, 2: 0x3, 3: 0x7, 4: 0x33, 5: 0x37, 6: 0x3F, 7: 0x70F, 8: 0x63F}  # RFC 9639, section 9.1.3
BACK_PAIR, SIDE_PAIR = 0x30, 0x600


class CodecLayout(NamedTuple):
    """The layout that a codec gives to a number of channels."""

    mask: int
    positions: tuple[int, ...]  # in the stream, of each channel in the order of the mask


VORBIS_LAYOUTS = {
    3: CodecLayout(0x7, (0, 2, 1)),
    4: CodecLayout(0x33, (0, 1, 2, 3)),
    5: CodecLayout(0x37, (0, 2, 1, 3, 4)),
    6: CodecLayout(0x3F, (0, 2, 1, 5, 3, 4)),
    7: CodecLayout(0x70F, (0, 2, 1, 6, 5, 3, 4)),
    8: CodecLayout(0x63F, (0, 2, 1, 7, 5, 6, 3, 4)),
}
ALAC_LAYOUTS = {
    3: CodecLayout(0x7, (1, 2, 0)),
    4: CodecLayout(0x107, (1, 2, 0, 3)),
    5: CodecLayout(0x37, (1, 2, 0, 3, 4)),
    6: CodecLayout(0x3F, (1, 2, 0, 5, 3, 4)),
    7: CodecLayout(0x13F, (1, 2, 0, 6, 3, 4, 5)),
    8: CodecLayout(0xFF, (3, 4, 0, 7, 5, 6, 1, 2)),
}


def mask_text(mask: int) -> str:
    """A mask as the names of its loudspeakers, such as "FL FR FC LFE BL BR"."""
    return " ".join(name for i, name in enumerate(SPEAKERS) if mask >> i & 1)


def codec_layout(subtype: str, channels: int) -> CodecLayout | None:
    """What a codec, by libsndfile's name, makes of a number of channels; None if it leaves channels as they are."""
    layouts = VORBIS_LAYOUTS if subtype in ("VORBIS", "OPUS") else ALAC_LAYOUTS if subtype.startswith("ALAC") else {}
    return layouts.get(channels)


def check_layout(subtype: str, channels: int, mask: int) -> None:
    """Raise PipelineError if a codec would take the channels for those of another layout.

    Four channels without a layout are let through to Vorbis and Opus, which neither reorder nor filter four channels.
    """
    layout = codec_layout(subtype, channels)
    if (
        layout is None
        or _at_back(mask) == _at_back(layout.mask)
        or (mask == 0 and layout.positions == tuple(range(channels)))
    ):
        return
    stated = f"are {mask_text(mask)}" if mask else "have no stated layout"
    raise PipelineError(
        f"{subtype} takes {channels} channels for {mask_text(layout.mask)}, but those of the input {stated}; "
        f"choose WAV or FLAC"
    )


def _at_back(mask: int) -> int:
    """The mask with a pair at the side in place of one at the back, because a listener has only one of the two."""
    return mask & ~SIDE_PAIR | BACK_PAIR if mask & SIDE_PAIR == SIDE_PAIR and not mask & BACK_PAIR else mask


def from_codec_order(y: np.ndarray, subtype: str) -> np.ndarray:
    """Bring the channels of a decoded stream into the order of the mask."""
    layout = codec_layout(subtype, y.shape[1])
    return y[:, layout.positions] if layout else y


def to_codec_order(y: np.ndarray, subtype: str) -> np.ndarray:
    """Bring channels in the order of the mask into that of a codec."""
    layout = codec_layout(subtype, y.shape[1])
    return y[:, np.argsort(layout.positions)] if layout else y
