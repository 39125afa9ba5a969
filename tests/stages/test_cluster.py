"""Stages 1 and 2 and batches give the same on a real Dask cluster as on one machine, even if a worker dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import BAD_FILES, call, noise, run, sf, write_bad_files, write_library

import measure_audio_grain as stage1
from measure_audio_grain import measure_folder
from neural_grain.app.batch_log import BATCH_LOG
from neural_grain.base import parallel
from neural_grain.base.errors import PipelineError
from neural_grain.base.parallel import map_unordered, on_cluster

# The workers do not inherit the path on which this process finds our scripts.
START = """
import sys
from distributed import LocalCluster
with LocalCluster(n_workers=int(sys.argv[1]), threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
    print(cluster.scheduler_address, flush=True)
    sys.stdin.read()
"""


@dataclass(frozen=True)
class Cluster:
    """A scheduler with worker processes. A worker that is killed is started again."""

    address: str
    scheduler: subprocess.Popen

    def kill_a_worker(self) -> None:
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            pids = client.run(os.getpid)
        os.kill(next(iter(pids.values())), signal.SIGKILL)


@contextmanager
def started_cluster(folder: Path, n_workers: int) -> Iterator[Cluster]:
    """Start a cluster whose workers have ``folder`` as their current folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", START, str(n_workers)],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    yield Cluster(process.stdout.readline().strip(), process)
    process.stdin.close()
    process.wait(60)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two workers, in a folder with an older version of our package, which they could import by mistake."""
    folder = tmp_path_factory.mktemp("cluster")
    for name in ("neural_grain", "measure_audio_grain", "convert_to_spectrograms", "neural_audio_processor"):
        (folder / f"{name}.py").write_text("raise AssertionError('a worker imports its own version')")
    with started_cluster(folder, 2) as cluster:
        yield cluster


def contents(folder: Path) -> dict[str, bytes]:
    """Contents of all files below a folder, with hidden ones."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@dataclass(frozen=True)
class Square:
    """A result of a type of our own."""

    value: int


def square(x: int) -> Square:
    return Square(x * x)


def wait_a_little(x: int) -> int:
    time.sleep(0.05)
    return x


def die(x: int) -> None:
    os._exit(1)


def refuse(x: int) -> None:
    raise PipelineError(f"{x} is refused")


def map_there(cluster: Cluster, function: Callable, items: Iterable) -> list[tuple]:
    with parallel.cluster(cluster.address):
        return list(map_unordered(function, items, 1))


class TestMapUnordered:
    def test_returns_instances_of_the_classes_of_this_process(self, cluster):
        with parallel.cluster(cluster.address):
            assert on_cluster()
            results = dict(map_unordered(square, range(20), 1))
        assert not on_cluster()
        assert results == {x: Square(x * x) for x in range(20)}

    def test_calls_closures_for_items_of_our_own_types(self, cluster):
        offset = Square(5)
        results = map_there(cluster, lambda item: item.value + offset.value, [Square(1), Square(2)])
        assert sorted((item.value, result) for item, result in results) == [(1, 6), (2, 7)]

    def test_queues_calls_for_workers_that_join_later_but_not_all(self, cluster, monkeypatch):
        monkeypatch.setattr(parallel, "CLUSTER_QUEUE", 10)
        taken = []
        with parallel.cluster(cluster.address):
            results = map_unordered(square, (taken.append(i) or i for i in range(100)), 1)
            for done, _ in enumerate(results, start=1):
                assert len(taken) - done < 10 + 2 * 2
        assert done == 100

    def test_raises_an_error_of_the_function(self, cluster):
        with pytest.raises(PipelineError, match="is refused"):
            map_there(cluster, refuse, range(5))

    def test_closed_early_cancels_what_has_not_begun(self, cluster, tmp_path):
        def leave_a_trace(x: int) -> None:
            (tmp_path / str(x)).touch()
            time.sleep(0.05)

        with parallel.cluster(cluster.address):
            results = map_unordered(leave_a_trace, range(1000), 1)
            next(results)
            results.close()
            assert dict(map_unordered(square, [3], 1)) == {3: Square(9)}
        assert len(list(tmp_path.iterdir())) < 500

    def test_workers_that_are_busy_for_longer_than_a_connection_may_take_are_waited_for(self, cluster, monkeypatch):
        with parallel.cluster(cluster.address):
            monkeypatch.setattr(parallel, "CLUSTER_TIMEOUT_S", 0.1)
            others = map_unordered(lambda x: time.sleep(1), range(6), 1)
            next(others)  # two calls are done, two run and two wait
            assert dict(map_unordered(square, [3], 1)) == {3: Square(9)}
            others.close()


class TestGivesTheSameAsOneMachine:
    def test_in_stage_1_with_bad_files(self, cluster, tmp_path):
        write_library(tmp_path, 6, 0.5)
        write_bad_files(tmp_path / "Drone" / "bad")
        here = call("measure_audio_grain.py", "-o", "here.json", cwd=tmp_path)
        there = call("measure_audio_grain.py", "-o", "there.json", "--dask", cluster.address, cwd=tmp_path)
        assert (there.status, there.out) == (1, here.out.replace("here.json", "there.json"))
        assert len(BAD_FILES) == there.out.count("warning") + there.err.count("Drone/bad/")
        assert (tmp_path / "there.json").read_bytes() == (tmp_path / "here.json").read_bytes()

    def test_in_stage_2_tiles_pictures_and_list(self, cluster, few_tiles):
        here = contents(few_tiles.folder)
        assert any(name.endswith(".png") for name in here)
        (few_tiles.folder / "training_pairs.json").unlink()
        for path in (few_tiles.folder / "spectrograms").rglob("*.*"):
            path.unlink()
        ran = run("convert_to_spectrograms.py", "--dask", cluster.address, cwd=few_tiles.folder)
        assert (ran.status, ran.err) == (0, "")
        assert "6 converted" in ran.out
        assert contents(few_tiles.folder) == here


class TestWorkerThatDies:
    def test_changes_nothing_in_stage_1(self, cluster, tmp_path):
        write_library(tmp_path, 30, 0.5)

        def kill_a_worker(items, total):
            for n, item in enumerate(items):
                if n == 5:
                    cluster.kill_a_worker()
                yield item

        here, _ = measure_folder([tmp_path])
        with parallel.cluster(cluster.address):
            there, counts = measure_folder([tmp_path], progress=kill_a_worker)
        assert there == here
        assert counts.processed == 30

    def test_changes_nothing_in_a_batch_and_a_second_run_has_nothing_to_do(self, cluster, project, tmp_path):
        write_library(tmp_path / "in", 4, 1.0)
        log = tmp_path / "there" / BATCH_LOG

        def kill_after_the_first() -> None:
            while not (log.exists() and '"stamps"' in log.read_text()):
                time.sleep(0.01)
            cluster.kill_a_worker()

        killer = threading.Thread(target=kill_after_the_first, daemon=True)
        killer.start()
        args = ("in", "--grain", "-0.5", "--lfo", "1:0.5", "--model", project.model, "-o")
        for line in ("4 rendered, 0 unchanged", "0 rendered, 4 unchanged"):
            ran = run("neural_audio_processor.py", *args, "there/", "--dask", cluster.address, cwd=tmp_path)
            assert (ran.status, ran.err) == (0, "")
            assert line in ran.out
        killer.join(10)
        assert not killer.is_alive()
        call("neural_audio_processor.py", *args, "here/", cwd=tmp_path)
        here, there = contents(tmp_path / "here"), contents(tmp_path / "there")
        assert here.pop(BATCH_LOG)
        assert there.pop(BATCH_LOG)
        assert there == here

    def test_over_the_same_file_again_and_again_is_one_line(self, tmp_path):
        with started_cluster(tmp_path, 2) as fragile, pytest.raises(PipelineError) as err:
            map_there(fragile, die, [1])
        assert str(err.value) == f"--dask {fragile.address}: one worker after the other died over the same file"


class TestClusterThatIsNotThere:
    @pytest.mark.parametrize(
        ("address", "message"),
        [("127.0.0.1:1", "no scheduler answers there (Timed out"), ("here", "missing port"), ("x://y:1", "scheme 'x'")],
    )
    def test_is_one_line(self, tmp_path, monkeypatch, capsys, address, message):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(parallel, "CLUSTER_TIMEOUT_S", 0.5)
        sf.write(tmp_path / "a.wav", noise(0.5), 44_100)
        assert stage1.main(["a.wav", "--dask", address]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"error: --dask {address}: no scheduler answers there (")
        assert message in err
        assert err.count("\n") == 1
        assert not (tmp_path / "metadata.json").exists()

    def test_is_one_line_if_dask_is_not_installed(self, tmp_path):
        sf.write(tmp_path / "a.wav", noise(0.5), 44_100)
        (tmp_path / "distributed.py").write_text("raise ImportError")
        ran = run(
            "measure_audio_grain.py", "a.wav", "--dask", "127.0.0.1:1", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}
        )
        assert (ran.status, ran.err) == (2, "error: --dask needs Dask; install it with: pip install distributed\n")

    def test_is_one_line_if_there_are_no_workers(self, tmp_path, monkeypatch):
        monkeypatch.setattr(parallel, "CLUSTER_TIMEOUT_S", 1)
        no_workers = pytest.raises(PipelineError, match=r"its scheduler has no workers; start some: dask worker$")
        with started_cluster(tmp_path, 0) as empty, no_workers:
            map_there(empty, square, range(3))

    def test_is_one_line_if_the_scheduler_goes(self, tmp_path, capfd):
        def items():
            yield from range(10)
            time.sleep(0.5)
            mortal.scheduler.kill()
            yield from range(10, 1000)

        with started_cluster(tmp_path, 2) as mortal, pytest.raises(PipelineError) as err:
            map_there(mortal, wait_a_little, items())
        assert str(err.value) == f"--dask {mortal.address}: the scheduler has gone; run the same command again"
        assert capfd.readouterr().err == ""
