"""TODO"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

from conftest import ROOT

from neural_grain.base import files as base_files
from neural_grain.base import records as base_records
from neural_grain.base.errors import PipelineError


class TestLeftovers:
    def test_of_killed_runs_go_and_what_is_the_users_or_a_living_runs_stays(self, tmp_path):
        dead, alive, lock = (
            base_files.hidden_path(tmp_path / name, kind)
            for name, kind in (("dead.wav", "part"), ("alive.wav", "part"), ("x", "lock"))
        )
        mine = [tmp_path / name for name in (".grain-notes", ".grain-0123456789abcdef.part2", ".x.part", "a.part.wav")]
        for path in (dead, lock, *mine):
            path.write_bytes(b"x")
        (tmp_path / ".grain-0123456789abcdef.part").mkdir()
        (tmp_path / ".grain-0123456789abcde0.part").symlink_to(mine[0])
        code = (
            "import sys, time; from pathlib import Path; from neural_grain.base.files import atomic_write\n"
            "with atomic_write(Path('alive.wav')): print('held', flush=True); time.sleep(60)"
        )
        other = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert other.stdout.readline() == "held\n"
        base_files.prepare_folder(tmp_path)
        assert not dead.exists()
        assert not lock.exists()
        assert alive.exists()
        assert all(path.exists() for path in mine)
        other.kill()
        other.wait()
        base_files.prepare_folder(tmp_path)
        assert not alive.exists()
        assert len(list(tmp_path.iterdir())) == len(mine) + 2

    def test_a_name_of_255_bytes_can_be_replaced(self, tmp_path):
        path = tmp_path / ("\N{MUSICAL SYMBOL G CLEF}" * 62 + "abc.wav")
        base_records.write_json(path, {})
        assert [item.name for item in tmp_path.iterdir()] == [path.name]

    def test_many_threads_never_write_one_file_at_a_time(self, tmp_path):
        path, busy, wrong = tmp_path / "x.json", [], []

        def write(i: int) -> None:
            for _ in range(50):
                try:
                    base_records.write_json(path, {"from": i})
                    json.loads(path.read_text())
                except PipelineError as err:
                    busy.append(str(err))
                except (OSError, ValueError) as err:
                    wrong.append(err)

        threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert all("another run is writing it" in line for line in busy)
        assert [item.name for item in tmp_path.iterdir()] == ["x.json"]
