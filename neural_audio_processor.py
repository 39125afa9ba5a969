#!/usr/bin/env python3
"""Move the grain of audio with a learned model: stage 4 of the Neural Grain Processor.

One slider s from -3 (texture) through 0 to +3 (smooth), in octaves of measured grain:

    grain(out) = grain(in) * 2 ** -s

With --grain it renders files and ends; without, it opens a window. 0 gives the input's
samples back bit for bit.

Reads:  a model that stage 3 made, and audio files
Writes: NAME_grain-2.0.wav in the current folder, or what -o names; never the input
Exit status: 0 all rendered; 1 some could not be (each is named);
             2 wrong usage or nothing rendered; 130 interrupted

    python neural_audio_processor.py
    python neural_audio_processor.py drone.wav --grain -2
    python neural_audio_processor.py drone.wav choir.flac --grain 1.5 -o smoother/
"""

from __future__ import annotations

import os
import signal
import sys

if __name__ == "__main__":  # while packages are imported nothing is under way: Ctrl-C ends at once, in one line
    signal.signal(signal.SIGINT, lambda *_: (sys.stderr.write("\ninterrupted\n"), os._exit(130)))

import argparse
import gc
import hashlib
import json
import math
import queue
import re
import shutil
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convert_to_spectrograms import (
    CEILING,
    DYNAMIC_RANGE_DB,
    TICKS_HZ,
    Amounts,
    AmountSolver,
    Analysis,
    Rendering,
    analyse,
    large_array,
    move_grain,
)
from measure_audio_grain import (
    AUDIO_EXTENSIONS,
    DEFAULT_FOLDERS,
    PipelineError,
    Sound,
    add_parallel_arguments,
    check_unchanged,
    check_writable,
    cluster,
    decoded,
    file_stamp,
    find_audio,
    in_parallel,
    json_path,
    leave,
    measure_grain,
    on_cluster,
    one_line,
    only_run,
    open_audio,
    open_sound,
    prepare_folder,
    progress_bar,
    remove_leftovers,
    replacing,
    run_main,
    sound_from_array,
    warn,
    write_json,
)

if TYPE_CHECKING:
    from cak_grain_processor import LoadedModel

DEFAULT_MODEL = "grain_processor_v2_output/final_grain_processor_v2.pt"  # where stage 3 leaves it
SLIDER_RANGE = 3.0
WAV_LIMIT_BYTES = 2**32 - 2**16  # a WAV can't be longer: then it becomes RF64
FORMATS = {
    **dict.fromkeys((".wav", ".wave"), "WAV"), **dict.fromkeys((".aif", ".aiff", ".aifc"), "AIFF"), ".rf64": "RF64",
    ".flac": "FLAC", ".ogg": "OGG", ".oga": "OGG", ".opus": "OGG", ".mp3": "MP3", ".caf": "CAF", ".w64": "W64", ".au": "AU",
}  # fmt: skip
INTEGER_BITS = {
    "PCM_S8": 8,
    "PCM_U8": 8,
    "PCM_16": 16,
    "PCM_24": 24,
    "PCM_32": 32,
    "ALAC_16": 16,
    "ALAC_20": 20,
    "ALAC_24": 24,
    "ALAC_32": 32,
}
TAGS = ("title", "copyright", "software", "artist", "comment", "date", "album", "license", "tracknumber", "genre")
NAME_BYTES = 255  # of a file, on every usual file system
BATCH_LOG = "grain_renderings.jsonl"
DEMO_INPUT = "demo_harmonic_08.flac"  # a chord progression from the middle of the demo's range of grain
DEMO_POSITIONS = (-2.0, 2.0)

FADE_S = 0.006  # from one sound to another: short enough to feel at once, long enough not to click
AHEAD_S = 0.3  # rendered before it is heard
PREPARE_S = 0.02

MEASURING = "measuring ..."
SETTLE_MS = 120  # the hand rests so long before a new rendering is measured
POLL_MS = 30
HOLD_S = 0.35  # a shorter press is a tap
KEY_REPEAT_MS = 20
DETENT = 0.05  # the slider rests at 0
GAIN_RANGE_DB = 40.0
CLICK_PIXELS = 4
N_RECENT = 10
SHEET_LINES = 24  # of a text that the window shows; a longer one is scrolled
ACCENT = "#c2571a"
LIGHT = {
    "back": "#f4f2ee",
    "text": "#22201d",
    "line": "#a8a29a",
    "trough": "#e2ded6",
    "button": "#e9e6df",
    "error": "#b00020",
}
DARK = {
    "back": "#211f1d",
    "text": "#ece8e1",
    "line": "#6b655d",
    "trough": "#35322e",
    "button": "#2d2a27",
    "error": "#ff8a80",
}
SHORTCUTS = """Space\tplay, pause
B\tbefore and after in turn (held: as long as it is held)
Left, Right\tthe slider by 0.1
Page Up, Page Down\tthe slider by 1
double-click\tthe slider to 0
Home\tto the start of the sound
click in a picture\tgo on there
drag in a picture\tloop that part (Esc: no longer)
wheel\tzoom in time (0: all)
G\tafter, or the gain that is applied
L\tmel or log frequency
Ctrl-O, Ctrl-S\topen, save
Ctrl-W, Ctrl-Q\tclose the file, quit
F1\tthis sheet (Esc: away with it)"""


# Sample formats


def native_dtype(subtype: str) -> str:
    """NumPy type in which libsndfile gives samples of a format back exactly as they are stored."""
    if subtype in INTEGER_BITS:
        return "int16" if INTEGER_BITS[subtype] <= 16 else "int32"
    return "float64" if subtype == "DOUBLE" else "float32"


def to_sample_format(y: np.ndarray, subtype: str) -> np.ndarray:
    """Samples as libsndfile stores them without touching them again.

    libsndfile scales floats by 2**15 - 1 when it writes and by 2**15 when it reads; rounding here
    makes writing the exact inverse of reading.

    Parameters
    ----------
    y : np.ndarray, full scale 1.0
    subtype : libsndfile's name of the sample format

    Returns
    -------
    np.ndarray, int16 or int32 with the bits at the top, or y itself for float and lossy formats
    """
    if subtype not in INTEGER_BITS:
        return y
    bits, dtype = INTEGER_BITS[subtype], native_dtype(subtype)
    full = 2.0 ** (bits - 1)
    values = np.clip(np.rint(np.float64(y) * full), -full, full - 1).astype(np.int64)
    return (values << (np.iinfo(dtype).bits - bits)).astype(dtype)


@dataclass(frozen=True)
class OutputFormat:
    """Container and sample format of a file, by libsndfile's names, and its tags."""

    format: str
    subtype: str
    tags: dict[str, str] = field(default_factory=dict)


def check_subtype(name: str) -> str:
    """libsndfile's name of a sample format, however it is spelt.

    Raises
    ------
    PipelineError
        If there is none of that name.
    """
    import soundfile as sf

    if name.upper() not in sf.available_subtypes():
        raise PipelineError(f"--subtype {name}: no such sample format; use one of {' '.join(sf.available_subtypes())}")
    return name.upper()


def output_format(output: Path, stored: OutputFormat, n_bytes: int, subtype: str | None = None) -> OutputFormat:
    """The format that an output's name asks for, with the input's sample format where it can hold it.

    Parameters
    ----------
    stored : the input's
    n_bytes : size of the samples, at most
    subtype : sample format asked for instead

    Raises
    ------
    PipelineError
        If the extension is no audio format that can be written, or can't hold the sample format.
    """
    import soundfile as sf

    name = FORMATS.get(output.suffix.lower())
    if name is None:
        raise PipelineError(
            f"{output}: can't write {output.suffix or 'a name without an extension'}; use one of {' '.join(FORMATS)}"
        )
    if name == "WAV" and n_bytes > WAV_LIMIT_BYTES:
        name = "RF64"
    if subtype is not None:
        if not sf.check_format(name, subtype):
            raise PipelineError(
                f"{output}: {name} can't hold {subtype}; it holds {' '.join(sf.available_subtypes(name))}"
            )
        return OutputFormat(name, subtype, stored.tags)
    return OutputFormat(name, _subtype_like(output, name, stored.subtype), stored.tags)


def _subtype_like(output: Path, name: str, input_subtype: str) -> str:
    import soundfile as sf

    if output.suffix.lower() == ".opus":
        return "OPUS"
    lossless = input_subtype in INTEGER_BITS or input_subtype in ("FLOAT", "DOUBLE")
    if sf.check_format(name, input_subtype) and (name == "MP3" or not input_subtype.startswith("MPEG")):
        return input_subtype
    if not lossless and sf.check_format(name, "FLOAT"):
        return "FLOAT"  # a decoded lossy file has no bits; float keeps what was decoded
    return "PCM_24" if sf.check_format(name, "PCM_24") else sf.default_subtype(name)


# Rendering files


@dataclass(frozen=True)
class Asked:
    """What is asked of a rendering: octaves of the slider, or a grain to reach."""

    octaves: float = 0.0
    target_grain: float | None = None

    def octaves_from(self, grain: float) -> float:
        """Octaves from a sound's own grain."""
        return self.octaves if self.target_grain is None else math.log2(grain / self.target_grain)

    @property
    def is_copy(self) -> bool:
        """Whether the samples shall stay as they are."""
        return self.target_grain is None and self.octaves == 0


@dataclass(frozen=True)
class FileRendering:
    """What became of one file."""

    input: Path
    output: Path
    rendering: Rendering | None  # None if the input has no grain; then only 0 can be asked


def output_name(source: Path, asked: Asked) -> str:
    """Default name of a rendering: drone.flac at -2 becomes drone_grain-2.0.wav, at a grain drone_grain0.02.wav."""
    text = f"{asked.octaves:+.2f}" if asked.target_grain is None else f"{asked.target_grain:.3g}"
    if asked.target_grain is None and text.endswith("0"):
        text = text[:-1]
    ending, stem = f"_grain{text}.wav", os.fsencode(source.stem)
    room = NAME_BYTES - len(ending)
    if len(stem) <= room:
        return source.stem + ending
    mark = hashlib.sha1(stem).hexdigest()[:8]  # tells names apart that differ only beyond the cut
    return f"{stem[: room - 9].decode('utf-8', 'ignore')}_{mark}{ending}"


class GrainProcessor:
    """A model that is ready to render; knows nothing of windows.

    >>> processor = GrainProcessor.load(MODEL, device="cpu")
    >>> y = np.sin(440 * 2 * np.pi * np.arange(44100) / 44100)
    >>> y += 0.001 * np.random.default_rng(0).standard_normal(44100)
    >>> z = processor.render(y, 44100, grain=-2)
    >>> z.shape
    (44100,)
    >>> round(float(np.log2(processor.measure(y, 44100) / processor.measure(z, 44100))), 1)
    -2.0
    >>> np.array_equal(processor.render(y, 44100, grain=0), y)
    True

    Parameters
    ----------
    loaded : LoadedModel
    threads : int > 0, for one sound
    """

    def __init__(self, loaded: LoadedModel, threads: int | None = None):
        self.loaded = loaded
        self.threads = threads or os.cpu_count() or 1
        self._last: tuple[tuple, AmountSolver] | None = None

    @classmethod
    def load(cls, path: Path | str, device: str = "auto") -> GrainProcessor:
        """Read a model that stage 3 made.

        Parameters
        ----------
        device : "auto", "cpu", "cuda" or "mps"

        Raises
        ------
        PipelineError
            If there is no usable model.
        """
        from cak_grain_processor import choose_device, load_model  # late: the window opens before torch is there

        if not Path(path).exists():
            raise PipelineError(f"{path}: no model there yet; make one with: python cak_grain_processor.py")
        return cls(load_model(Path(path), choose_device(device)))

    def measure(self, y: np.ndarray, sr: int) -> float:
        """Grain of samples, shape (n,) or (n, channels).

        Raises
        ------
        PipelineError
            If they have none: too short, silent, not finite.
        """
        return measure_grain(sound_from_array(y, sr), self.loaded.settings.grain)

    def render(self, y: np.ndarray, sr: int, *, grain: float) -> np.ndarray:
        """Move the grain of samples by some octaves, as far as the sound goes.

        Parameters
        ----------
        y : np.ndarray, shape (n,) or (n, channels), full scale 1.0
        sr : int > 0, Hz
        grain : float, octaves: negative is more texture, positive is smoother

        Returns
        -------
        np.ndarray, shape of ``y``, float32; ``y`` itself for 0

        Raises
        ------
        PipelineError
            If the samples have no grain.
        """
        if grain == 0:
            return y
        solver = self.solver(sound_from_array(y, sr))
        rendering = move_grain(solver, grain, ceiling=max(1.0, solver.analysis.peak))
        return np.concatenate(list(rendering.sound.blocks())).reshape(y.shape)

    def solver(self, sound: Sound, looked: Callable[[Analysis], None] = lambda _: None) -> AmountSolver:
        """What depends on the sound alone: its analysis, which is told as soon as it is there, and its pattern."""
        analysis = analyse(sound, self.loaded.settings, self.threads)
        looked(analysis)
        return AmountSolver(analysis, self.loaded.pattern_db(analysis.x))

    def _solver_of(self, source: Path, sound: Sound) -> AmountSolver:
        """The same of a file; that of the last one is kept, for it is often rendered again."""
        key, last = (source, *file_stamp(source)), self._last
        if last is None or last[0] != key:
            self._last = last = (key, self.solver(sound))
        return last[1]

    def keep(self, source: Path, stamp: tuple[int, int], solver: AmountSolver) -> None:
        """Take over a file's solver, so that it is rendered without another look; its stamp tells if it changes."""
        fresh = copy(solver)
        fresh.ends = {}  # measured in memory, they would differ a little from those measured in a file's sample format
        self._last = (source, *stamp), fresh

    def render_file(
        self, source: Path, output: Path, asked: Asked, *, overwrite: bool = False, subtype: str | None = None
    ) -> FileRendering:
        """Render one file; the output appears under its name only when it is whole.

        Parameters
        ----------
        subtype : sample format by libsndfile's name; the input's if None

        Raises
        ------
        PipelineError
            If the input can't be read or has no grain, or the output can't be written.
        """
        stamp = file_stamp(source)
        sound = open_sound(source)
        check_output(source, output, overwrite)
        with open_audio(source) as file:
            stored = OutputFormat(file.format, file.subtype, tags_of(file))
        target = output_format(output, stored, sound.n_samples * sound.channels * 8, subtype)
        check_writable(output.parent)
        with replacing(output) as temporary:
            if asked.is_copy:
                copy_samples(source, stored, temporary, target)
                unmoved = self._unmoved(sound)
                check_unchanged(source, stamp)
                return FileRendering(source, output, unmoved)
            solver = self._solver_of(source, sound)
            ceiling = CEILING if target.subtype in INTEGER_BITS else max(1.0, solver.analysis.peak)

            def store(like: Sound, blocks: Iterator[np.ndarray]) -> Sound:
                return written_sound(temporary, blocks, like, target)

            octaves = asked.octaves_from(solver.analysis.grain)
            rendering = move_grain(solver, octaves, ceiling=ceiling, store=store)
            if rendering.sound is solver.analysis.sound:  # nothing could be moved: what was stored is not it
                copy_samples(source, stored, temporary, target)
            check_unchanged(source, stamp)
        return FileRendering(source, output, replace(rendering, sound=open_sound(output)))

    def _unmoved(self, sound: Sound) -> Rendering | None:
        try:
            grain = measure_grain(sound, self.loaded.settings.grain, self.threads)
        except PipelineError:
            return None  # silence has no grain, and at 0 it need not have any
        return Rendering(sound, 0.0, grain, grain, True, Amounts(0.0, 0.0), 0.0, 0.0)


