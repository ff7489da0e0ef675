"""How one op of the table runs on kernels of dgref's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dgref.backends.base import Inputs, Kernel
from dgref.reference.arithmetic import Arithmetic
from dgref.suite import Case


@dataclass(frozen=True)
class CaseKernel:
    """Why a case is refused, what is declared of it, and how it is made ready; the flag asks for batch invariance."""

    refuses: Callable[[Case], str | None]
    arithmetic: Callable[[Case, bool], Arithmetic | str]
    prepare: Callable[[Case, Inputs, bool], Kernel]
    shape: Callable[[Case, bool], Any] | None = None  # what a kernel must have been configured for
