"""A pytest plugin for mutants.py: it notes which lines each test runs, or runs some tests in a given order.

With MUTANT_TRACE=FILE it writes the lines of the product that each test runs, how long the test takes, and whether it
passes. The lines of its fixtures are included, and those of functions that are called when its file is imported. With
MUTANT_PLAN=FILE, a JSON list of [test, seconds], it runs these tests only, in this order. A test that takes longer than
its seconds fails: a fault may make a loop endless.
"""

from __future__ import annotations

import inspect
import json
import os
import resource
import signal
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path.cwd()
PRODUCT = f"{ROOT / 'neural_grain'}{os.sep}"
MAX_MEMORY_BYTES = 16 << 30  # of a test process: a fault may ask for all there is


def pytest_configure(config: pytest.Config) -> None:
    if path := os.environ.get("MUTANT_TRACE"):
        config.pluginmanager.register(Tracer(Path(path)))
    if path := os.environ.get("MUTANT_PLAN"):
        resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
        config.pluginmanager.register(Plan(dict(json.loads(Path(path).read_text()))))


class Tracer:
    """Notes the lines that tests run in this process."""

    def __init__(self, path: Path):
        self._path, self._lines, self._tests, self._failed = path, set(), {}, set()
        self._of_fixtures: dict[str, set] = defaultdict(set)
        self._of_imports, self._is_testing = set(), False
        sys.settrace(self._enter)
        threading.settrace(self._enter)

    def _enter(self, frame, _event, _argument):
        is_wanted = self._is_testing or frame.f_code.co_flags & inspect.CO_OPTIMIZED  # a function, not a module
        return self._line if is_wanted and frame.f_code.co_filename.startswith(PRODUCT) else None

    def _line(self, frame, _event, _argument):
        self._lines.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line

    def pytest_collection_finish(self):
        self._of_imports, self._is_testing = self._lines, True

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef, request):
        before, self._lines = self._lines, set()
        try:
            return (yield)
        finally:
            self._of_fixtures[fixturedef.argname] |= self._lines
            self._lines |= before

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self._failed.add(report.nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        started, self._lines = time.monotonic(), set()
        try:
            return (yield)
        finally:
            lines = self._lines.union(self._of_imports, *(self._of_fixtures[name] for name in item.fixturenames))
            by_file = defaultdict(list)
            for name, line in sorted(lines):
                by_file[str(Path(name).relative_to(ROOT))].append(line)
            seconds, passes = time.monotonic() - started, item.nodeid not in self._failed
            self._tests[item.nodeid] = {"seconds": seconds, "passes": passes, "lines": by_file}

    def pytest_sessionfinish(self):
        sys.settrace(None)
        threading.settrace(None)
        self._path.write_text(json.dumps(self._tests))


class Plan:
    """Some tests in an order, each with a limit in seconds."""

    def __init__(self, limits: dict[str, float]):
        self._limits, self._order = limits, list(limits)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items):
        chosen = [item for item in items if item.nodeid in self._limits]
        items[:] = sorted(chosen, key=lambda item: self._order.index(item.nodeid))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        def expire(*_):
            pytest.exit(f"{item.nodeid} takes too long", returncode=1)

        signal.signal(signal.SIGALRM, expire)
        signal.setitimer(signal.ITIMER_REAL, self._limits[item.nodeid])
        try:
            return (yield)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
