"""Stages 1, 2 and batches on a real Dask cluster: what one machine makes, and a worker that dies costs only time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import pytest
from conftest import BAD_FILES, noise, run, sf, write_bad_files, write_library

import measure_audio_grain as stage1
from measure_audio_grain import measure_folder
from neural_grain.app import batch as app_batch
from neural_grain.base import parallel as base_parallel

# The workers don't inherit a path on which they would find our scripts.
START = """
import sys
from distributed import LocalCluster
with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
    print(cluster.scheduler_address, flush=True)
    sys.stdin.read()
"""


@dataclass(frozen=True)
class Cluster:
    """A scheduler with two worker processes; one that is killed is started again."""

    address: str

    def kill_a_worker(self) -> None:
        from distributed import Client

        with Client(self.address, set_as_default=False) as client:
            pids = client.run(os.getpid)
        os.kill(next(iter(pids.values())), signal.SIGKILL)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    process = subprocess.Popen(
        [sys.executable, "-c", START],
        cwd=tmp_path_factory.mktemp("cluster"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    yield Cluster(process.stdout.readline().strip())
    process.stdin.close()
    process.wait(60)


def contents(folder) -> dict[str, bytes]:
    """All files below a folder, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


class TestSameAsHere:
    def test_stage_1_bad_files_included(self, cluster, tmp_path):
        write_library(tmp_path, 6, 0.5)
        write_bad_files(tmp_path / "Drone" / "bad")
        here = run("measure_audio_grain.py", "-o", "here.json", cwd=tmp_path)
        there = run("measure_audio_grain.py", "-o", "there.json", "--dask", cluster.address, cwd=tmp_path)
        assert (there.status, there.out) == (1, here.out.replace("here.json", "there.json"))
        assert len(BAD_FILES) == there.out.count("warning") + there.err.count("Drone/bad/")
        assert (tmp_path / "there.json").read_bytes() == (tmp_path / "here.json").read_bytes()

    def test_stage_2_tiles_pictures_and_list(self, cluster, copied):
        here = contents(copied.folder)
        assert any(name.endswith(".png") for name in here)
        (copied.folder / "training_pairs.json").unlink()
        for path in (copied.folder / "spectrograms").rglob("*.*"):
            path.unlink()
        ran = run("convert_to_spectrograms.py", "--dask", cluster.address, cwd=copied.folder)
        assert (ran.status, ran.err) == (0, "")
        assert "12 converted" in ran.out
        assert contents(copied.folder) == here


class TestAWorkerThatDies:
    def test_costs_stage_1_nothing_else(self, cluster, tmp_path):
        write_library(tmp_path, 60, 1.0)

        def killing(items, total):
            for n, item in enumerate(items):
                if n == 5:
                    cluster.kill_a_worker()
                yield item

        here, _ = measure_folder([tmp_path])
        with base_parallel.cluster(cluster.address):
            there, counts = measure_folder([tmp_path], progress=killing)
        assert there == here
        assert counts.processed == 60

    def test_costs_a_batch_nothing_else_and_a_second_run_has_nothing_to_do(self, cluster, project, tmp_path):
        write_library(tmp_path / "in", 8, 1.0)
        log = tmp_path / "there" / app_batch.BATCH_LOG

        def kill_half_way() -> None:
            while not (log.exists() and '"stamps"' in log.read_text()):
                time.sleep(0.01)
            cluster.kill_a_worker()

        killer = threading.Thread(target=kill_half_way, daemon=True)
        killer.start()
        args = ("in", "--grain", "-1", "--model", project.model, "-o")
        for line in ("8 rendered, 0 unchanged", "0 rendered, 8 unchanged"):
            ran = run("neural_audio_processor.py", *args, "there/", "--dask", cluster.address, cwd=tmp_path)
            assert (ran.status, ran.err) == (0, "")
            assert line in ran.out
        killer.join(10)
        assert not killer.is_alive()
        run("neural_audio_processor.py", *args, "here/", cwd=tmp_path)
        here, there = contents(tmp_path / "here"), contents(tmp_path / "there")
        assert here.pop(app_batch.BATCH_LOG)
        assert there.pop(app_batch.BATCH_LOG)
        assert there == here


class TestClusterThatFails:
    @pytest.mark.parametrize(
        ("address", "message"),
        [("127.0.0.1:1", "no scheduler answers there (Timed out"), ("here", "missing port"), ("x://y:1", "scheme 'x'")],
    )
    def test_to_answer_is_one_line(self, tmp_path, monkeypatch, capsys, address, message):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(base_parallel, "CLUSTER_TIMEOUT_S", 0.5)
        sf.write(tmp_path / "a.wav", noise(0.5), 44_100)
        assert stage1.main(["a.wav", "--dask", address]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"error: --dask {address}: no scheduler answers there (")
        assert message in err
        assert err.count("\n") == 1
        assert not (tmp_path / "metadata.json").exists()

    def test_to_be_installed_is_one_line(self, tmp_path):
        sf.write(tmp_path / "a.wav", noise(0.5), 44_100)
        (tmp_path / "distributed.py").write_text("raise ImportError")
        ran = run(
            "measure_audio_grain.py", "a.wav", "--dask", "127.0.0.1:1", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}
        )
        assert (ran.status, ran.err) == (2, "error: --dask needs Dask; install it with: pip install distributed\n")
