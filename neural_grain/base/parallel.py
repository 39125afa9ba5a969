"""TODO"""

from __future__ import annotations

import logging
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from neural_grain.base.errors import PipelineError

CLUSTER_TIMEOUT_S = 10  # for the scheduler to answer, and for a first worker to be there


def map_in_order(function: Callable, items: Iterable, threads: int) -> Iterator:
    """``map`` on some threads: results in the order of the items, only a few of them at work at a time."""
    if threads == 1:
        yield from map(function, items)
        return
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
        waiting: deque = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Inside, `map_unordered` works on a Dask cluster, or if ``address`` is None on threads of this machine.

    Raises
    ------
    PipelineError
        If Dask is not installed, no scheduler answers or the cluster breaks down.
    """
    if address is None:
        yield
        return
    from joblib import parallel_config

    try:
        from distributed import CancelledError, Client, KilledWorker
        from distributed.comm import get_address_host_port
        from joblib._dask import DaskDistributedBackend
    except ImportError as err:
        raise PipelineError("--dask needs Dask; install it with: pip install distributed") from err
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # it tells of lost connections in tracebacks
    try:
        get_address_host_port(address)  # before a Client, which hangs where this fails
        client = Client(address, timeout=CLUSTER_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as err:
        raise PipelineError(f"--dask {address}: no scheduler answers there ({err})") from err

    class Backend(DaskDistributedBackend):
        def effective_n_jobs(self, n_jobs: int) -> int:
            return max(2, super().effective_n_jobs(n_jobs))  # with 1 joblib works here, though more workers may come

    with client:
        try:
            with parallel_config(Backend(client=client, wait_for_workers_timeout=CLUSTER_TIMEOUT_S)):
                yield
        except TimeoutError as err:
            raise PipelineError(f"--dask {address}: its scheduler has no workers; start some: dask worker") from err
        except KilledWorker as err:
            raise PipelineError(f"--dask {address}: one worker after the other died over the same file") from err
        except CancelledError as err:
            raise PipelineError(f"--dask {address}: the scheduler has gone; run the same command again") from err


def on_cluster() -> bool:
    """Whether `map_unordered` works on processes that share no memory with this one."""
    from joblib.parallel import get_active_backend

    return not getattr(get_active_backend(prefer="threads")[0], "supports_sharedmem", False)


def map_unordered(function: Callable, items: Iterable, jobs: int) -> Iterator[tuple]:
    """Call ``function`` for each item, on ``jobs`` threads or on the cluster (`cluster`).

    Items are taken when there is somebody to work on them. What all calls have in common
    belongs into ``function`` (`functools.partial`), which a cluster gets together with its code.

    Yields
    ------
    item and result, in the order in which they are done
    """
    from joblib import Parallel, delayed
    from threadpoolctl import threadpool_limits

    def call(i: int, item: object) -> tuple[int, object]:
        return i, function(item)

    far = on_cluster()
    sent = _ByValue if far else lambda same: same
    sent_call, at_work = sent(call), {}
    dispatched = f"{'256 + ' if far else ''}2*n_jobs"  # workers that join later find something to do

    def tasks() -> Iterator:
        for i, item in enumerate(items):
            at_work[i] = item
            yield delayed(sent_call)(i, sent(item))

    pool = Parallel(n_jobs=jobs, prefer="threads", pre_dispatch=dispatched, return_as="generator_unordered")
    np.empty(1 << 24, np.uint8)  # glibc keeps freed blocks up to the largest it saw freed; else each one faults in anew
    with threadpool_limits(1, "blas"):  # products are small: threads of BLAS would only wait for each other
        for i, result in pool(tasks()):
            yield at_work.pop(i), result


class _ByValue:
    """Something that becomes itself again where it is unpickled, which needs none of these scripts.

    Its classes and functions travel with it, so that another machine never runs an older version of them.
    """

    def __init__(self, content: object):
        import cloudpickle

        root = Path(__file__).parents[2]
        for module in list(sys.modules.values()):
            file = Path(getattr(module, "__file__", None) or "")
            if file.parent == root or (file.is_relative_to(root / "neural_grain")):
                cloudpickle.register_pickle_by_value(module)
        self._pickled = zlib.compress(cloudpickle.dumps(content), 1)

    def __reduce__(self) -> tuple:
        import cloudpickle

        return cloudpickle.loads, (_Compressed(self._pickled),)


@dataclass(frozen=True)
class _Compressed:
    content: bytes

    def __reduce__(self) -> tuple:
        return zlib.decompress, (self.content,)
