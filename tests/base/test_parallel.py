"""Loops over many items on threads of this machine. Clusters are in tests/stages/test_cluster.py."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT
from threadpoolctl import threadpool_info, threadpool_limits

from neural_grain.base.parallel import map_in_order, map_unordered


def blas_threads() -> set[int]:
    """Numbers of threads of the BLAS libraries in this process."""
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.fixture
def two_blas_threads():
    """Let BLAS use two threads, whatever the environment says."""
    import numpy as np

    np.ones((2, 2)) @ np.ones((2, 2))
    with threadpool_limits(2, "blas"):
        assert blas_threads() == {2}
        yield


class TestMapUnordered:
    @pytest.mark.parametrize("jobs", [1, 2, 8])
    def test_gives_each_item_with_its_result(self, jobs):
        assert sorted(map_unordered(lambda x: x * x, range(100), jobs)) == [(x, x * x) for x in range(100)]

    def test_gives_results_in_the_order_in_which_they_are_done(self):
        may_end = threading.Event()
        results = map_unordered(lambda x: x or may_end.wait(10), [0, 1, 2], 2)
        assert [next(results), next(results)] == [(1, 1), (2, 2)]
        may_end.set()
        assert list(results) == [(0, True)]

    @pytest.mark.parametrize(("jobs", "at_most"), [(1, 1), (4, 8)])
    def test_takes_items_only_when_they_can_be_worked_on_soon(self, jobs, at_most):
        taken = []

        def items():
            for i in range(100):
                taken.append(i)
                yield i

        for done, _ in enumerate(map_unordered(str, items(), jobs), start=1):
            assert len(taken) - done < at_most
        assert done == 100

    def test_equal_items_that_are_not_hashable_are_all_done(self):
        assert list(map_unordered(len, [[1], [1], [1]], 2)) == [([1], 1)] * 3

    @pytest.mark.parametrize("jobs", [1, 2])
    def test_raises_an_error_of_the_function_and_begins_no_more(self, jobs):
        begun = []

        def fail(x):
            begun.append(x)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            list(map_unordered(fail, range(100), jobs))
        time.sleep(0.1)
        assert len(begun) <= 2 * jobs

    def test_closed_early_does_not_wait_and_begins_no_more(self):
        begun, may_end = [], threading.Event()

        def work(x):
            begun.append(x)
            return may_end.wait(10) if x else x

        results = map_unordered(work, range(100), 2)
        assert next(results) == (0, 0)
        while len(begun) < 3:  # the thread that has done item 0 begins item 2
            time.sleep(0.001)
        started = time.monotonic()
        results.close()
        assert time.monotonic() - started < 5
        may_end.set()
        time.sleep(0.1)
        assert len(begun) == 3


class TestMapInOrder:
    @pytest.mark.parametrize("threads", [1, 3])
    def test_gives_results_in_the_order_of_the_items(self, threads):
        def work(x):
            time.sleep(0.001 * (x % 3))
            return x * x

        assert list(map_in_order(work, range(50), threads)) == [x * x for x in range(50)]

    def test_takes_only_a_few_items_ahead(self):
        taken = []
        results = map_in_order(str, (taken.append(i) for i in range(100)), 2)
        next(results)
        assert len(taken) <= 5


def restored() -> bool:
    """Whether BLAS gets its two threads back, once the calls that still run have ended."""
    deadline = time.monotonic() + 10
    while blas_threads() != {2} and time.monotonic() < deadline:
        time.sleep(0.01)
    return blas_threads() == {2}


@pytest.mark.usefixtures("two_blas_threads")
@pytest.mark.parametrize("loop", [map_unordered, map_in_order])
class TestBlas:
    def test_uses_one_thread_in_the_calls_and_as_many_as_before_afterwards(self, loop):
        seen = set()
        list(loop(lambda _: seen.update(blas_threads()), range(3), 2))
        assert seen == {1}
        assert blas_threads() == {2}

    @pytest.mark.parametrize("ends", ["first", "second", "none"])
    def test_is_restored_when_loops_overlap_and_end_in_any_order_or_never(self, loop, ends):
        loops = {name: loop(str, range(30), 2) for name in ("first", "second")}
        for results in loops.values():
            next(results)
        if ends != "none":
            assert len(list(loops.pop(ends))) == 29
        assert restored()  # although at least one of the loops has not ended
        for results in loops.values():
            results.close()
        assert restored()

    def test_is_restored_after_an_error(self, loop):
        with pytest.raises(ZeroDivisionError):
            list(loop(lambda x: 1 / x, range(3), 2))
        assert restored()


@pytest.mark.usefixtures("two_blas_threads")
def test_blas_uses_one_thread_in_the_calls_of_a_single_job():
    assert list(map_unordered(lambda _: blas_threads(), range(2), 1)) == [(0, {1}), (1, {1})]
    assert blas_threads() == {2}


def test_a_blas_library_that_is_loaded_after_the_first_call_uses_one_thread_too():
    code = (
        "from threadpoolctl import threadpool_info; from neural_grain.base.parallel import map_unordered\n"
        "list(map_unordered(str, range(2), 1)); n_before = len(threadpool_info())\n"
        "import scipy.linalg\n"
        "((_, info),) = map_unordered(lambda _: threadpool_info(), [0], 1)\n"
        "assert len(info) > n_before and {library['num_threads'] for library in info} == {1}, info"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not bind processes to cores")
def test_a_process_that_is_bound_to_one_core_uses_one():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"
    code += "; from neural_grain.base.parallel import available_cores; print(available_cores())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
