"""One loop over many files, on threads of this machine or on a Dask cluster, and one over blocks of audio.

`map_unordered` calls a function for every file and gives the results as they come. It submits the calls to an
executor of ``concurrent.futures``: inside a `cluster` block to the cluster, elsewhere to threads, which is enough
because decoding and transforms release Python's lock. `map_in_order` does the same for the blocks of one file.

Workers of a cluster need the libraries of requirements.txt, but not this package. What they call, and the items that
they call it for, travel by value: the code of our classes and functions is a part of the message (cloudpickle's
``register_pickle_by_value``). So no worker can run another version of it, and results that come back are instances of
the classes here.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from contextlib import ContextDecorator, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import call
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from neural_grain.base.errors import PipelineError

if TYPE_CHECKING:
    from distributed import Client
    from threadpoolctl import LibController

Item = TypeVar("Item")
Result = TypeVar("Result")

SCHEDULER_GONE = "the scheduler has gone; run the same command again"
CLUSTER_TIMEOUT_S = 10  # for the scheduler to answer, and then for a first worker to answer
CLUSTER_QUEUE = 256  # calls that wait on a cluster, so that workers which join later find some
CHECK_INTERVAL_S = 1.0  # how often the connection to the scheduler is checked while no result comes
FREED_BYTES = 1 << 24  # at least the largest block that decoding and transforms allocate again and again


def available_cores() -> int:
    """How many cores this process may use: fewer than the machine has, in some containers and under `taskset`."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class OneBlasThread(ContextDecorator):
    """Context in which BLAS uses one thread. It is left when the last of the calls that share it has ended.

    Our products are small, and threads of BLAS would wait for each other and for ours. The context is entered for each
    call of a function, and not for a whole loop, because a generator may be left unfinished and never be closed.
    Sums by several threads are rounded in another way, so everything that is rendered is computed in this context:
    then the number of cores does not change a result.
    """

    def __init__(self) -> None:
        self._users = 0
        self._libraries: list[LibController] = []
        self._n_modules = 0  # when the libraries were found, which takes 1 ms; limiting them takes 10 us
        self._threads_before: list[int] = []
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        from threadpoolctl import ThreadpoolController

        with self._lock:
            if self._users == 0:
                if self._n_modules != len(sys.modules):  # an import may have loaded another library
                    self._n_modules = len(sys.modules)
                    self._libraries = ThreadpoolController().select(user_api="blas").lib_controllers
                self._threads_before = [library.num_threads for library in self._libraries]
                for library in self._libraries:
                    _set_blas_threads(library, 1)
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                for library, n_threads in zip(self._libraries, self._threads_before, strict=True):
                    _set_blas_threads(library, n_threads)

    def __reduce__(self) -> tuple:
        return type(self), ()  # a worker of a cluster has a BLAS of its own


def _set_blas_threads(library: LibController, n_threads: int) -> None:
    """Set the number of threads of a BLAS library, from any thread of ours.

    For OpenBLAS, threadpoolctl lets the first thread that does so own the setting, and ignores all others while that
    thread lives. But the last call to end may be in another thread than the first to begin, so nobody may own it.
    """
    give_up_ownership = getattr(library, "clear_controlling_thread", lambda force: None)
    give_up_ownership(force=True)
    library.set_num_threads(n_threads)
    give_up_ownership(force=True)


ONE_BLAS_THREAD = OneBlasThread()


def _call_on_one_blas_thread(function: Callable[[Item], Result], item: Item) -> Result:
    with ONE_BLAS_THREAD:
        return function(item)


