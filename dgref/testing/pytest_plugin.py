"""`pytest --dgref-backend torch --dgref-suite gemm`: every case of the suites on every backend is a test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

_SHOWN = 3  # reasons why nothing ran


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < 1e9:
        raise ValueError(f"--dgref-timeout: got {text}, need a positive number of seconds")
    return number


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options; without them the plugin does nothing."""
    group = parser.getgroup("dgref", "conformance of low-precision kernels")
    group.addoption(
        "--dgref-suite", action="append", default=[], metavar="SUITE", help="suite (name or TOML file); repeatable"
    )
    group.addoption("--dgref-backend", action="append", default=[], metavar="NAME", help="backend; repeatable")
    group.addoption("--dgref-timeout", type=_seconds, default=120.0, metavar="SECONDS", help="time limit of a case")
    group.addoption("--dgref-no-diagnosis", action="store_true", help="do not search for the cause of what is wrong")


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add one test for each case and backend."""
    suites, backends = config.getoption("--dgref-suite"), config.getoption("--dgref-backend")
    if bool(suites) != bool(backends):
        raise pytest.UsageError("--dgref-suite and --dgref-backend go together")
    if suites:
        items.extend(_items(session, suites, backends))


def _items(session: pytest.Session, suites: list[str], names: list[str]) -> Iterator[pytest.Item]:
    from dgref.backends import select
    from dgref.errors import DgrefError
    from dgref.runner import load_suites

    try:
        pairs = [(case, row.name) for row in select(names) for suite in load_suites(suites) for case in suite.cases]
    except DgrefError as error:
        raise pytest.UsageError(str(error)) from error
    for case, backend in pairs:
        yield ConformanceItem.from_parent(session, name=f"{backend}::{case.name}", case=case, backend=backend)


class ConformanceItem(pytest.Item):
    """One case on one backend."""

    def __init__(self, *, case: Any, backend: str, **options: Any):
        super().__init__(**options)
        self.case, self.backend = case, backend

    def runtest(self) -> None:
        """Run the case in a worker process shared by all cases, and raise for what is wrong."""
        from dgref import waivers
        from dgref.errors import ConformanceError
        from dgref.trial import Settings

        option = self.config.getoption
        settings = Settings(timeout=option("--dgref-timeout"), diagnose=not option("--dgref-no-diagnosis"))
        result = waivers.apply(_worker(self.config).run(self.case, self.backend, settings), waivers.load())
        outcomes = self.config.__dict__.setdefault("_dgref_outcomes", [])
        outcomes.append(None if result.ran else result.reason)
        if not result.ran:
            pytest.skip(result.reason)
        if result.bad:
            lines = [result.reason, *(f"{word}: {line}" for word, line in result.notes)]
            raise ConformanceError("\n".join(lines))

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        """Show a conformance failure as its sentences, anything else as a traceback."""
        from dgref.errors import ConformanceError

        if isinstance(excinfo.value, ConformanceError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        """Say where the test is from: the case's name."""
        return self.path, None, self.name


def _worker(config: pytest.Config) -> Any:
    from dgref.worker import Worker

    if not hasattr(config, "_dgref_worker"):
        config._dgref_worker = Worker()
    return config._dgref_worker


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the worker process."""
    if hasattr(config, "_dgref_worker"):
        config._dgref_worker.stop()


def _reasons(config: pytest.Config) -> list[str]:
    """Return why each case did not run, where none did; nothing where one ran or none was asked for."""
    outcomes = getattr(config, "_dgref_outcomes", None) or [None]
    return [] if None in outcomes else outcomes


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a gate under which nothing ran: every case skipped is no evidence."""
    if _reasons(session.config) and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say why no case ran, which pytest shows with -rs only."""
    for reason, count in Counter(_reasons(config)).most_common(_SHOWN):
        terminalreporter.write_line(f"dgref: no case ran: {count} x {reason}")