def check_output(source: Path, output: Path, overwrite: bool) -> None:
    """Refuse to write over the input, or without leave over anything else.

    Raises
    ------
    PipelineError
        If it would.
    """
    if len(os.fsencode(output.name)) > NAME_BYTES:
        raise PipelineError(f"{output}: the name is longer than {NAME_BYTES} bytes; give a shorter one")
    if output.exists():
        if output.samefile(source):
            raise PipelineError(f"{output}: is the input itself, which is never overwritten; choose another name")
        if output.is_dir():
            raise PipelineError(f"{output}: is a folder; end it with / to write into it")
        if not overwrite:
            raise PipelineError(f"{output}: exists already; give --overwrite to replace it")


def tags_of(file) -> dict[str, str]:
    """The texts (title, artist ...) that libsndfile found in an open file."""
    return {name: text for name in TAGS if (text := getattr(file, name, ""))}


@contextmanager
def writing(path: Path, like: Sound, target: OutputFormat) -> Iterator[object]:
    """A ``soundfile.SoundFile`` for writing, with its tags.

    Raises
    ------
    PipelineError
        If the format can't hold the sound or the disk can't.
    """
    import soundfile as sf

    try:
        with sf.SoundFile(os.fsencode(path), "w", like.sr, like.channels, target.subtype, format=target.format) as file:
            for name, text in target.tags.items():
                with suppress(sf.LibsndfileError):  # a format that has no such tag
                    setattr(file, name, text)
            yield file
        check_whole(path, file.frames)
    except sf.LibsndfileError as err:
        hint = "; is the disk full?" if "System error" in err.error_string else ""
        raise PipelineError(
            f"can't write {target.format} {target.subtype} with {like.channels} channels at {like.sr} Hz ({err.error_string.strip(' .')}{hint})"
        ) from err
    except OSError as err:
        raise PipelineError(f"can't write ({err.strerror})") from err


def check_whole(path: Path, n_samples: int) -> None:
    """Look for the last sample of a file just written: of a disk that is full by then, libsndfile's encoders say nothing.

    Raises
    ------
    PipelineError
        If it is not there.
    """
    import soundfile as sf

    with suppress(sf.LibsndfileError), sf.SoundFile(os.fsencode(path)) as file:
        if n_samples == 0 or (file.frames >= n_samples and file.seek(n_samples - 1) >= 0 and len(file.read(1))):
            return
    raise PipelineError("can't write: the last of it does not read back; is the disk full?")


def from_sample_format(y: np.ndarray, subtype: str) -> np.ndarray:
    """Samples as they read back from a file of a format, float32 with full scale 1.0."""
    return (y / np.float64(-np.iinfo(y.dtype).min)).astype(np.float32) if subtype in INTEGER_BITS else np.float32(y)


def written_sound(path: Path, blocks: Iterator[np.ndarray], like: Sound, target: OutputFormat) -> Sound:
    """A sound that is written to a file while it is first read, so that it need not be read back.

    What a lossy format makes of it is known only from the file, so there it is written at once.

    Raises
    ------
    PipelineError
        If the format can't hold the sound or the disk can't; while reading, too.
    """

    def write() -> Iterator[np.ndarray]:
        with writing(path, like, target) as file:
            for block in blocks:
                stored = to_sample_format(block, target.subtype)
                file.write(stored)
                yield from_sample_format(stored, target.subtype)

    if target.subtype not in INTEGER_BITS and target.subtype not in ("FLOAT", "DOUBLE"):
        for _ in write():
            pass
        return open_sound(path)
    unwritten = [write()]
    return replace(like, blocks=lambda: unwritten.pop() if unwritten else open_sound(path).blocks())


def copy_samples(source: Path, stored: OutputFormat, output: Path, target: OutputFormat) -> None:
    """The input's samples as they are: the file itself if the format stays, else sample by sample.

    Raises
    ------
    PipelineError
        If the input is damaged or the output can't be written.
    """
    if (stored.format, stored.subtype) == (target.format, target.subtype):
        try:
            shutil.copyfile(source, output)
        except OSError as err:
            raise PipelineError(f"can't write ({err.strerror})") from err
        return
    with open_audio(source) as file, writing(output, open_sound(source), target) as copy:
        for block in decoded(file, native_dtype(stored.subtype)):
            copy.write(block)


def describe(rendering: Rendering | None) -> str:
    """One line about a rendering: "grain 0.0031 -> 0.0124 (asked x4.00, got x3.97)"."""
    if rendering is None:
        return "no grain to measure; copied as it is"
    asked, got = 2.0**-rendering.asked_octaves, 2.0**-rendering.got_octaves
    line = f"grain {rendering.grain_before:.3g} -> {rendering.grain_after:.3g} (asked x{asked:#.3g}, got x{got:#.3g}"
    if not rendering.within_reach:
        line += ": as far as this sound goes"
    line += ")"
    if rendering.limited_db > 0.1:
        line += f", peaks limited by {rendering.limited_db:.1f} dB"
    if abs(rendering.level_db) > 0.5:
        line += f", {abs(rendering.level_db):.1f} dB {'quieter' if rendering.level_db < 0 else 'louder'}"
    return line


def report_of(result: FileRendering) -> dict:
    """What became of a file, for machines: names, plain numbers, no NaN."""
    names = {"input": str(result.input), "output": str(result.output)}
    rendering = result.rendering
    if rendering is None:
        return names | {"grain_before": None, "grain_after": None}
    numbers = {name: value for name, value in vars(rendering).items() if name not in ("sound", "amounts")}
    expander = rendering.amounts.expander
    return names | numbers | {"got_octaves": rendering.got_octaves, "expander_amount": expander}


# Batches


@dataclass(frozen=True)
class Job:
    """One rendering to do."""

    source: Path
    output: Path
    asked: Asked


class BatchLog:
    """Remembers in the output folder what was rendered from what, so that a batch that stopped goes on where it was.

    One line of JSON when a file is begun and one when it is done, appended; a line that was cut off
    counts for nothing.

    Parameters
    ----------
    folder : Path
    model_path : Path
    subtype : str or None
    """

    def __init__(self, folder: Path, model_path: Path, subtype: str | None):
        self._path = folder / BATCH_LOG
        self._common = [hashlib.sha256(model_path.read_bytes()).hexdigest(), subtype]
        self._last: dict[str, dict] = {}
        self._lock = threading.Lock()
        if self._path.exists():
            for line in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
                with suppress(ValueError, TypeError, KeyError, RecursionError):
                    record = json.loads(line)
                    if len(record.get("stamps", [0, 0])) == 2 and isinstance(record.get("stamps", []), list):
                        self._last[record["output"]] = record
            self._append("")  # in case the last line was cut off

    def _record(self, job: Job, is_done: bool) -> dict:
        record = {
            "output": json_path(job.output, self._path.parent.absolute()),
            "input": str(job.source),
            "asked": [job.asked.octaves, job.asked.target_grain],
            "model_and_subtype": self._common,
        }
        stamps = {"stamps": [list(file_stamp(path)) for path in (job.source, job.output)]} if is_done else {}
        return record | stamps

    def has(self, job: Job) -> bool:
        """Whether a job was done and neither its input nor its output has changed since."""
        try:
            record = self._record(job, is_done=True)
        except PipelineError:
            return False
        return self._last.get(record["output"]) == record

    def owns(self, job: Job) -> bool:
        """Whether the output is an earlier run's and not the user's."""
        last = self._last.get(json_path(job.output, self._path.parent.absolute()), {})
        try:
            return bool(last) and ("stamps" not in last or last["stamps"][1] == list(file_stamp(job.output)))
        except PipelineError:
            return False

    def add(self, job: Job, *, is_done: bool) -> None:
        """Remember that a job was begun, or done.

        Raises
        ------
        PipelineError
            If that can't be written.
        """
        self._append(json.dumps(self._record(job, is_done)))

    def _append(self, line: str) -> None:
        try:
            with self._lock, self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as err:
            raise PipelineError(f"{self._path}: can't write ({err.strerror})") from err


def render_batch(
    processor: GrainProcessor,
    batch: list[Job],
    *,
    overwrite: bool = False,
    subtype: str | None = None,
    log: BatchLog | None = None,
    jobs: int = 1,
    progress: Callable[[Iterable, int], Iterable] = lambda items, total: items,
) -> Iterator[tuple[Job, FileRendering | str | None]]:
    """Render files, some at a time, and go on past those that fail.

    Yields
    ------
    each job with what became of it: nothing if it was done before, these come first; then, in the order
    in which they are done, a rendering or the reason why there is none
    """
    is_far = on_cluster()
    is_alone = jobs == 1 and not is_far
    here = Path.cwd() if is_far else Path()  # other processes have another current folder
    one = processor if is_alone else GrainProcessor(processor.loaded, 1)

    def render(task: tuple[Job, bool, int]) -> FileRendering | str:
        job, may_replace, begun_ns = task
        mine = one if is_alone else GrainProcessor(one.loaded, 1)  # each keeps a file of its own
        try:
            result = mine.render_file(job.source, here / job.output, job.asked, overwrite=may_replace, subtype=subtype)
            if is_far:
                # A worker may write the file and die before that is known: then another one writes the same again,
                # perhaps after the log has its time.
                os.utime(here / job.output, ns=(begun_ns, begun_ns))
            return replace(result, output=job.output)
        except PipelineError as err:
            return one_line(str(err))

    before = {job for job in batch if log is not None and log.has(job)}
    yield from ((job, None) for job in batch if job in before)
    to_do = [job for job in batch if job not in before]

    def begun() -> Iterator[tuple[Job, bool, int]]:
        for job in to_do:
            is_free = not job.output.exists()
            may_replace = overwrite or (log is not None and log.owns(job))
            if log is not None and (may_replace or is_free):
                with suppress(PipelineError):  # what is wrong, `render_file` will say
                    log.add(job, is_done=False)
            yield job, may_replace or (is_far and is_free), time.time_ns()

    for (job, *_), result in progress(in_parallel(render, begun(), jobs), len(to_do)):
        if log is not None and isinstance(result, FileRendering):
            with suppress(PipelineError):  # one of the two files has gone already: then it is not done
                log.add(job, is_done=True)
        yield job, result


# Playing


