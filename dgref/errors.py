"""Every error that dgref raises on purpose.

DgrefError                      exit code 2
├── InputError (ValueError)     a value that cannot be used: shape, dtype, range, contradiction
│   ├── ShapeError              a shape or a rank that does not fit
│   ├── FormatError             codes, dtypes or scales that do not mean what was claimed
│   ├── LayoutError             a buffer or an address that a layout does not have
│   ├── SuiteError              a suite file, case or field
│   └── UnknownNameError (KeyError)   a name that no registry holds; suggests the nearest
├── FileError (OSError)         a file that is missing, corrupt, truncated or tampered with
├── BackendError (RuntimeError) exit code 1: a backend raised, or gave other outputs than asked for
├── CompileError (RuntimeError) a kernel that does not compile; carries the log
├── UnsupportedError (NotImplementedError)   exit code 3: this backend or architecture cannot do it
├── UnavailableError (RuntimeError)          exit code 3: a library, device or file set is absent
└── ConformanceError (AssertionError)        exit code 1: the bits are wrong

A message reads `subject: got X, need Y [context]`, so that the sentence alone is enough to act on.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from operator import index
from typing import Any


class DgrefError(Exception):
    """The base of all; `exit_code` is what the command line leaves with."""

    exit_code = 2


class InputError(DgrefError, ValueError):
    """A value that cannot be used."""


class ShapeError(InputError):
    """A shape or a rank that does not fit."""


class FormatError(InputError):
    """Codes, dtypes or scales that do not mean what was claimed."""


class LayoutError(InputError):
    """A buffer or an address that a layout does not have."""


class SuiteError(InputError):
    """A suite file, case or field that cannot be used."""


class UnknownNameError(InputError, KeyError):
    """A name that no registry holds."""

    __str__ = Exception.__str__  # KeyError would print the repr of the message


class FileError(DgrefError, OSError):
    """A file that is missing, corrupt, truncated or tampered with."""


class BackendError(DgrefError, RuntimeError):
    """What a backend raised, or outputs of other names, shapes or types than its case has."""

    exit_code = 1


class CompileError(DgrefError, RuntimeError):
    """A kernel that does not compile."""

    def __init__(self, message: str, log: str = ""):
        super().__init__(message)
        self.log = log


class UnsupportedError(DgrefError, NotImplementedError):
    """Something that this backend or architecture cannot do."""

    exit_code = 3


class UnavailableError(DgrefError, RuntimeError):
    """A library, device or set of files that is not here."""

    exit_code = 3


class ConformanceError(DgrefError, AssertionError):
    """Bits that are wrong."""

    exit_code = 1


def expected(subject: str, got: object, need: object, context: str = "") -> str:
    """Return the one sentence every message is made of."""
    return f"{subject}: got {got}, need {need}" + (f" [{context}]" if context else "")


_PLURALS = {"axis": "axes", "entry": "entries", "launch": "launches"}  # of nouns that take more than an s


def counted(count: int, noun: str) -> str:
    """Return a count and what is counted, in the plural unless it is one: "1 result", "2,000 results"."""
    return f"{count:,} {noun if count == 1 else _PLURALS.get(noun, f'{noun}s')}"


def every(count: int, noun: str) -> str:
    """Return what is said of all: "all 2,000 results", "the only result"."""
    return f"the only {noun}" if count == 1 else f"all {counted(count, noun)}"


_LONGEST_SHOWN = 60
_NAMES_SHOWN = 30


def shown(value: object) -> str:
    """Return a value as a message shows it: what Python writes where that is one short line, else its kind."""
    text = repr(value)
    return text if len(text) <= _LONGEST_SHOWN and "\n" not in text else f"a {type(value).__name__}"


def instance(subject: str, value: Any, kinds: Any, need: str, error: type[InputError] = InputError) -> Any:
    """Return a value that is of one of the kinds; any other is an error."""
    if not isinstance(value, kinds):
        raise error(expected(subject, shown(value), need))
    return value


def seconds(subject: str, value: Any) -> float:
    """Return a time as a float; what is no finite number of at least 0 is an error."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise InputError(expected(subject, shown(value), "a finite number of seconds"))
    return float(value)


def flag(subject: str, value: Any) -> bool:
    """Return a bool, NumPy's too; a text such as "no" would otherwise count as true."""
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):
        raise InputError(expected(subject, shown(value), "True or False"))
    return bool(value)


def _some_of(known: list[str]) -> str:
    shown = ", ".join(known[:_NAMES_SHOWN])
    return f"one of {shown}" + (f" and {len(known) - _NAMES_SHOWN} more" if len(known) > _NAMES_SHOWN else "")


def unknown_name(
    kind: str, name: object, known: Iterable[str], otherwise: str = "", context: str = ""
) -> UnknownNameError:
    """Return the error for a name that is not among `known`, with the nearest ones; without any, `otherwise` or all."""
    known = sorted(known)
    near = near_names(name.lower(), known) if isinstance(name, str) else []
    need = " or ".join(near) or otherwise or _some_of(known)
    return UnknownNameError(expected(kind, repr(name), need, context))


def near_names(name: str, known: list[str]) -> list[str]:
    """Return the names that are spelled alike, after those of which `name` is a part: as one of their words first."""
    longer = [one for one in known if len(name) > 2 and name in one]
    longer.sort(key=lambda one: (name not in re.split(r"[_./]", one), len(one)))
    return list(dict.fromkeys([*longer[:4], *get_close_matches(name, known, n=3, cutoff=0.5)]))


def choice(kind: str, name: str, known: Collection[str]) -> str:
    """Return a name that is among `known`; any other value is an error that suggests the nearest."""
    if not isinstance(name, str) or name not in known:
        raise unknown_name(kind, name, known)
    return name


def whole_number(
    subject: str, value: object, lowest: int = 0, highest: int | None = None, error: type[InputError] = InputError
) -> int:
    """Return an integer of any kind as an int; a bool, a float, text or one out of range is an error."""
    try:
        number = index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < lowest or (highest is not None and number > highest):
        upper = "up" if highest is None else f"to {highest}"
        raise error(expected(subject, repr(value), f"an integer from {lowest} {upper}"))
    return number


def whole_numbers(
    subject: str, values: Iterable[object], lowest: int = 0, error: type[InputError] = InputError
) -> tuple[int, ...]:
    """Return integers of any kind as ints; what is no sequence of them is an error."""
    try:
        members = list(values)
    except TypeError:
        raise error(expected(subject, repr(values), "a sequence of integers")) from None
    if {int}.issuperset(map(type, members)) and min(members, default=lowest) >= lowest:
        return tuple(members)  # as nearly always, and launches pay for each line here
    return tuple(whole_number(subject, member, lowest, error=error) for member in members)