def map_in_order(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Call ``function`` for each item on some threads. Only a few items are taken ahead.

    Yields
    ------
    the results, in the order of the items
    """
    limited = partial(_call_on_one_blas_thread, function)  # with one thread, too: a sum by several rounds differently
    if threads == 1:
        yield from map(limited, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future] = deque()
        for item in items:
            waiting.append(pool.submit(limited, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@dataclass(frozen=True)
class Cluster:
    """A connection to a Dask scheduler."""

    address: str
    client: Client

    def error(self, reason: str) -> PipelineError:
        """Make an error that names the option of the user."""
        return PipelineError(f"--dask {self.address}: {reason}")

    def executor(self) -> Executor:
        """Make an executor once a worker answers, which an adaptive cluster may have to start first.

        Workers that do not answer because they are busy are waited for, like the calls that will stand behind others.
        """
        from distributed import TimeoutError as NoAnswer

        executor = self.client.get_executor(pure=False)  # Dask takes calls of a pure function as one call
        try:
            executor.submit(int).result(CLUSTER_TIMEOUT_S)
        except (TimeoutError, NoAnswer) as err:
            if self.client.nthreads():
                return executor
            raise self.error("its scheduler has no workers; start some: dask worker") from err
        except CancelledError as err:
            raise self.error(SCHEDULER_GONE) from err
        return executor

    def check_connection(self) -> None:
        """Raise PipelineError if the scheduler has gone."""
        if self.client.status != "running":
            raise self.error(SCHEDULER_GONE)

    def queue_length(self) -> int:
        """Return how many calls are submitted at a time."""
        return CLUSTER_QUEUE + 2 * sum(self.client.nthreads().values())


_CLUSTER: ContextVar[Cluster | None] = ContextVar("cluster", default=None)


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Let `map_unordered` work on the Dask cluster of this scheduler; nothing changes if ``address`` is None."""
    if address is None:
        yield
        return
    client = _connect(address)
    token = _CLUSTER.set(Cluster(address, client))
    try:
        yield
    finally:
        _CLUSTER.reset(token)
        with suppress(OSError, RuntimeError):  # from Dask, if the connection was lost
            client.close()


def _connect(address: str) -> Client:
    try:
        from distributed import Client
        from distributed.comm import get_address_host_port
    except ImportError as err:
        raise PipelineError("--dask needs Dask; install it with: pip install distributed") from err
    # These loggers report a lost connection as tracebacks.
    for logger in ("distributed", "distributed.client", "tornado.application"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    try:
        get_address_host_port(address)  # a Client would hang on an address that is not valid
        return Client(address, timeout=CLUSTER_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as err:
        raise PipelineError(f"--dask {address}: no scheduler answers there ({err})") from err


def on_cluster() -> bool:
    """Return True inside a `cluster` block, where `map_unordered` shares no memory with the function it calls."""
    return _CLUSTER.get() is not None


def map_unordered(
    function: Callable[[Item], Result], items: Iterable[Item], jobs: int
) -> Iterator[tuple[Item, Result]]:
    """Call ``function`` for each item, on threads or on the cluster.

    What all calls have in common belongs in ``function`` (with `functools.partial` or a closure). Items are taken
    when they can be worked on soon. If the loop over the results ends early, calls that have not begun are cancelled.

    Parameters
    ----------
    function : its errors are raised here
    items : on a cluster, anything that cloudpickle can send
    jobs : int >= 1, threads; without effect on a cluster. A single job runs in the calling thread.

    Yields
    ------
    item and result, in the order in which the calls end
    """
    where = _CLUSTER.get()
    # glibc keeps freed blocks for reuse only up to the size of the largest block it has seen freed. All others go
    # back to the system, and their pages have to be made anew each time.
    np.empty(FREED_BYTES, np.uint8)
    limited = partial(_call_on_one_blas_thread, function)
    if where is not None:
        yield from _map_on_cluster(where, function, items)
    elif jobs == 1:
        yield from ((item, limited(item)) for item in items)
    else:
        pool = ThreadPoolExecutor(jobs)
        try:
            yield from _results_as_they_come(partial(pool.submit, limited), items, 2 * jobs)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _map_on_cluster(
    where: Cluster, function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[tuple[Item, Result]]:
    import cloudpickle
    from distributed import KilledWorker

    executor = where.executor()
    limited = partial(_call_on_one_blas_thread, function)
    code = _Call(zlib.decompress, zlib.compress(_dump_by_value(limited, _module_of(function)), 1))
    # As the result of a task, it is unpickled only once on each worker, and again if the worker that has it dies.
    sent_function = where.client.submit(cloudpickle.loads, code, pure=False)
    try:
        yield from _results_as_they_come(
            lambda item: executor.submit(call, sent_function, _by_value(item)),
            items,
            where.queue_length(),
            where.check_connection,
        )
    except KilledWorker as err:
        raise where.error("one worker after the other died over the same file") from err
    except CancelledError as err:
        raise where.error(SCHEDULER_GONE) from err
    finally:
        executor.shutdown(wait=False)


def _results_as_they_come(
    submit: Callable[[Item], Future], items: Iterable[Item], queue_length: int, check: Callable[[], None] = lambda: None
) -> Iterator[tuple[Item, Result]]:
    """Submit up to ``queue_length`` calls at a time, and call ``check`` now and then while none of them ends."""
    remaining = iter(items)
    submitted: dict[Future, Item] = {}
    done: queue.SimpleQueue[Future] = queue.SimpleQueue()
    while True:
        for item in islice(remaining, queue_length - len(submitted)):
            future = submit(item)
            submitted[future] = item
            future.add_done_callback(done.put)
        if not submitted:
            return
        try:
            future = done.get(timeout=CHECK_INTERVAL_S)
        except queue.Empty:
            check()
            continue
        yield submitted.pop(future), future.result()


def _module_of(function: Callable) -> ModuleType:
    while isinstance(function, partial):
        function = function.func
    return sys.modules[function.__module__]


def _by_value(item: object) -> _Call:
    """Make something that becomes ``item`` where it is unpickled, without our package."""
    import cloudpickle

    return _Call(cloudpickle.loads, _dump_by_value(item))


def _dump_by_value(content: object, *modules: ModuleType) -> bytes:
    """Pickle ``content`` with the code that it needs of our package and of these modules."""
    import cloudpickle

    for module in (sys.modules[__name__.partition(".")[0]], *modules):
        cloudpickle.register_pickle_by_value(module)
    return cloudpickle.dumps(content)


class _Call:
    """A call of a function of a library that is made when it is unpickled, and that is replaced by its result."""

    def __init__(self, function: Callable, argument: object):
        self._function, self._argument = function, argument

    def __reduce__(self) -> tuple:
        return self._function, (self._argument,)
