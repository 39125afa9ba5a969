"""A playable instrument: the variations of a sound as layers of a Decent Sampler preset, with one knob that moves grain.

Each variation is a group of the sampler, and the knob (also MIDI controller 1, the modulation wheel) fades from one
to the next. Their tones are the same samples, so the fade is linear in amplitude and the tones keep their level:

    gain[i](s) = max(0, 1 - |s - s[i]| / (s[i + 1] - s[i])),   s the knob, s[i] the position of variation i

The format is described in the developers' guide of Decent Sampler (decentsampler-developers-guide.readthedocs.io).

In: jobs of a batch that were rendered. Out: a .dspreset file (XML) beside the outputs of each source.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from neural_grain.app.targets import Job, name_of
from neural_grain.base.errors import PipelineError, printable
from neural_grain.base.files import atomic_write

MAKER = "made by the Neural Grain Processor"  # in a comment: a preset without it is the user's
KNOB_CC = 1  # the modulation wheel
ROOT_NOTE = 60  # middle C plays the sound as it is
RELEASE_S = 0.3


def preset_paths(jobs: Sequence[Job]) -> list[Path]:
    """Where the presets of a batch go, one for each source: beside its outputs, and named after it.

    Where sources differ only in their extension (a.wav, a.flac), the names keep it, like those of the outputs.
    """
    firsts = [source_jobs[0] for source_jobs in _by_source(jobs)]
    counts = Counter((job.output.parent, job.source.stem) for job in firsts)
    return [
        job.output.parent
        / name_of(job.source.stem if counts[job.output.parent, job.source.stem] == 1 else job.source.name, ".dspreset")
        for job in firsts
    ]


def check_presets(jobs: Sequence[Job], *, overwrite: bool = False) -> None:
    """Raise `PipelineError` if a preset can't be written, or would replace a file of the user."""
    for path in preset_paths(jobs):
        if os.path.exists(path) and not overwrite and not _is_own(path):
            raise PipelineError(f"{printable(path)}: exists already, and is not one of this program; it is kept")
    for job in jobs:
        if not job.output.name.isprintable():  # control characters, and bytes that are not UTF-8
            raise PipelineError(f"{printable(job.output)}: a name that a preset can't hold; rename the sound")


def write_presets(jobs: Sequence[Job]) -> list[Path]:
    """Write the preset of each source whose variations all exist; returns their paths."""
    written = []
    for source_jobs, path in zip(_by_source(jobs), preset_paths(jobs), strict=True):
        if all(os.path.exists(job.output) for job in source_jobs):
            with atomic_write(path) as temporary:
                temporary.write_bytes(preset(source_jobs))
            written.append(path)
    return written


def preset(jobs: Sequence[Job]) -> bytes:
    """The preset of one source, given its jobs, which have different octaves: XML in UTF-8."""
    layers = sorted((job.target.octaves, job.output.name) for job in jobs)
    positions = [octaves for octaves, _ in layers]
    root = ET.Element("DecentSampler", minVersion="1.1.7")
    root.append(ET.Comment(f" {MAKER} "))
    tab = ET.SubElement(ET.SubElement(root, "ui", width="812", height="375"), "tab", name="main")
    knob = ET.SubElement(
        tab, "labeled-knob", x="361", y="120", width="90", textSize="16", label="texture - smooth", type="float",
        minValue=f"{positions[0]:g}", maxValue=f"{positions[-1]:g}", value="0",
    )  # fmt: skip
    groups = ET.SubElement(root, "groups", attack="0.005", release=f"{RELEASE_S:g}")
    for i, (octaves, name) in enumerate(layers):
        ET.SubElement(
            knob, "binding", type="amp", level="group", position=str(i), parameter="AMP_VOLUME", translation="table",
            translationTable=fade_table(positions, i),
        )  # fmt: skip
        group = ET.SubElement(groups, "group", name=f"{octaves:+g}", volume="1.0" if octaves == 0 else "0.0")
        ET.SubElement(group, "sample", path=name, rootNote=str(ROOT_NOTE), loNote="0", hiNote="127")
    controller = ET.SubElement(ET.SubElement(root, "midi"), "cc", number=str(KNOB_CC))
    ET.SubElement(
        controller, "binding", type="control", level="ui", position="0", parameter="VALUE", translation="linear",
        translationOutputMin=f"{positions[0]:g}", translationOutputMax=f"{positions[-1]:g}",
    )  # fmt: skip
    ET.indent(root)
    return ET.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def fade_table(positions: Sequence[float], i: int) -> str:
    """Gains of variation ``i`` at the positions of all, as pairs of position and gain, linear in between."""
    return ";".join(f"{position:g},{1 if j == i else 0}" for j, position in enumerate(positions))


def _by_source(jobs: Sequence[Job]) -> list[list[Job]]:
    """The jobs of each source."""
    return [list(source_jobs) for _, source_jobs in groupby(jobs, key=lambda job: job.source)]


def _is_own(path: Path) -> bool:
    """True if this program wrote the preset."""
    try:
        return MAKER.encode() in path.read_bytes()[:1000]
    except OSError:
        return False
