"""The plan of a batch: which inputs are rendered to which outputs.

The tree of an input folder is kept below the output folder. No output is an input, no two renderings go to one output,
and what the logs of earlier batches know as output is not taken as input again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from neural_grain.app.batch_log import BATCH_LOG, read_log
from neural_grain.app.targets import Job, RenderTarget, output_name
from neural_grain.audio.audio_files import AUDIO_EXTENSIONS, find_audio, unreadable_formats
from neural_grain.base.errors import PipelineError, printable
from neural_grain.base.identity import ignores_case, name_keys, refuse_inputs


@dataclass(frozen=True)
class BatchPlan:
    """The renderings of a run."""

    jobs: list[Job]
    log_folder: Path | None = None  # where the batch log is kept; None for one named file that goes to one file
    warnings: tuple[str, ...] = ()  # what was left out, in lines
    instrument: bool = False  # whether the outputs of each source become an instrument


def plan_batch(
    inputs: Sequence[Path],
    targets: Sequence[RenderTarget],
    output: str | None,
    *,
    also_read: Sequence[Path] = (),
    keep_tree: bool = False,
) -> BatchPlan:
    """Find the inputs and decide where each rendering goes, so that none goes to an input.

    Parameters
    ----------
    inputs : audio files, and folders that are searched for them
    targets : every input is rendered once for each
    output : a file, or a folder (it exists, or the text ends with a slash); the current folder if None
    also_read : other files that the run reads
    keep_tree : files that are named themselves also keep their tree, below the folder that all of them are in

    Raises
    ------
    PipelineError
        If there is no input, if two renderings would go to one output, or if an output is an input.
    """
    is_folder = output is None or output.endswith(("/", os.sep)) or os.path.isdir(output)
    folder = Path(output or ".") if is_folder else None
    found = _find_sources(inputs, keep_tree)
    sources = _without_outputs(found, inputs, folder)
    warnings = unreadable_formats(inputs)
    if n_outputs := len(found) - len(sources):
        warnings.append(f"left out: {n_outputs} files that {BATCH_LOG} lists as outputs of earlier runs")
    if not sources:
        extensions = " ".join(sorted(AUDIO_EXTENSIONS))
        fault = f"0 files found in {', '.join(map(printable, inputs))} (looked for {extensions})"
        raise PipelineError("; ".join((fault, *warnings)))
    n_jobs = len(sources) * len(targets)
    if folder is not None:
        jobs = jobs_in_folder(sources, targets, folder)
    elif n_jobs > 1:
        raise PipelineError(f"-o {output}: {n_jobs} outputs need a folder; end it with /")
    else:
        jobs = [Job(next(iter(sources)), Path(output), targets[0])]
    refuse_inputs([job.output for job in jobs], [*sources, *also_read])
    is_batch = output is not None or n_jobs > 1 or any(os.path.isdir(path) for path in inputs)
    return BatchPlan(jobs, folder if is_batch else None, tuple(warnings))


def _find_sources(inputs: Sequence[Path], keep_tree: bool) -> dict[Path, Path]:
    """Audio files among and below the inputs, each with the folder that its tree starts from."""
    files = [Path(os.path.abspath(path)) for path in inputs if not os.path.isdir(path)]
    shared = _shared_folder(files) if keep_tree else None
    sources: dict[Path, Path] = {}
    for path in inputs:
        root = Path(os.path.abspath(path)) if os.path.isdir(path) else shared
        for source in find_audio([path]):
            sources.setdefault(source, root or source.parent)
    return sources


def _shared_folder(files: Sequence[Path]) -> Path | None:
    """The folder that all files are in; None if there is none, as between two drives of Windows."""
    try:
        return Path(os.path.commonpath([file.parent for file in files]))
    except ValueError:
        return None


def _without_outputs(sources: dict[Path, Path], inputs: Sequence[Path], folder: Path | None) -> dict[Path, Path]:
    """Leave out what a batch log knows as output.

    Of the files that were found in folders, that is everything in the logs there and above. A file that is named
    itself is left out only if it is an output of the log that this run will continue, the one in ``folder``.
    """
    named = {Path(os.path.abspath(path)) for path in inputs}
    places = {os.path.realpath(source.parent) for source in sources if source not in named}
    outputs_around = _logged_outputs({above for place in places for above in (Path(place), *Path(place).parents)})
    own_outputs = set() if folder is None else _logged_outputs([folder])
    return {
        source: root
        for (source, root), key in zip(sources.items(), name_keys(sources), strict=True)
        if key not in own_outputs and (source in named or key not in outputs_around)
    }


def _logged_outputs(folders: Iterable[Path]) -> set[str]:
    """Names, as `name_keys` gives them, of everything that the batch logs in these folders know as output."""
    logs = [folder / BATCH_LOG for folder in folders]
    return set(name_keys(log.parent / record.output for log in logs if os.path.isfile(log) for record in read_log(log)))


def jobs_in_folder(sources: Mapping[Path, Path], targets: Sequence[RenderTarget], folder: Path) -> list[Job]:
    """Jobs with default names below ``folder``, in the tree of the sources.

    Where sources differ only in their extension (a.wav, a.flac), the names of their outputs keep it.

    Parameters
    ----------
    sources : as `_find_sources` returns them

    Raises
    ------
    PipelineError
        If two sources would go to one output.
    """
    stem_counts = Counter(source.with_suffix("") for source in sources)
    jobs: list[Job] = []
    for source, root in sources.items():
        is_unique = stem_counts[source.with_suffix("")] == 1
        named_after = source if is_unique else source.with_name(f"{source.name}.wav")
        for target in targets:
            output = folder / source.parent.relative_to(root) / output_name(named_after, target)
            jobs.append(Job(source, output, target))
    _check_outputs_differ(jobs, folder)
    return jobs


def _check_outputs_differ(jobs: Sequence[Job], folder: Path) -> None:
    job_of: dict[str, Job] = {}
    for job, key in zip(jobs, name_keys(job.output for job in jobs), strict=True):
        other = job_of.setdefault(key, job)
        if other is not job and (other.output == job.output or ignores_case(folder)):
            raise PipelineError(
                f"{printable(job.output)}: both {printable(other.source)} and {printable(job.source)} would go there"
            )
