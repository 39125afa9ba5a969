"""A run over many files that continues where an earlier run stopped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from neural_grain.data.incremental import EarlierRun, FileResults, RunCounts, no_progress, process_files

SIZES = {Path("a"): 1, Path("b"): 3, Path("c"): 2}


@dataclass(frozen=True)
class Result:
    path: Path
    made_in_run: int


def earlier_run(current: str, usable: str = "", gone: str = "") -> EarlierRun[Result]:
    """Results of run 1, one letter for each file."""
    results = {Path(name): Result(Path(name), 1) for name in current + usable + gone}
    return EarlierRun(frozenset(results), results, {Path(name): results[Path(name)] for name in current})


def process(earlier: EarlierRun[Result], **options) -> FileResults[Result]:
    options = {"progress": no_progress, "rescue": lambda results: pytest.fail("not interrupted"), **options}
    return process_files(
        lambda path: Result(path, 2), {path: path for path in SIZES}, earlier, size_bytes=SIZES.get, jobs=1, **options
    )


def test_only_files_without_a_current_result_are_processed():
    run = process(earlier_run(current="b", usable="c", gone="x"))
    assert run.results == [Result(Path("a"), 2), Result(Path("b"), 1), Result(Path("c"), 2)]
    assert run.counts == RunCounts(processed=2, unchanged=1, gone=1)


def test_the_largest_file_is_processed_first():
    order = []

    def note(items, total):
        assert total == 3
        for item, result in items:
            order.append(item.name)
            yield item, result

    process(EarlierRun(), progress=note)
    assert order == ["b", "c", "a"]


@pytest.mark.parametrize(
    ("n_done", "rescued"), [(0, []), (1, [[Result(Path("a"), 1), Result(Path("b"), 1), Result(Path("c"), 2)]])]
)
def test_ctrl_c_saves_new_results_and_usable_earlier_ones(n_done, rescued):
    saved = []

    def interrupt(items, total):
        for _ in range(n_done):
            yield next(items)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process(earlier_run(current="b", usable="ac", gone="x"), progress=interrupt, rescue=saved.append)
    assert saved == rescued
