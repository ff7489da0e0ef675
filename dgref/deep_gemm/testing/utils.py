"""Which GPU tests run for, and decorators that filter them."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import torch

from dgref.deep_gemm.settings import SETTINGS


def get_arch_major() -> int:
    """Return the major compute capability of the GPU here; without one, of what CPU calls imitate."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_capability()[0]
    return int(SETTINGS.architecture.removeprefix("sm")) // 10


def test_filter(condition: Callable[[], bool]) -> Callable:
    """Run a test where `condition()` holds; print that it was filtered elsewhere."""

    def decorator(function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapper(*arguments: Any, **options: Any) -> None:
            if condition():
                function(*arguments, **options)
            else:
                print(f"{function.__name__}:\n > Filtered by {condition}\n")

        return wrapper

    return decorator


test_filter.__test__ = False  # pytest would collect it for its name


def ignore_env(name: str, condition: Callable[[], bool]) -> Callable:
    """Run a test without one environment variable where `condition()` holds."""

    def decorator(function: Callable) -> Callable:
        @functools.wraps(function)
        def wrapper(*arguments: Any, **options: Any) -> None:
            saved = os.environ.pop(name, None) if condition() else None
            try:
                function(*arguments, **options)
            finally:
                if saved is not None:
                    os.environ[name] = saved

        return wrapper

    return decorator


__all__ = ["get_arch_major", "ignore_env", "test_filter"]