class Mixer:
    """What is heard: the sound before, after, or the difference, from one place on, with no click at any change.

    Knows nothing of windows, devices or time: an audio thread calls `fill` for each block, a thread of its
    own calls `prepare` to render ahead, anyone else sets what is wanted.

    Parameters
    ----------
    y : np.ndarray, shape (n_samples, channels), the sound before
    sr : int > 0, Hz
    solver : AmountSolver, of the same sound
    """

    def __init__(self, y: np.ndarray, sr: int, solver: AmountSolver):
        self.y, self.sr, self._solver = y, sr, solver
        self.position = 0
        self.underruns = 0
        self.peak = 0.0
        self.volume = 1.0
        self._fade_samples = max(1, round(FADE_S * sr))
        self._ahead = round(AHEAD_S * sr)
        self._listen = "after"
        self._amounts: Amounts | None = None
        self._loop: tuple[int, int] | None = None
        self._playing = False
        self._parts: tuple[_Part, ...] = ()  # of the sound after; replaced as a whole, never changed
        self._seek: int | None = None
        self._jump: tuple[int, tuple[_Part, ...]] | None = None
        self._heard: _Heard | None = None
        self._fade: tuple[_Heard | None, int, int] | None = None  # what fades out, its position, samples done
        self.changed = threading.Event()

    # Set by anyone

    def want(self, amounts: Amounts | None) -> None:
        """Amounts of change to hear as the sound after; None for none."""
        self._amounts = amounts
        self.changed.set()

    def listen(self, which: str) -> None:
        """Hear "before", "after" or "difference"."""
        if which not in ("before", "after", "difference"):
            raise ValueError(f"which={which!r} is not before, after or difference")
        self._listen = which

    def play(self) -> None:
        """Go on from the position, which starts anew at the end."""
        if self.position >= len(self.y):
            self.seek(0)
        self._playing = True
        self.changed.set()

    def pause(self) -> None:
        """Fade out."""
        self._playing = False

    @property
    def is_playing(self) -> bool:
        """Whether it goes on."""
        return self._playing

    @property
    def is_silent(self) -> bool:
        """Whether nothing sounds any more."""
        return not self._playing and self._heard is None and self._fade is None

    def seek(self, sample: int) -> None:
        """Go on somewhere else."""
        sample = min(max(0, sample), len(self.y))
        if not self._playing:
            self.position, self._parts = sample, ()
        self._seek = sample if self._playing else None
        self.changed.set()

    def loop(self, region: tuple[int, int] | None) -> None:
        """Go round inside a region of samples, or no longer."""
        if region is not None:
            start, stop = (min(max(0, sample), len(self.y)) for sample in region)
            region = (start, stop) if stop - start > 2 * self._fade_samples else None
        self._loop = region
        self.changed.set()

    # The thread that renders ahead

    def prepare(self) -> bool:
        """Render what will be heard next; returns whether there was anything to do."""
        seek, amounts = self._seek, self._amounts
        if seek is not None:
            self._seek = None
            self._jump = (seek, self._rendered(amounts, seek, self._ahead))
            return True
        position, parts = self.position, self._parts
        parts = tuple(part for part in parts if part.amounts == amounts)
        if amounts is None:
            return False
        now = next((part for part in parts if part.start <= position < part.stop), None)
        end = len(self.y) if self._loop is None or position >= self._loop[1] else self._loop[1]
        wanted = min(end, position + self._ahead) + self._fade_samples
        new: list[_Part] = []
        if now is None:
            new += self._rendered(amounts, position, self._ahead // 2)
        elif now.stop < min(wanted, len(self.y)):
            kept = now.y[max(0, position - now.start - 2 * self._fade_samples) :]
            more = self._rendered(amounts, now.stop, self._ahead // 2)
            new.append(_Part(amounts, now.stop - len(kept), np.concatenate((kept, *(part.y for part in more)))))
        if self._loop is not None and not any(p.start <= self._loop[0] < p.stop for p in (*parts, *new)):
            new += self._rendered(amounts, self._loop[0], self._ahead // 2)
        if not new:
            return False
        heads = [part for part in parts if self._loop and part is not now and part.start <= self._loop[0] < part.stop]
        if now is not None and now not in heads and not any(part.start <= position < part.stop for part in new):
            heads.append(now)
        self._parts = (*new, *heads)
        return True

    def _rendered(self, amounts: Amounts | None, start: int, n: int) -> tuple[_Part, ...]:
        stop = min(len(self.y), start + n)
        if amounts is None or stop <= start:
            return ()
        return (_Part(amounts, start, self._solver.render_part(self.y, amounts, start, stop)),)

    # The audio thread

    def fill(self, out: np.ndarray) -> None:
        """Write the next block, shape (samples, channels)."""
        done = 0
        if self._jump is not None:
            (position, parts), self._jump = self._jump, None
            self._begin_fade()
            self.position, self._parts = position, parts
        while done < len(out):
            n = len(out) - done
            loop = self._loop
            if loop is not None and self.position < loop[1]:
                n = min(n, loop[1] - self.position)
            self._fill_part(out[done : done + n])
            done += n
            if loop is not None and self.position == loop[1]:
                self._begin_fade()
                self.position = loop[0]
        if self._playing and self.position >= len(self.y):
            self._playing = False
        out *= self.volume
        self.peak = max(self.peak * 0.9, float(np.abs(out).max(initial=0.0)))

    def _begin_fade(self) -> None:
        self._fade = (self._heard, self.position, 0)

    def _fill_part(self, out: np.ndarray) -> None:
        wanted = self._next_heard(len(out))
        if (wanted and wanted.key) == (self._heard and self._heard.key):
            self._heard = wanted
        elif self._fade is None:
            self._begin_fade()
            self._heard = wanted
        out[:] = self._signal(self._heard, self.position, len(out))
        if self._fade is not None:
            old, position, faded = self._fade
            k = min(len(out), self._fade_samples - faded)
            rise = ((faded + 1 + np.arange(k)) / self._fade_samples)[:, None].astype(np.float32)
            out[:k] = rise * out[:k] + (1 - rise) * self._signal(old, position + faded, k)
            self._fade = (old, position, faded + k) if faded + k < self._fade_samples else None
        if self._heard is not None:
            self.position += len(out)

    def _next_heard(self, n: int) -> _Heard | None:
        if not self._playing:
            return None
        wanted = _Heard(self._listen, self._amounts, self._parts)
        n = min(n, len(self.y) - self.position)
        if wanted.amounts is None or wanted.listen == "before" or wanted.covers(self.position, n):
            return wanted
        for part in wanted.parts:  # moves may come faster than they are rendered: then the last that was
            rendered = replace(wanted, amounts=part.amounts)
            if rendered.covers(self.position, n):
                return rendered
        return self._heard  # nothing rendered yet: go on as it was, or wait

    def _signal(self, heard: _Heard | None, start: int, n: int) -> np.ndarray:
        before = np.zeros((n, self.y.shape[1]), np.float32)
        if heard is None:
            return before
        inside = self.y[start : start + n]
        before[: len(inside)] = inside
        if heard.listen == "before":
            return before
        after = before
        if heard.amounts is not None and len(inside):
            part = heard.part_for(start, len(inside))
            if part is None:
                self.underruns += 1
            else:
                after = np.zeros_like(before)
                after[: len(inside)] = part.y[start - part.start :][: len(inside)]
        return after if heard.listen == "after" else after - before


@dataclass(frozen=True)
class _Part:
    """Some of the sound after: samples from ``start`` on."""

    amounts: Amounts
    start: int
    y: np.ndarray

    @property
    def stop(self) -> int:
        """The sample after the last."""
        return self.start + len(self.y)


@dataclass(frozen=True)
class _Heard:
    """What a block is made of."""

    listen: str
    amounts: Amounts | None
    parts: tuple[_Part, ...]

    @property
    def key(self) -> tuple:
        """What makes it sound other."""
        return self.listen, self.amounts if self.listen != "before" else None

    def part_for(self, start: int, n: int) -> _Part | None:
        """The part that holds some samples."""
        for part in self.parts:
            if part.amounts == self.amounts and part.start <= start and start + n <= part.stop:
                return part
        return None

    def covers(self, start: int, n: int) -> bool:
        """Whether some samples are rendered."""
        return n <= 0 or self.part_for(start, n) is not None


class Player:
    """Plays a mixer through sounddevice, where that, PortAudio and a sound card are there.

    Parameters
    ----------
    device : module like sounddevice, for tests; the real one if None
    """

    def __init__(self, device=None):
        self.why_not = ""
        if device is None:
            try:
                import sounddevice as device
            except (ImportError, OSError) as err:
                self.why_not = f"no sound: {one_line(str(err))}"
        self._device = device
        self._stream = None
        self._mixer: Mixer | None = None
        self._is_open = False
        self._thread: threading.Thread | None = None

    def play(self, mixer: Mixer) -> str:
        """Play a mixer from its position; returns why it can't, or nothing."""
        if self._device is None:
            return self.why_not
        if mixer is not self._mixer or self._stream is None or not self._stream.active:
            self.close()
            try:
                self._open(mixer)
            except (self._device.PortAudioError, ValueError) as err:
                self.close()
                return f"no sound: {one_line(str(err))}"
        mixer.play()
        return ""

    def _open(self, mixer: Mixer) -> None:
        channels = mixer.y.shape[1]
        heard = min(channels, 2)
        buffer = np.zeros((0, channels), np.float32)

        def callback(out: np.ndarray, n: int, _time: object, _status: object) -> None:
            nonlocal buffer
            if len(buffer) < n:
                buffer = np.zeros((n, channels), np.float32)
            mixer.fill(buffer[:n])
            if channels <= 2:
                out[:] = buffer[:n]
            else:  # every second channel to each side
                for side in range(2):
                    out[:, side] = buffer[:n, side::2].mean(axis=1)

        self._stream = self._device.OutputStream(
            samplerate=mixer.sr, channels=heard, dtype="float32", latency="low", callback=callback
        )
        self._stream.start()
        self._mixer, self._is_open = mixer, True
        self._thread = threading.Thread(target=self._render_ahead, args=(mixer,), name="grain player", daemon=True)
        self._thread.start()

    def _render_ahead(self, mixer: Mixer) -> None:
        while self._is_open:
            if not mixer.prepare():
                mixer.changed.wait(PREPARE_S)
                mixer.changed.clear()

    def pause(self) -> None:
        """Fade out and wait."""
        if self._mixer is not None:
            self._mixer.pause()

    def check(self) -> str:
        """Why a stream that should play no longer does (its device is gone), or nothing."""
        if self._mixer is not None and self._mixer.is_playing and self._stream is not None and not self._stream.active:
            self._mixer.pause()
            self.close()
            return "no sound: the device stopped; choose another in the system's settings and play again"
        return ""

    def close(self) -> None:
        """End the stream and the thread that renders for it."""
        self._is_open = False
        if self._mixer is not None:
            self._mixer.pause()
            self._mixer.changed.set()
        if self._thread is not None:
            self._thread.join(timeout=5)
        stream, self._stream, self._mixer, self._thread = self._stream, None, None, None
        if stream is not None:
            for end in (stream.abort, stream.close):
                with suppress(self._device.PortAudioError):  # the device has vanished: `check` says so
                    end()


# The work behind the window


class Cancelled(Exception):
    """The user no longer wants what is being done."""


@dataclass(frozen=True)
class Opened:
    """A file that the window shows: its samples, and its solver."""

    path: Path
    y: np.ndarray
    solver: AmountSolver

    @property
    def analysis(self) -> Analysis:
        """What is known of the sound."""
        return self.solver.analysis


@dataclass(frozen=True)
class Rendered:
    """What a rendering came to; the samples are not kept."""

    opened: Opened
    rendering: Rendering


@dataclass(frozen=True)
class Message:
    """What the worker tells the window: progress and looked under way; at the end of a task model, opened, rendered,
    saved, batch, cancelled or error."""

    kind: str
    content: object


class Worker:
    """Does the slow work on a thread of its own and only puts messages on a queue.

    Of several renderings that wait, only the last one asked for is done; one that is under way is given up.
    """

    def __init__(self, model_path: Path, device: str):
        # Before the window is there: imported by the thread, its libraries would stop the window for 0.3 s.
        import scipy.optimize  # noqa: F401

        self.messages: queue.Queue[Message] = queue.Queue()
        self._tasks: queue.Queue[tuple[str, Callable[[], object]] | None] = queue.Queue()
        self._device = device
        self._processor: GrainProcessor | None = None
        self._wanted = 0
        self._stop = threading.Event()
        self._is_opening = False
        self._is_stale: Callable[[], bool] = lambda: False  # whether a later wish has overtaken what is being done
        self._thread = threading.Thread(target=self._work, name="grain worker", daemon=True)
        self._thread.start()
        self.load(model_path)

    def load(self, model_path: Path) -> None:
        """Read a model."""
        self._put("model", lambda: self._load(model_path))

    def open(self, path: Path) -> None:
        """Read and analyse a file."""
        self._wanted += 1
        self._put("opened", lambda: self._open(path))

    def render(self, opened: Opened, octaves: float) -> None:
        """Render and measure at a position of the slider, unless a later wish overtakes it."""
        self._wanted += 1
        ticket = self._wanted
        self._put("rendered", lambda: self._render(opened, octaves, ticket))

    def forget(self) -> None:
        """Give up a rendering whose position has been left."""
        self._wanted += 1

    def save(self, jobs: list[Job]) -> None:
        """Render one file to disk, at one position or several, over older files if the dialog was told so."""
        self._put("saved", lambda: [self._save(job) for job in jobs])

    def batch(self, jobs: list[Job]) -> None:
        """Render many files, going on past those that fail."""
        self._put("batch", lambda: self._batch(jobs))

    def cancel(self) -> None:
        """Give up what is being done."""
        self._stop.set()

    def close(self) -> None:
        """End the thread; what it is doing is given up."""
        self._tasks.put(None)
        self._stop.set()
        self._thread.join(timeout=10)

    def _put(self, kind: str, task: Callable[[], object]) -> None:
        self._tasks.put((kind, task))

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            kind, work = task
            self._stop.clear()
            self._is_opening, self._is_stale = kind == "opened", lambda: False
            try:
                content = work()
            except Cancelled:
                self.messages.put(Message("cancelled", kind))
            except PipelineError as err:
                self.messages.put(Message("error", one_line(str(err))))
            except Exception as err:  # noqa: BLE001  a fault of ours must be said: a dead thread would look like long work
                at = traceback.extract_tb(err.__traceback__)[-1]
                place = f"{Path(at.filename).name}:{at.lineno}"
                self.messages.put(
                    Message("error", f"internal fault, please report it: {one_line(repr(err))} at {place}")
                )
            else:
                self.messages.put(Message(kind, content))

    def _stoppable(self, sound: Sound, said: str = "") -> Sound:
        """A sound whose reading ends when it is no longer wanted, and that says how far it is."""

        def blocks() -> Iterator[np.ndarray]:
            n_read, shown = 0, 0
            for block in sound.blocks():
                if self._stop.is_set() or self._is_stale():
                    raise Cancelled
                n_read += len(block)
                if said and self._is_opening and n_read - shown > sound.n_samples / 20:
                    shown = n_read
                    self.messages.put(Message("progress", (said, n_read / sound.n_samples)))
                yield block

        return replace(sound, blocks=blocks)

    def _load(self, path: Path) -> GrainProcessor:
        self._model_path = path
        if "cak_grain_processor" not in sys.modules:
            # torch comes with 200,000 objects that stay: each time the garbage collector went through
            # them all, while they are made or later, every thread would wait 0.2 s, and the window as well.
            from threadpoolctl import threadpool_limits

            gc.disable()
            try:
                import cak_grain_processor  # noqa: F401
            finally:
                gc.freeze()
                gc.enable()
            # One thread for each small product and convolution: several that must wait for each other on cores that
            # others use as well took up to thirty times as long. What is long is divided by time (`in_order`).
            threadpool_limits(1)
        processor = GrainProcessor.load(path, self._device)
        self._processor = processor  # an older one stays if this can't be read
        return processor

    def _open(self, path: Path) -> Opened:
        if self._processor is None:
            raise PipelineError(f"{self._model_path}: no usable model; make one with: python cak_grain_processor.py")
        try:
            stamp = file_stamp(path)
            sound = self._stoppable(open_sound(path), said="reading")
            y = large_array((sound.n_samples, sound.channels))
            at = 0
            for block in sound.blocks():
                y[at : at + len(block)] = block
                at += len(block)
            solver = self._processor.solver(
                self._stoppable(sound_from_array(y, sound.sr), said="looking"),
                lambda analysis: self.messages.put(Message("looked", (path, analysis))),
            )
            if self._stop.is_set():
                raise Cancelled
            for sign in (-1.0, 1.0):
                solver.reach(sign)  # found now, or the first move of the slider would wait for it
            self._processor.keep(path, stamp, solver)
        except PipelineError as err:
            raise PipelineError(f"{path.name}: {err}") from err
        return Opened(path, y, solver)

    def _render(self, opened: Opened, octaves: float, ticket: int) -> Rendered | None:
        self._is_stale = lambda: ticket != self._wanted
        if self._is_stale():
            return None
        try:
            rendering = move_grain(opened.solver, octaves, ceiling=max(CEILING, opened.analysis.peak))
        except Cancelled:
            if self._is_stale():
                return None
            raise
        return Rendered(opened, replace(rendering, sound=opened.analysis.sound))

    def _save(self, job: Job) -> FileRendering:
        if self._stop.is_set():
            raise Cancelled
        return self._processor.render_file(job.source, job.output, job.asked, overwrite=True)

    def _batch(self, jobs: list[Job]) -> tuple[int, list[str]]:
        """How many were rendered, and a line for each that was not."""
        failures = []
        for i, job in enumerate(jobs):
            self.messages.put(Message("progress", (f"file {i + 1} of {len(jobs)}", i / len(jobs))))
            try:
                self._save(replace(job))
            except PipelineError as err:
                failures.append(f"{job.source.name}: {one_line(str(err))}")
        return len(jobs) - len(failures), failures


# The window


@dataclass(frozen=True)
class Dialogs:
    """How the window asks; a test puts its own answers here."""

    open_name: Callable[[str], str]
    save_name: Callable[[str, str], str]
    model_name: Callable[[], str]
    many_names: Callable[[], list[str]]
    folder_name: Callable[[str], str]
    shall_save: Callable[[], bool | None]  # None: don't close
    show_text: Callable[[str, str], None]


def system_dialogs(root) -> Dialogs:
    """The system's dialogs."""
    from tkinter import filedialog, messagebox

    audio = [("Audio", " ".join(f"*{extension}" for extension in sorted(AUDIO_EXTENSIONS))), ("All files", "*")]
    return Dialogs(
        lambda folder: filedialog.askopenfilename(title="Open audio", filetypes=audio, initialdir=folder or None),
        lambda folder, name: filedialog.asksaveasfilename(
            title="Save the result",
            initialdir=folder or None,
            initialfile=name,
            defaultextension=".wav",
            filetypes=[(name, f"*{name}") for name in (".wav", ".flac", ".aiff", ".ogg", ".mp3", ".caf")],
        ),
        lambda: filedialog.askopenfilename(title="Choose a model", filetypes=[("Model", "*.pt"), ("All files", "*")]),
        lambda: list(filedialog.askopenfilenames(title="Render many files", filetypes=audio)),
        lambda title: filedialog.askdirectory(title=title),
        lambda: messagebox.askyesnocancel("Neural Grain Processor", "Save the result first?", parent=root),
        lambda title, text: show_sheet(root, title, text),
    )


def show_sheet(root, title: str, text: str) -> None:
    """Show text in place of the sheet before, tabs as columns; Tk's message box would break its lines at 3 inches."""
    import tkinter as tk
    from tkinter import font, ttk

    if "sheet" in root.children:
        root.children["sheet"].destroy()
    sheet = tk.Toplevel(root, name="sheet")
    sheet.title(title)
    sheet.transient(root)
    sheet.geometry(f"+{root.winfo_rootx() + root.winfo_width() // 8}+{root.winfo_rooty() + root.winfo_height() // 8}")
    lines, letters, style = text.split("\n"), font.nametofont("TkDefaultFont"), ttk.Style(root)
    em = letters.measure("m")
    column = max((letters.measure(line.split("\t")[0]) for line in lines if "\t" in line), default=0) + 2 * em
    words = tk.Text(sheet, width=60, height=min(len(lines) + 1, SHEET_LINES), wrap="word", font=letters, tabs=column)
    words.configure(background=style.lookup(".", "background"), foreground=style.lookup(".", "foreground"))
    edge = style.lookup(".", "bordercolor")
    words.configure(
        relief="flat", highlightbackground=edge, highlightcolor=edge, padx=2 * em, pady=em, spacing3=em // 4
    )
    words.insert("1.0", text)
    words.configure(state="disabled")
    words.pack(side="left", fill="both", expand=True)
    if len(lines) > SHEET_LINES:
        bar = ttk.Scrollbar(sheet, command=words.yview)
        bar.pack(side="right", fill="y")
        words.configure(yscrollcommand=bar.set)
    for key in ("<Escape>", "<Return>", "<F1>"):
        sheet.bind(key, lambda _: sheet.destroy())
    words.focus_set()


def settings_path() -> Path:
    """Where the platform keeps what a program remembers."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    elif sys.platform == "win32":
        base = Path(os.environ.get("APPDATA", Path.home()))
    else:
        base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return base / "neural-grain-processor" / "window.json"


@dataclass
class Remembered:
    """What the window remembers from one time to the next."""

    folder: str = ""
    geometry: str = "1100x680"
    volume: float = 1.0
    is_dark: bool = False
    is_log: bool = False
    recent: list[str] = field(default_factory=list)


def read_remembered(path: Path) -> Remembered:
    """What was remembered; what is missing or damaged is as at the first time."""
    remembered = Remembered()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return remembered
    for name, value in vars(remembered).items():
        given = content.get(name) if isinstance(content, dict) else None
        if type(given) is type(value):
            setattr(remembered, name, given)
    remembered.recent = [name for name in remembered.recent if isinstance(name, str) and "\0" not in name][:N_RECENT]
    remembered.folder = remembered.folder.replace("\0", "")
    remembered.volume = min(1.0, max(0.0, remembered.volume))
    if not re.fullmatch(r"[0-9]{3,4}x[0-9]{3,4}", remembered.geometry):
        remembered.geometry = Remembered.geometry
    return remembered


def write_remembered(path: Path, remembered: Remembered) -> None:
    """Keep it; a place that can't be written to is no reason to complain."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, vars(remembered))


class PictureView:
    """A spectrogram on a canvas: axes, playhead, selection; drawn by hand, for matplotlib takes 100 ms.

    Parameters
    ----------
    parent : widget
    title : str
    settings : SpectrogramSettings or None, for the frequency axis
    palette : dict of colours
    scale : float, pixels of the screen for one of an ordinary screen
    """

    LEFT, TOP, RIGHT, BOTTOM = 52, 20, 8, 38  # before scaling

    def __init__(self, parent, title: str, palette: dict[str, str], scale: float):
        import tkinter as tk

        self.canvas = tk.Canvas(parent, highlightthickness=0, width=300, height=200)
        self.title, self.palette, self.scale = title, palette, scale
        self.left, self.top = self.px(self.LEFT), self.px(self.TOP)
        self.span = (0.0, 1.0)  # seconds shown
        self.is_log = False
        self.mark_colour = "#ffffff"  # of playhead and selection
        self.edges_hz: tuple[float, ...] = ()
        self._image = None
        self._looks: tuple | None = None  # what the axes that are there depend on
        self._marks: list[float | None] | None = None  # pixels of playhead and selection
        self._rows: np.ndarray | None = None  # band of each pixel row

    def px(self, n: float) -> int:
        """Pixels of this screen."""
        return round(n * self.scale)

    @property
    def size(self) -> tuple[int, int]:
        """Pixels of the picture inside its axes."""
        width, height = self.canvas.winfo_width(), self.canvas.winfo_height()
        return max(1, width - self.left - self.px(self.RIGHT)), max(1, height - self.top - self.px(self.BOTTOM))

    def seconds_at(self, x: int) -> float:
        """Time under a pixel, held inside what is shown."""
        share = (x - self.left) / self.size[0]
        return self.span[0] + min(1.0, max(0.0, share)) * (self.span[1] - self.span[0])

    def x_at(self, seconds: float) -> float:
        """Pixel of a time."""
        return self.left + self.size[0] * (seconds - self.span[0]) / max(1e-9, self.span[1] - self.span[0])

    def hz_at(self, y: int | np.ndarray) -> float | np.ndarray:
        """Frequency under a pixel, or some."""
        share = 1 - np.clip((y - self.top) / self.size[1], 0, 1)
        centres = np.array(self.edges_hz[1:-1])
        if self.is_log:
            return centres[0] * (centres[-1] / centres[0]) ** share
        return np.interp(share * len(centres) - 0.5, np.arange(len(centres)), centres)

    def _share_of(self, hz: float) -> float:
        centres = np.array(self.edges_hz[1:-1])
        if self.is_log:
            return math.log(hz / centres[0]) / math.log(centres[-1] / centres[0])
        return (float(np.interp(hz, centres, np.arange(len(centres)))) + 0.5) / len(centres)

    def band_at(self, y: int | np.ndarray) -> int | np.ndarray:
        """Mel band under a pixel, or some."""
        return np.abs(np.array(self.edges_hz[1:-1]) - np.asarray(self.hz_at(y))[..., None]).argmin(axis=-1)

    def draw(self, levels: np.ndarray | None, colours: np.ndarray) -> None:
        """Show levels (n_mels, columns) in [0, 1] in some colours (256, 3), with axes; nothing if None."""
        from PIL import Image, ImageTk

        width, height = self.size
        looks = (self.size, self.span, self.is_log, self.edges_hz, self.title, self.palette["back"], levels is None)
        if looks != self._looks:
            self._looks, self._marks = looks, None
            self._rows = None if levels is None else self.band_at(self.top + np.arange(height))
            self._draw_axes(is_empty=levels is None)
        if levels is None:
            return
        columns = np.arange(width) * levels.shape[1] // width
        bands = colours[np.clip(levels * 255, 0, 255).astype(np.uint8)[:, columns]]
        picture = Image.fromarray(np.take(bands, self._rows, axis=0))
        if self._image is not None and (self._image.width(), self._image.height()) == self.size:
            self._image.paste(picture)
            return
        self._image = ImageTk.PhotoImage(picture, master=self.canvas)
        self.canvas.itemconfigure("picture", image=self._image)

    def _draw_axes(self, *, is_empty: bool) -> None:
        canvas, palette, px = self.canvas, self.palette, self.px
        canvas.delete("all")
        canvas.configure(background=palette["back"])
        width, height = self.size
        right, bottom = self.left + width, self.top + height
        canvas.create_text(self.left + px(6), self.top / 2, text=self.title, anchor="w", fill=palette["text"])
        if is_empty:
            canvas.create_rectangle(self.left, self.top, right, bottom, outline=palette["line"])
            return
        image = {} if self._image is None else {"image": self._image}
        canvas.create_image(self.left, self.top, anchor="nw", tags="picture", **image)
        for hz in TICKS_HZ:
            if self.edges_hz[1] <= hz <= self.edges_hz[-2]:
                y = bottom - height * self._share_of(hz)
                canvas.create_line(self.left - px(4), y, self.left, y, fill=palette["line"])
                label = f"{hz // 1000}k" if hz >= 1000 else str(hz)
                canvas.create_text(self.left - px(6), y, text=label, anchor="e", fill=palette["text"])
        for seconds in time_ticks(*self.span, width // px(90)):
            x = self.x_at(seconds)
            canvas.create_line(x, bottom, x, bottom + px(4), fill=palette["line"])
            canvas.create_text(x, bottom + px(12), text=f"{seconds:g}", fill=palette["text"])
        canvas.create_text(right, bottom + px(26), text="time (s)", anchor="e", fill=palette["text"])
        canvas.create_text(self.left - px(6), self.top / 2, text="Hz", anchor="e", fill=palette["text"])

    def mark(self, playhead_s: float | None, selection_s: tuple[float, float] | None) -> None:
        """Draw the playhead and the selection."""
        canvas, right, bottom = self.canvas, self.left + self.size[0], self.top + self.size[1]
        marks: list[float | None] = [None, None, None]
        if playhead_s is not None and self.span[0] <= playhead_s <= self.span[1]:
            marks[0] = round(self.x_at(playhead_s))
        if selection_s is not None:
            marks[1:] = (min(max(self.x_at(s), self.left), right) for s in selection_s)
        if marks == self._marks:
            return
        self._marks = marks
        canvas.delete("mark")
        head, start, stop = marks
        if start is not None:
            dash = self.px(4), self.px(3)  # grows with the line, whose ends would close the gaps
            canvas.create_rectangle(
                start, self.top, stop, bottom, outline=self.mark_colour, width=self.px(2), dash=dash, tags="mark"
            )
        if head is not None:
            canvas.create_line(head, self.top, head, bottom, fill=self.mark_colour, width=self.px(1), tags="mark")


def time_ticks(start_s: float, stop_s: float, n: int) -> list[float]:
    """At most ``n`` round times from one to another."""
    span = max(1e-6, stop_s - start_s) / max(1, n)
    step = 10 ** math.floor(math.log10(span))
    step *= next(factor for factor in (1, 2, 5, 10) if factor * step >= span)
    first = math.ceil(start_s / step - 1e-9)
    return [round(i * step, 6) for i in range(first, math.floor(stop_s / step + 1e-9) + 1)]


class GrainWindow:
    """The desktop window: open, slide while it plays, compare, save.

    All state is in a few attributes; `_refresh` derives every label and every enabled or disabled
    control from them.

    Parameters
    ----------
    root : tkinter.Tk
    model_path, device : for the worker
    source : Path or None, opened at the start
    dialogs : Dialogs or None, the system's if None
    player : Player or None, the system's if None
    remember : Path or None, the platform's place if None
    """

    def __init__(
        self,
        root,
        model_path: Path,
        device: str,
        source: Path | None = None,
        dialogs: Dialogs | None = None,
        player: Player | None = None,
        remember: Path | None = None,
    ):
        self.root, self.dialogs = root, dialogs or system_dialogs(root)
        self._remember_at = remember or settings_path()
        self.remembered = read_remembered(self._remember_at)
        self.player = player or Player()
        self.worker = Worker(model_path, device)
        self.has_model, self.busy, self.note, self.is_error = False, 1, "loading the model ...", False
        self.model_note = ""
        self.share: float | None = None  # how far the work is
        self.looked: tuple[Path, Analysis] | None = None  # a file that is being opened, as soon as it has a picture
        self.opened: Opened | None = None
        self.rendered: Rendered | None = None
        self.mixer: Mixer | None = None
        self.listening = "after"
        self.view = "after"  # what the right picture shows: after or gain
        self.selection_s: tuple[float, float] | None = None
        self.span = (0.0, 1.0)
        self.saved_at: float | None = 0.0  # the position that is on disk, or needs no saving
        self._after_save: tuple[Path, Callable[[], None]] | None = None  # what goes on once this file is saved
        self._settle: str | None = None  # the callback that renders once the hand rests
        self._redraw: str | None = None
        self._drag_from: float | None = None
        self._pointed: tuple[PictureView, int, int] | None = None  # picture and pixel under the pointer
        self._held: tuple[str, float] | None = None  # what was heard before a button or B went down, and when
        self._released: str | None = None  # the callback that ends the hold unless the key only repeats
        self._before: tuple[tuple, np.ndarray] | None = None  # the left picture, and what it is of
        self._looks: tuple | None = None  # what the left picture shows
        self._bar_looks: tuple | None = None
        self._options: dict[object, dict[str, object]] = {}  # of the widgets, as `_show` set them
        self._is_turning = False  # the progress bar, when nobody knows how far the work is
        self._build()
        self._refresh()
        if source is not None:
            self.open(source)
        self._poll_id = root.after(POLL_MS, self._poll)

    # What is on the screen

    def _build(self) -> None:
        from tkinter import ttk

        root = self.root
        root.title("Neural Grain Processor")
        # Fonts are in points and grow with the screen's resolution; what is in pixels must do as well.
        self.scale = max(1.0, float(root.tk.call("tk", "scaling")) * 72 / 96)
        screen = root.winfo_screenwidth(), root.winfo_screenheight()
        root.minsize(*(min(round(self.scale * n), most) for n, most in zip((900, 600), screen, strict=True)))
        root.geometry(self.remembered.geometry)
        self.style = ttk.Style(root)
        self.style.theme_use("clam")
        self.outer = outer = ttk.Frame(root, padding=self._px(12))
        outer.pack(fill="both", expand=True)
        self._build_bar(outer)
        self.file_label = ttk.Label(outer)
        self.file_label.pack(fill="x", pady=(self._px(6), 0))
        self._build_notes(outer)  # packed before the pictures: what is packed last is squeezed first
        self._build_slider(outer)
        self._build_pictures(outer)
        self._build_menus()
        self._bind_keys()
        self._paint()
        root.protocol("WM_DELETE_WINDOW", self.close)

    def _build_bar(self, outer) -> None:
        from tkinter import ttk

        bar = ttk.Frame(outer)
        bar.pack(fill="x")
        self.open_button = ttk.Button(bar, text="Open ...", command=self.ask_open)
        self.play_button = ttk.Button(bar, text="Play", command=self.toggle_play)
        self.before_button = ttk.Button(bar, text="Before")
        self.after_button = ttk.Button(bar, text="After")
        self.difference_button = ttk.Button(bar, text="Difference")
        for which in ("before", "after", "difference"):
            button = getattr(self, f"{which}_button")
            button.bind("<Button-1>", lambda _, which=which: self._hold(which))
            button.bind("<ButtonRelease-1>", lambda _: self._let_go())
        self.save_button = ttk.Button(bar, text="Save as ...", command=self.ask_save)
        for button in bar.winfo_children():
            button.pack(side="left", padx=(0, self._px(6)))
        self.meter = ttk.Progressbar(bar, length=self._px(80), maximum=60, style="Accent.Horizontal.TProgressbar")
        self.meter.pack(side="right")
        self.volume = ttk.Scale(
            bar, from_=0, to=1, length=self._px(80), value=self.remembered.volume, command=self._set_volume
        )
        ttk.Label(bar, text="level").pack(side="right", padx=self._px(6))
        self.volume.pack(side="right")
        ttk.Label(bar, text="volume").pack(side="right", padx=self._px(6))

    def _build_notes(self, outer) -> None:
        from tkinter import ttk

        self.below = below = ttk.Frame(outer)
        below.pack(side="bottom", fill="x", pady=(self._px(4), 0))
        below.columnconfigure(0, weight=1)
        self.note_label = ttk.Label(below)
        self.note_label.grid(row=0, column=0, sticky="w")
        self.progress = ttk.Progressbar(below, length=self._px(160), style="Accent.Horizontal.TProgressbar")
        self.progress.grid(row=0, column=1, padx=self._px(6))
        self.cancel_button = ttk.Button(below, text="Cancel", command=self.worker.cancel)
        self.cancel_button.grid(row=0, column=2)
        below.bind("<Configure>", lambda _: self._wrap())
        self.grain_label = ttk.Label(outer, style="Grain.TLabel")
        self.grain_label.pack(side="bottom", anchor="w", pady=(self._px(6), 0))

    def _wrap(self) -> None:
        """Long notes go on in a second line, and leave room for the progress."""
        room = self.progress.winfo_reqwidth() + self.cancel_button.winfo_reqwidth() + self._px(24)
        width = self.below.winfo_width()
        self._show(self.note_label, wraplength=max(1, width - (room if self.busy else 0)))
        self._show(self.grain_label, wraplength=max(1, width))

    def _build_slider(self, outer) -> None:
        from tkinter import ttk

        sliding = ttk.Frame(outer)
        sliding.pack(side="bottom", fill="x", pady=(self._px(8), 0))
        ttk.Label(sliding, text="texture  -3").pack(side="left")
        self.slider = ttk.Scale(sliding, from_=-SLIDER_RANGE, to=SLIDER_RANGE, command=self._slid, takefocus=True)
        self.slider.pack(side="left", fill="x", expand=True, padx=self._px(8))
        ttk.Label(sliding, text="+3  smooth").pack(side="left")
        self.value_entry = ttk.Entry(sliding, width=6, justify="right", font=("TkDefaultFont", 13))
        self.value_entry.pack(side="left", padx=(self._px(8), 0))
        self.slider.bind("<Button-1>", lambda _: self.slider.focus_set(), add=True)
        for key in ("<Return>", "<KP_Enter>", "<FocusOut>"):
            self.value_entry.bind(key, lambda _: self._typed())
        for key in ("<Control-a>", "<Command-a>") if self._is_mac else ("<Control-a>",):
            self.value_entry.bind(key, self._select_all)
        for key, step in (("<Left>", -0.1), ("<Right>", 0.1), ("<Prior>", 1.0), ("<Next>", -1.0)):
            self.slider.bind(key, lambda _, step=step: self._step(step))
        self.slider.bind("<Double-Button-1>", lambda _: self._move_to(0.0))

    def _build_pictures(self, outer) -> None:
        from tkinter import ttk

        self.readout = ttk.Label(outer)
        self.readout.pack(side="bottom", anchor="w")
        frame = ttk.Frame(outer)
        frame.pack(fill="both", expand=True, pady=(self._px(6), 0))
        frame.rowconfigure(0, weight=1)
        self.views = []
        for i, title in enumerate(("before", "after")):
            view = PictureView(frame, title, {}, self.scale)
            view.canvas.grid(row=0, column=i, sticky="nsew")
            frame.columnconfigure(i, weight=1, uniform="pictures")
            canvas = view.canvas
            canvas.bind("<Configure>", lambda _: self._draw_soon())
            canvas.bind("<Button-1>", lambda event, view=view: self._press(view, event))
            canvas.bind("<B1-Motion>", lambda event, view=view: self._drag(view, event))
            canvas.bind("<ButtonRelease-1>", lambda event, view=view: self._release(view, event))
            canvas.bind("<Motion>", lambda event, view=view: self._point(view, event))
            canvas.bind("<Leave>", lambda _: self._point(None, None))
            for wheel, factor in (("<Button-4>", 0.8), ("<Button-5>", 1.25)):
                canvas.bind(wheel, lambda event, view=view, factor=factor: self._zoom(view.seconds_at(event.x), factor))
            canvas.bind(
                "<MouseWheel>",
                lambda event, view=view: self._zoom(view.seconds_at(event.x), 0.8 if event.delta > 0 else 1.25),
            )
            self.views.append(view)
        self.bar = PictureView(frame, "dB", {}, self.scale)
        self.bar.canvas.configure(width=self.bar.px(64))
        self.bar.canvas.grid(row=0, column=2, sticky="ns")

    def _build_menus(self) -> None:
        import tkinter as tk

        root, self.menu = self.root, tk.Menu(self.root)
        root.configure(menu=self.menu)
        key = "Cmd" if self._is_mac else "Ctrl"
        self.file_menu, self.view_menu, help_menu = (tk.Menu(self.menu, tearoff=False) for _ in range(3))
        self.recent_menu = tk.Menu(self.file_menu, tearoff=False, postcommand=self._fill_recent)
        for label, menu in (("File", self.file_menu), ("View", self.view_menu), ("Help", help_menu)):
            self.menu.add_cascade(label=label, menu=menu)
        add = self.file_menu.add_command
        add(label="Open ...", accelerator=f"{key}+O", command=self.ask_open)
        self.file_menu.add_cascade(label="Recent", menu=self.recent_menu)
        add(label="Save as ...", accelerator=f"{key}+S", command=self.ask_save)
        add(label="Save variations ...", command=self.ask_save_variations)
        add(label="Render many files ...", command=self.ask_batch)
        add(label="Choose a model ...", command=self.ask_model)
        add(label="Close the file", accelerator=f"{key}+W", command=self.close_file)
        add(label="Quit", accelerator=f"{key}+Q", command=self.close)
        add = self.view_menu.add_command
        add(label="After / gain", accelerator="G", command=self.toggle_view)
        add(label="Mel / log frequency", accelerator="L", command=self.toggle_log)
        add(label="Whole sound", accelerator="0", command=self.show_all)
        add(label="Light / dark", command=self.toggle_dark)
        help_menu.add_command(label="Shortcuts", accelerator="F1", command=self.show_help)
        help_menu.add_command(label="The model", command=self.show_model)
        help_menu.add_command(label="About", command=self.show_about)

    def _px(self, n: float) -> int:
        return round(n * self.scale)

    @property
    def _is_mac(self) -> bool:
        return self.root.tk.call("tk", "windowingsystem") == "aqua"

    def _bind_keys(self) -> None:
        root, modifier = self.root, "Command" if self._is_mac else "Control"
        for key, action in (("o", self.ask_open), ("s", self.ask_save), ("w", self.close_file), ("q", self.close)):
            root.bind(f"<{modifier}-{key}>", lambda _, action=action: action())
        root.bind("<F1>", lambda _: self.show_help())
        plain = {
            "<space>": self.toggle_play,
            "b": self._press_bypass,
            "g": self.toggle_view,
            "l": self.toggle_log,
            "0": self.show_all,
            "<Home>": lambda: self.seek(0.0),
            "<Escape>": lambda: self.select(None),
        }
        for key, action in plain.items():
            root.bind(key, lambda event, action=action: None if event.widget is self.value_entry else action())
        root.bind("<KeyRelease-b>", lambda _: self._release_bypass())
        # A button that has the focus must not be pressed by the space bar as well.
        root.unbind_class("TButton", "<space>")
        root.unbind_class("TButton", "<Key-space>")

    def _paint(self) -> None:
        """Colours, light or dark."""
        from matplotlib import colormaps

        self.palette = DARK if self.remembered.is_dark else LIGHT
        back, text, line = (self.palette[name] for name in ("back", "text", "line"))
        style = self.style
        trough, button = self.palette["trough"], self.palette["button"]
        style.configure(".", background=back, foreground=text, bordercolor=line, troughcolor=trough)
        style.configure(".", lightcolor=trough, darkcolor=trough, arrowsize=self._px(14), sliderlength=self._px(30))
        style.configure("TEntry", fieldbackground=trough, foreground=text, insertcolor=text)
        style.configure("TButton", background=button, foreground=text, width=-8)
        style.configure("TButton", lightcolor=button, darkcolor=button, padding=(self._px(8), self._px(4)))
        style.map("TButton", background=[("pressed", ACCENT), ("active", self.palette["trough"])])
        style.map("TButton", foreground=[("disabled", line)])
        style.configure("On.TButton", background=ACCENT, foreground="#ffffff", lightcolor=ACCENT, darkcolor=ACCENT)
        style.map("On.TButton", background=[("active", ACCENT)], foreground=[("disabled", line)])
        style.configure("Grain.TLabel", font=("TkDefaultFont", 13))
        style.configure("Error.TLabel", foreground=self.palette["error"])
        style.configure("Accent.Horizontal.TProgressbar", background=ACCENT)
        style.configure("TScale", background=ACCENT, lightcolor=ACCENT, darkcolor=ACCENT, gripcount=0)
        style.map("TScale", **{name: [("disabled", line)] for name in ("background", "lightcolor", "darkcolor")})
        self.root.configure(background=back)
        for menu in (self.menu, *self.menu.winfo_children(), self.recent_menu):
            menu.configure(background=back, foreground=text, activebackground=ACCENT, activeforeground="#ffffff")
            menu.configure(disabledforeground=line, borderwidth=0)
        for view in (*self.views, self.bar):
            view.palette = self.palette
        self._colours = np.round(255 * colormaps["magma"](np.linspace(0, 1, 256))[:, :3]).astype(np.uint8)
        self._gain_colours = np.round(255 * colormaps["RdBu_r"](np.linspace(0, 1, 256))[:, :3]).astype(np.uint8)

    def _refresh(self) -> None:
        """Derive every label and every enabled or disabled control from the state."""
        octaves = self.octaves
        # Not `focus_get`: it knows nothing of the system's dialogs, and fails while one has the focus.
        if str(self.root.tk.call("focus")) != str(self.value_entry):
            value = f"{octaves:+.1f}" if octaves else "0"
            if self.value_entry.get() != value:
                self.value_entry.delete(0, "end")
                self.value_entry.insert(0, value)
        self._show(self.file_label, text=self._file_text())
        self._show(self.grain_label, text=self._grain_text())
        self._show(self.note_label, text=self.note, style="Error.TLabel" if self.is_error else "TLabel")
        ready = self.opened is not None
        for widget, is_on in (
            (self.open_button, self.has_model),
            (self.slider, ready),
            (self.value_entry, ready),
            (self.play_button, ready),
            (self.before_button, ready),
            (self.after_button, ready),
            (self.difference_button, ready),
            (self.save_button, ready),
        ):
            self._show(widget, is_on=is_on)
        self._show(self.play_button, text="Pause" if self.mixer is not None and self.mixer.is_playing else "Play")
        for name in ("before", "after", "difference"):
            style = "On.TButton" if ready and self.listening == name else "TButton"
            self._show(getattr(self, f"{name}_button"), style=style)
        for i, is_on in ((0, self.has_model), (2, ready), (3, ready), (4, self.has_model), (6, ready)):
            self._show((self.file_menu, i), is_on=is_on)
        is_busy = self.busy > 0
        if is_busy != bool(self.progress.winfo_manager()):
            # The row keeps its height: the pictures above would jump each time the hand rests.
            self.below.rowconfigure(0, minsize=self.cancel_button.winfo_reqheight())
            for widget in (self.progress, self.cancel_button):
                widget.grid() if is_busy else widget.grid_remove()
        self._wrap()
        if is_busy:
            is_known = self.share is not None
            if is_known:
                self.progress.stop()
                self.progress.configure(mode="determinate", value=100 * self.share)
            elif str(self.progress["mode"]) != "indeterminate" or not self._is_turning:
                self.progress.configure(mode="indeterminate")
                self.progress.start(20)
            self._is_turning = not is_known
        elif self._is_turning:
            self.progress.stop()
            self._is_turning = False

    def _show(self, what, **options: object) -> None:
        """Set options of a widget, or of a menu's entry, that are other than they were: each call into Tk may have
        to wait for the threads that compute, and there are many at every move of the slider."""
        shown = self._options.setdefault(what, {})
        options = {name: value for name, value in options.items() if name not in shown or shown[name] != value}
        shown.update(options)
        if "is_on" in options:
            is_on = options.pop("is_on")
            if isinstance(what, tuple):
                menu, i = what
                menu.entryconfigure(i, state="normal" if is_on else "disabled")
            else:
                what.state(["!disabled" if is_on else "disabled"])
        if options:
            what.configure(**options)

    def _file_text(self) -> str:
        if self._seen is None:
            return " "
        sound, name = self._seen[1].sound, one_line(self._seen[0].name)
        short = name if len(name) <= 60 else f"{name[:40]} ... {name[-14:]}"
        channels = {1: "mono", 2: "stereo"}.get(sound.channels, f"{sound.channels} channels")
        return f"{short}   {sound.n_samples / sound.sr:.1f} s, {channels}, {sound.sr} Hz"

    def _grain_text(self) -> str:
        if self.opened is None:
            return "open a sound to begin" if self.has_model and self.looked is None else " "
        if self.rendered is not None and self.rendered.rendering.asked_octaves == self.octaves:
            return describe(self.rendered.rendering)
        before, octaves = self.opened.analysis.grain, self.octaves
        return f"grain {before:.3g} -> {before * 2**-octaves:.3g}? (asked x{2**-octaves:#.3g}, to be measured)"

    # Pictures

    def _draw_soon(self) -> None:
        if self._redraw is None:
            self._redraw = self.root.after_idle(self._draw)

    def _draw(self) -> None:
        """Put the pictures of what is shown on the screen, on one scale."""
        self._redraw = None
        if self._seen is None:
            self._looks = None
            for view in self.views:
                view.draw(None, self._colours)
            self._draw_bar()
            self._show(self.readout, text=self._readout_text())
            return
        settings = self._seen[1].settings
        before, gain_db = self._picture(self.views[0].size[0])
        looks = (id(before), self.views[0].size, self.remembered.is_log, self.remembered.is_dark)
        range_db = settings.dynamic_range_db
        after = before + gain_db / range_db
        shown = after if self.view == "after" else 0.5 + gain_db / (2 * GAIN_RANGE_DB)
        for view, levels, is_gain in ((self.views[0], before, False), (self.views[1], shown, self.view == "gain")):
            view.span, view.is_log, view.edges_hz = self.span, self.remembered.is_log, settings.band_edges_hz
            if view is self.views[0] and looks == self._looks:
                continue  # the slider moved: only what comes after is other
            view.mark_colour = LIGHT["text"] if is_gain else "#ffffff"  # no gain is white, in light and dark
            view.title = "gain (dB)" if is_gain else "after" if view is self.views[1] else "before"
            view.draw(levels, self._gain_colours if is_gain else self._colours)
        self._shown, self._looks = (before, gain_db), looks
        self._draw_bar()
        self._mark()
        self._show(self.readout, text=self._readout_text())

    def _picture(self, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture and gains in dB of what is shown, (n_mels, columns) each: a column has the loudest of its frames."""
        analysis = self._seen[1]
        hop_s = analysis.settings.grain.hop_for(analysis.sound.sr) / analysis.sound.sr
        n_frames = analysis.x.shape[1]
        lead = (
            analysis.settings.grain.n_fft_for(analysis.sound.sr) / analysis.sound.sr / 2 / hop_s
        )  # to a frame's middle
        first, last = (min(max(0, int(s / hop_s + lead)), n_frames) for s in self.span)
        last = max(last, first + 1)
        starts = np.unique(np.linspace(first, last, min(width, last - first), endpoint=False).astype(int))
        key = (id(analysis), first, last, width)
        if self._before is None or self._before[0] != key:
            self._before = key, np.maximum.reduceat(analysis.x[:, first:last], starts - first, axis=1)
        before = self._before[1]
        amounts = self._amounts()
        if amounts is None:
            return before, np.zeros_like(before)
        gain_db = self.opened.solver.gain_of_frames(amounts, starts)
        return before, gain_db

    def _draw_bar(self) -> None:
        """The colour bar."""
        bar, is_gain = self.bar, self.view == "gain" and self._seen is not None
        canvas, height, px = bar.canvas, bar.size[1], bar.px
        looks = height, is_gain, self.remembered.is_dark
        if looks == self._bar_looks:
            return
        self._bar_looks = looks
        from PIL import Image, ImageTk

        canvas.delete("all")
        canvas.configure(background=self.palette["back"])
        ramp = np.linspace(255, 0, height).round().astype(int)
        colours = (self._gain_colours if is_gain else self._colours)[ramp]
        picture = Image.fromarray(np.repeat(colours[:, None], px(12), axis=1))
        bar._image = ImageTk.PhotoImage(picture, master=canvas)
        canvas.create_image(px(4), bar.top, image=bar._image, anchor="nw")
        top, bottom = (GAIN_RANGE_DB, -GAIN_RANGE_DB) if is_gain else (0, -DYNAMIC_RANGE_DB)
        for share in (0, 0.25, 0.5, 0.75, 1):
            text = f"{top + share * (bottom - top):+.0f}" if is_gain else f"{top + share * (bottom - top):.0f}"
            anchor = {0: "nw", 1: "sw"}.get(share, "w")  # at the ends beside the bar, not beyond it
            canvas.create_text(px(20), bar.top + share * height, text=text, anchor=anchor, fill=self.palette["text"])
        canvas.create_text(px(4), bar.top / 2, text="dB", anchor="w", fill=self.palette["text"])

    def _mark(self) -> None:
        playhead = None
        if self.mixer is not None:
            playhead = self.mixer.position / self.mixer.sr
        for view in self.views:
            view.mark(playhead, self.selection_s)

    # What the user does

    @property
    def octaves(self) -> float:
        """Position of the slider in octaves, in steps of 0.1, with a detent at 0."""
        value = round(float(self.slider.get()), 1)
        return 0.0 if abs(value) < DETENT else value

    def _amounts(self) -> Amounts | None:
        """What is heard and shown at the slider's position: what was measured, until then what the solver expects."""
        octaves = self.octaves
        if self.opened is None or octaves == 0:
            return None
        if self.rendered is not None and self.rendered.rendering.asked_octaves == octaves:
            return self.rendered.rendering.amounts
        return self.opened.solver.about(octaves)

    def _dialog_folder(self) -> str:
        return self.remembered.folder if Path(self.remembered.folder).is_dir() else ""

    def ask_open(self) -> None:
        """Ask for a file and open it."""
        if self.has_model and (name := self.dialogs.open_name(self._dialog_folder())):
            self.open(Path(name))

    def open(self, path: Path) -> None:
        """Open a file; the picture comes when the worker has it."""
        self._leave_then(lambda: self._open(path))

    def _open(self, path: Path) -> None:
        self._start(f"reading {one_line(path.name)} ...")
        self.worker.open(path)

    def ask_save(self) -> Path | None:
        """Ask for a name and render the file to it; returns the name, if one was given."""
        if self.opened is None:
            return None
        asked = Asked(self.octaves)
        name = self.dialogs.save_name(self._dialog_folder(), output_name(self.opened.path, asked))
        if not name:
            return None
        self._start(f"saving {one_line(Path(name).name)} ...")
        self.worker.save([Job(self.opened.path, Path(name), asked)])
        return Path(name)

    def ask_save_variations(self) -> None:
        """Ask for a folder and render all whole positions into it."""
        if self.opened is not None and (name := self.dialogs.folder_name("Save variations from -3 to +3 into")):
            self._start("saving variations ...")
            asked = [Asked(float(octaves)) for octaves in range(-3, 4)]
            source = self.opened.path
            self.worker.save([Job(source, Path(name) / output_name(source, each), each) for each in asked])

    def ask_batch(self) -> None:
        """Ask for files and a folder and render them at the slider's position."""
        names = self.dialogs.many_names() if self.has_model else []
        folder = self.dialogs.folder_name("Write the results into") if names else ""
        if folder:
            asked = Asked(self.octaves)
            self._start(f"rendering {len(names)} files ...")
            sources = [Path(name) for name in names]
            self.worker.batch([Job(source, Path(folder) / output_name(source, asked), asked) for source in sources])

    def ask_model(self) -> None:
        """Ask for another model and read it; an open sound is looked at anew with it."""
        if name := self.dialogs.model_name():
            self._leave_then(lambda: self._load(Path(name)))

    def _load(self, path: Path) -> None:
        self._start(f"loading {one_line(path.name)} ...")
        self.worker.load(path)
        if self.opened is not None:
            self._open(self.opened.path)

    def toggle_play(self) -> None:
        """Play or pause."""
        if self.mixer is None:
            return
        if self.mixer.is_playing:
            self.player.pause()
        elif why_not := self.player.play(self.mixer):
            self.note, self.is_error = why_not, True
        self._refresh()

    def listen(self, which: str) -> None:
        """Hear before, after or the difference."""
        self.listening = which
        if self.mixer is not None:
            self.mixer.listen(which)
        self._refresh()

    def _hold(self, which: str) -> None:
        """Hear something else: while it is held, or after a mere tap until something else is tapped."""
        if self.opened is not None:
            self._held = self.listening, time.monotonic()
            self.listen(which)

    def _let_go(self) -> None:
        if self._held is not None and time.monotonic() - self._held[1] > HOLD_S:
            self.listen(self._held[0])
        self._held = None

    def _press_bypass(self) -> None:
        """From after to before and back; a key that is held repeats, which is no other press."""
        if self._released is not None:
            self.root.after_cancel(self._released)
            self._released = None
        elif self._held is None:
            self._hold("after" if self.listening == "before" else "before")

    def _release_bypass(self) -> None:
        def release() -> None:
            self._released = None
            self._let_go()

        if self._held is not None and self._released is None:
            self._released = self.root.after(KEY_REPEAT_MS, release)  # X11 releases before it repeats

    def seek(self, seconds: float) -> None:
        """Go on somewhere else."""
        if self.mixer is not None:
            self.mixer.seek(round(seconds * self.mixer.sr))
            self._mark()

    def select(self, selection_s: tuple[float, float] | None) -> None:
        """Loop a part of the sound, or no longer."""
        self.selection_s = selection_s
        if self.mixer is not None:
            sr = self.mixer.sr
            self.mixer.loop(None if selection_s is None else (round(selection_s[0] * sr), round(selection_s[1] * sr)))
        self._mark()

    def toggle_view(self) -> None:
        """Show the sound after, or the gain that makes it."""
        self.view = "gain" if self.view == "after" else "after"
        self._draw_soon()

    def toggle_log(self) -> None:
        """Mel or logarithmic frequency axis."""
        self.remembered.is_log = not self.remembered.is_log
        self._draw_soon()

    def toggle_dark(self) -> None:
        """Light or dark colours."""
        self.remembered.is_dark = not self.remembered.is_dark
        self._paint()
        self._draw_soon()
        self._refresh()

    def show_all(self) -> None:
        """Show the whole sound."""
        if self.opened is not None:
            self.span = (0.0, self._duration_s)
            self._draw_soon()

    def show_help(self) -> None:
        """Help sheet of shortcuts."""
        self.dialogs.show_text("Shortcuts", SHORTCUTS)

    def show_model(self) -> None:
        """What the model was trained on, and its audit."""
        self.dialogs.show_text("The model", self.model_note or "no model is loaded")

    def show_about(self) -> None:
        """Versions."""
        from importlib.metadata import version

        names = ("torch", "numpy", "scipy", "soundfile")
        lines = [f"Python {sys.version.split()[0]}", *(f"{name} {version(name)}" for name in names)]
        self.dialogs.show_text("About", "Neural Grain Processor\n\n" + "\n".join(lines))

    @property
    def _seen(self) -> tuple[Path, Analysis] | None:
        """The file whose picture is shown, and what is known of its sound."""
        return self.looked if self.opened is None else (self.opened.path, self.opened.analysis)

    @property
    def _duration_s(self) -> float:
        sound = self._seen[1].sound
        return sound.n_samples / sound.sr

    def _set_volume(self, _value: str) -> None:
        self.remembered.volume = float(self.volume.get())
        if self.mixer is not None:
            self.mixer.volume = self.remembered.volume

    def _fill_recent(self) -> None:
        self.recent_menu.delete(0, "end")
        for name in self.remembered.recent:
            self.recent_menu.add_command(label=one_line(name), command=lambda name=name: self.open(Path(name)))

    def _press(self, view: PictureView, event) -> None:
        self._drag_from = view.seconds_at(event.x) if self.opened is not None else None
        self._drag_x = event.x

    def _drag(self, view: PictureView, event) -> None:
        if self._drag_from is not None and abs(event.x - self._drag_x) > CLICK_PIXELS:
            self.selection_s = tuple(sorted((self._drag_from, view.seconds_at(event.x))))
            self._mark()

    def _release(self, view: PictureView, event) -> None:
        if self._drag_from is None:
            return
        if abs(event.x - self._drag_x) > CLICK_PIXELS:
            self.select(tuple(sorted((self._drag_from, view.seconds_at(event.x)))))
            self.seek(self.selection_s[0])
        else:
            if self.selection_s is not None and not self.selection_s[0] <= self._drag_from < self.selection_s[1]:
                self.select(None)
            self.seek(self._drag_from)
        self._drag_from = None

    def _point(self, view: PictureView | None, event) -> None:
        self._pointed = None if view is None else (view, event.x, event.y)
        self._show(self.readout, text=self._readout_text())

    def _readout_text(self) -> str:
        """Time, frequency and level under the pointer."""
        if self._seen is None or self._pointed is None:
            return " "
        view, x, y = self._pointed
        before, gain_db = self._shown
        column = min(max(0, x - view.left), view.size[0] - 1) * before.shape[1] // view.size[0]
        band = view.band_at(y)
        level_db = DYNAMIC_RANGE_DB * (before[band, column] - 1)
        return (
            f"{view.seconds_at(x):.2f} s   {view.hz_at(y):,.0f} Hz   "
            f"before {level_db:.0f} dB, gain {gain_db[band, column]:+.1f} dB"
        )

    def _zoom(self, around_s: float, factor: float) -> None:
        if self.opened is None:
            return
        length = min(self._duration_s, max(0.1, (self.span[1] - self.span[0]) * factor))
        share = (around_s - self.span[0]) / (self.span[1] - self.span[0])
        start = min(max(0.0, around_s - share * length), self._duration_s - length)
        self.span = (start, start + length)
        self._draw_soon()

    def _step(self, step: float) -> str:
        self._move_to(self.octaves + step)
        return "break"

    def _select_all(self, _event) -> str:
        self.value_entry.select_range(0, "end")
        return "break"

    def _typed(self) -> None:
        try:
            value = float(self.value_entry.get().replace(",", "."))
        except ValueError:
            value = self.octaves
        self.slider.focus_set()
        if math.isfinite(value):
            self._move_to(value)
        self._refresh()

    def _move_to(self, octaves: float) -> str:
        if self.opened is not None:
            self.slider.set(max(-SLIDER_RANGE, min(SLIDER_RANGE, octaves)))
        return "break"

    def _slid(self, _value: str) -> None:
        """The slider moved: heard and shown at once as the solver expects it, measured when the hand rests."""
        if self._settle is not None:
            self.root.after_cancel(self._settle)
        self._settle = self.root.after(SETTLE_MS, self._settled)
        self.worker.forget()
        if self.is_error:
            self.note, self.is_error = "", False
        if self.mixer is not None:
            self.mixer.want(self._amounts())
        self._draw_soon()
        self._refresh()

    def _settled(self) -> None:
        self._settle = None
        if self.opened is not None and not (self.rendered and self.rendered.rendering.asked_octaves == self.octaves):
            self._start(MEASURING)
            self.worker.render(self.opened, self.octaves)

    def close_file(self) -> None:
        """Close the file that is open."""
        if self.opened is not None:
            self._leave_then(self._close_file)

    def _close_file(self) -> None:
        self._leave_file()
        self.note, self.is_error = "", False
        self._refresh()
        self._draw_soon()

    def _leave_then(self, go_on: Callable[[], None]) -> None:
        """Go on once what the slider made is saved, or may be lost, which is asked once; not at all if it is kept."""
        self._after_save = None  # an earlier wish has been overtaken
        if self.opened is None or self.octaves in (0, self.saved_at):
            go_on()
            return
        answer = self.dialogs.shall_save()
        if answer:
            if output := self.ask_save():
                self._after_save = output, go_on
        elif answer is not None:
            self.saved_at = self.octaves
            go_on()

    def _leave_file(self) -> None:
        self.player.close()
        self.looked = self.opened = self.rendered = self.mixer = self.selection_s = None

    def close(self) -> None:
        """End the sound, the worker and the window."""
        self._leave_then(self._close)

    def _close(self) -> None:
        self._leave_file()
        width, height = self.root.winfo_width(), self.root.winfo_height()
        if width > 1:
            self.remembered.geometry = f"{width}x{height}"
        write_remembered(self._remember_at, self.remembered)
        for callback in (self._poll_id, self._settle, self._redraw, self._released):
            if callback is not None:
                self.root.after_cancel(callback)
        self.progress.stop()
        self.root.withdraw()
        self.worker.close()
        self.root.destroy()

    # What the worker says

    def _start(self, note: str) -> None:
        self.busy += 1
        self.share = None
        if note == MEASURING:
            self._say_unless_error(note)
        else:
            self.note, self.is_error = note, False
        self._refresh()

    def _say_unless_error(self, note: str) -> None:
        """What nobody asked for must not wipe an error: that stays until the user does something else."""
        if not self.is_error:
            self.note = note

    def _poll(self) -> None:
        try:
            while True:
                self._take(self.worker.messages.get_nowait())
        except queue.Empty:
            pass
        if self.mixer is not None:
            level = max(self.mixer.peak, 1e-3) if self.mixer.is_playing else 1e-3
            self.meter["value"] = 60 + 20 * math.log10(level)
            self._mark()
            if why_not := self.player.check():
                self.note, self.is_error = why_not, True
            text = "Pause" if self.mixer.is_playing else "Play"
            if self.play_button["text"] != text:
                self._refresh()
        self._poll_id = self.root.after(POLL_MS, self._poll)

    def _take(self, message: Message) -> None:
        if message.kind in ("progress", "looked"):
            getattr(self, f"_take_{message.kind}")(*message.content)
            self._refresh()
            return
        self.busy -= 1
        self.share = None
        if message.kind in ("error", "cancelled"):
            self._after_save = self.looked = None
            self._draw_soon()
        if message.kind == "error":
            self.note, self.is_error = str(message.content), True
        else:
            getattr(self, f"_take_{message.kind}")(message.content)
        self._refresh()

    def _take_progress(self, note: str, share: float) -> None:
        self._say_unless_error(f"{note} ...")
        self.share = share

    def _take_looked(self, path: Path, analysis: Analysis) -> None:
        """A picture at once: the pattern of a long sound takes seconds."""
        self._leave_file()
        self.looked = path, analysis
        self.span, self.share = (0.0, self._duration_s), None
        self._draw()

    def _take_cancelled(self, _kind: str) -> None:
        self.note, self.is_error = "cancelled", False

    def _take_model(self, processor: GrainProcessor) -> None:
        self.has_model = True
        training, audit = processor.loaded.training, processor.loaded.audit
        verdict = audit.get("verdict", "not audited")
        self.note, self.is_error = f"model ready: {verdict}", False
        self.model_note = (
            f"trained on {training.get('files', '?')} files, {training.get('tiles', '?')} tiles, "
            f"{training.get('epochs_done', '?')} epochs\n\naudit: {verdict}"
        )

    def _take_opened(self, opened: Opened) -> None:
        self._leave_file()
        self.opened, self.saved_at = opened, 0.0
        self._say_unless_error("")
        self.mixer = Mixer(opened.y, opened.analysis.sound.sr, opened.solver)
        self.mixer.volume = self.remembered.volume
        self.mixer.listen(self.listening)
        self.span = (0.0, self._duration_s)
        self.remembered.folder = str(opened.path.parent)
        name = str(opened.path.absolute())
        self.remembered.recent = [name, *(other for other in self.remembered.recent if other != name)][:N_RECENT]
        self.slider.state(["!disabled"])
        self.slider.set(0.0)
        self._draw()
        self._settled()

    def _take_rendered(self, rendered: Rendered | None) -> None:
        if self.note == MEASURING:
            self.note = ""
        if rendered is not None and rendered.opened is self.opened:
            self.rendered = rendered
            self.mixer.want(self._amounts())
            self._draw_soon()

    def _take_saved(self, saved: list[FileRendering]) -> None:
        last, self.is_error = saved[-1], False
        if len(saved) == 1:
            self.note = f"saved {last.output}: {describe(last.rendering)}"
            self.saved_at = last.rendering.asked_octaves if last.rendering else 0.0
            if self._after_save is not None and self._after_save[0] == last.output:
                # Not here: it may end the window, which still has to be refreshed. Asked again if the slider moved on.
                self.root.after_idle(self._leave_then, self._after_save[1])
        else:
            self.note = f"saved {len(saved)} variations in {last.output.parent}"

    def _take_batch(self, result: tuple[int, list[str]]) -> None:
        n_done, failures = result
        self.note, self.is_error = f"{n_done} files rendered", bool(failures)
        if failures:
            self.note += f", {len(failures)} failed: {failures[0]}"
            self.dialogs.show_text("Not rendered", "\n".join(failures))


def open_window(model_path: Path, device: str, source: Path | None) -> int:
    """Show the window until it is closed.

    Raises
    ------
    PipelineError
        If there is no display or no tkinter.
    """
    hint = "render without one: python neural_audio_processor.py INPUT --grain -2"
    try:
        import tkinter as tk
    except ImportError as err:
        raise PipelineError(
            f"no window: Python here is without tkinter (on Debian: apt-get install python3-tk); {hint}"
        ) from err
    try:
        root = tk.Tk(className="Neural Grain Processor")
    except tk.TclError as err:
        raise PipelineError(f"no window: no display to show it on; {hint}") from err
    report, interrupted = root.report_callback_exception, []

    def report_fault(kind: type, err: BaseException, at: object) -> None:
        if kind is not KeyboardInterrupt:
            report(kind, err, at)
            return
        interrupted.append(True)  # Tk would only print it and go on
        root.quit()

    root.report_callback_exception = report_fault
    window = GrainWindow(root, model_path, device, source)
    accept_drops(window)
    root.mainloop()
    if interrupted:
        raise KeyboardInterrupt
    return 0


def accept_drops(window: GrainWindow) -> bool:
    """Open files that are dropped, where tkinterdnd2 is installed and works; returns whether it does."""
    root = window.root
    try:
        from tkinterdnd2 import DND_FILES, TkinterDnD

        TkinterDnD._require(root)  # what TkinterDnD.Tk does; so the window starts without it as well
    except (ImportError, RuntimeError):
        return False

    def dropped(event) -> str:
        for name in root.tk.splitlist(event.data)[:1]:
            root.after_idle(window.open, Path(name))  # the source waits for the end of the drop: no question inside it
        return event.action

    window.outer.drop_target_register(DND_FILES)
    window.outer.dnd_bind("<<Drop>>", dropped)
    return True


# The command line


def grain_argument(text: str) -> float:
    """``--grain``: a finite number within the slider's range."""
    value = float(text)
    if not abs(value) <= SLIDER_RANGE:
        raise argparse.ArgumentTypeError(f"{text} is not within -{SLIDER_RANGE:g} to +{SLIDER_RANGE:g}")
    return value


def target_argument(text: str) -> float:
    """``--target-grain``: a grain, which lies between 0 and 1."""
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no grain: not within 0 to 1")
    return value


def sweep_argument(text: str) -> float:
    """``--sweep``: a step in octaves."""
    value = float(text)
    if not 0.05 <= value <= SLIDER_RANGE:
        raise argparse.ArgumentTypeError(f"{text} is not within 0.05 to {SLIDER_RANGE:g} octaves")
    return value


def build_parser() -> argparse.ArgumentParser:
    """The command line of stage 4."""
    parser = argparse.ArgumentParser(
        prog="neural_audio_processor.py",
        description="Move the grain of audio: in a window, or with --grain and the like straight to files.",
    )
    parser.add_argument("inputs", nargs="*", type=Path, metavar="INPUT", help="audio files or folders")
    asked = parser.add_argument_group("what to render (one of them; without, the window opens)")
    one = asked.add_mutually_exclusive_group()
    one.add_argument(
        "--grain", type=grain_argument, metavar="S", help="-3 (texture) .. 0 .. +3 (smooth), in octaves of grain"
    )
    one.add_argument(
        "--target-grain",
        type=target_argument,
        metavar="G",
        help="reach this grain, such as 0.02 (at most about 3 octaves away)",
    )
    one.add_argument("--match", type=Path, metavar="REFERENCE", help="reach the grain of this file")
    one.add_argument(
        "--sweep",
        type=sweep_argument,
        nargs="?",
        const=1.0,
        metavar="STEP",
        help="all positions from -3 to +3 in steps (default: 1)",
    )
    one.add_argument(
        "--demo",
        action="store_true",
        help="a demo sound in the window, or where there is no display, rendered at -2 and +2",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="OUTPUT",
        help="output file, or folder (default: NAME_grain-2.0.wav in the current folder); a folder keeps the inputs' tree",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace output files that exist already (never the input)"
    )
    parser.add_argument(
        "--subtype", metavar="NAME", help="sample format, such as PCM_16, PCM_24 or FLOAT (default: the input's)"
    )
    add_parallel_arguments(parser, 1)
    parser.add_argument("--json", action="store_true", help="print one report for machines instead of lines")
    parser.add_argument(
        "--model", type=Path, default=Path(DEFAULT_MODEL), metavar="PATH", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="(default: %(default)s)"
    )
    return parser


def _positions(args: argparse.Namespace) -> list[Asked]:
    """What is asked of each input."""
    if args.sweep is not None:
        n = int(SLIDER_RANGE / args.sweep + 1e-9)
        return [Asked(round(i * args.sweep, 4) + 0.0) for i in range(-n, n + 1)]
    if args.match is not None:
        try:
            return [Asked(target_grain=measure_grain(open_sound(args.match)))]
        except PipelineError as err:
            raise PipelineError(f"--match {one_line(args.match)}: {err}") from err
    return [Asked(target_grain=args.target_grain) if args.target_grain else Asked(args.grain)]


def _batch(args: argparse.Namespace) -> tuple[list[Job], Path | None]:
    """What to render, and the output folder where a log of it is kept (only of several)."""
    asked = _positions(args)
    found: dict[Path, Path] = {}  # each file and the folder that its tree starts from
    for path in args.inputs:
        for source in find_audio([path]):
            found.setdefault(source, Path(os.path.abspath(path)) if path.is_dir() else source.parent)
    if not found:
        raise PipelineError(
            f"0 files found in {', '.join(map(one_line, args.inputs))} (looked for {' '.join(sorted(AUDIO_EXTENSIONS))})"
        )
    n_outputs = len(found) * len(asked)
    if args.output is not None and not args.output.endswith("/") and not os.path.isdir(args.output):
        if n_outputs > 1:
            raise PipelineError(f"-o {args.output}: {n_outputs} outputs need a folder; end it with /")
        return [Job(next(iter(found)), Path(args.output), asked[0])], None
    folder = Path(args.output or ".")
    twins = Counter(source.with_suffix("") for source in found)  # a.wav and a.flac keep their extensions
    batch = [
        Job(source, folder / source.parent.relative_to(base) / output_name(name, each), each)
        for source, base in found.items()
        for name in [source.with_name(f"{source.name}.wav") if twins[source.with_suffix("")] > 1 else source]
        for each in asked
    ]
    taken: dict[Path, Path] = {}
    for job in batch:
        if taken.setdefault(job.output, job.source) != job.source:
            raise PipelineError(
                f"{one_line(job.output)}: both {one_line(taken[job.output])} and {one_line(job.source)} would go there"
            )
    return batch, folder if n_outputs > 1 and args.output is not None else None


def render_all(args: argparse.Namespace, batch: list[Job], log_folder: Path | None) -> int:
    """Render what is asked, say what became of each file, go on past those that fail.

    Returns
    -------
    exit status: 0 all, 1 some, 2 none
    """
    if args.subtype is not None:
        args.subtype = check_subtype(args.subtype)
    # Other machines need not have the accelerator of this one.
    device = "cpu" if args.dask is not None and args.device == "auto" else args.device
    processor = GrainProcessor.load(args.model, device)
    for folder in {job.output.parent for job in batch if job.output.parent.is_dir()}:
        remove_leftovers(folder)
    if log_folder is None:
        return _render_each(args, processor, batch, None)
    prepare_folder(log_folder)
    with only_run(log_folder / BATCH_LOG):
        return _render_each(args, processor, batch, BatchLog(log_folder, args.model, args.subtype))


def _render_each(args: argparse.Namespace, processor: GrainProcessor, batch: list[Job], log: BatchLog | None) -> int:
    reports, failures, n_before = [], [], 0
    progress = progress_bar("rendering") if len(batch) > 1 else lambda items, total: items
    results = render_batch(
        processor, batch, overwrite=args.overwrite, subtype=args.subtype, log=log, jobs=args.jobs, progress=progress
    )
    with cluster(args.dask):
        for job, result in results:
            if result is None:
                n_before += 1
            elif isinstance(result, str):
                reason = result if str(job.output) in result else f"{one_line(job.source)}: {result}"
                failures.append({"input": str(job.source), "reason": result})
                print(f"error: {reason}", file=sys.stderr)
            else:
                reports.append(report_of(result))
                if not args.json:
                    print(f"{one_line(job.source.name)}: {describe(result.rendering)}")
                    print(f"wrote {one_line(job.output)}")
    if args.json:
        print(json.dumps({"version": 1, "rendered": reports, "failed": failures, "unchanged": n_before}, indent=2))
    elif len(batch) > 1:
        print(f"{len(reports)} rendered, {n_before} unchanged since the last run, {len(failures)} failed")
    return 0 if not failures else 1 if len(failures) < len(batch) else 2


def _demo_input() -> Path:
    for path in (Path(folder, DEMO_INPUT) for folder in DEFAULT_FOLDERS):
        if path.exists():
            return path
    raise PipelineError(
        f"no {DEMO_INPUT} in {DEFAULT_FOLDERS[1]}/; make the demo library with: python measure_audio_grain.py --demo"
    )


def _run(args: argparse.Namespace) -> int:
    if not args.model.exists():
        raise PipelineError(f"{args.model}: no model there yet; make one with: python cak_grain_processor.py")
    if args.demo and args.inputs:
        raise PipelineError("--demo brings its own sound; leave INPUT out")
    for name in ("grain", "target_grain", "match", "sweep"):
        if getattr(args, name) is not None:
            if not args.inputs:
                raise PipelineError(f"--{name.replace('_', '-')} needs an INPUT to render")
            return render_all(args, *_batch(args))
    if len(args.inputs) > 1:
        raise PipelineError(
            f"the window opens one file, {len(args.inputs)} were given; give --grain to render them all"
        )
    source = _demo_input() if args.demo else args.inputs[0] if args.inputs else None
    if source is not None and not source.is_file():
        raise PipelineError(f"{source}: no such file")
    try:
        return open_window(args.model, args.device, source)
    except PipelineError as err:
        if not args.demo:
            raise
        warn(f"{one_line(str(err))}")
    args.overwrite, folder = True, Path(args.output or ".")
    asked = [Asked(octaves) for octaves in DEMO_POSITIONS]
    return render_all(args, [Job(source, folder / output_name(source, each), each) for each in asked], None)


def main(argv: list[str] | None = None) -> int:
    """Run stage 4 from the command line; returns the exit status."""
    args = build_parser().parse_args(argv)
    return run_main(lambda: _run(args))


if __name__ == "__main__":
    leave(main())
