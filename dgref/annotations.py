"""What an argument may be, said by its annotation, and the error for one that is something else.

A correct call pays nothing for it: annotations are read when a call has failed, to say which argument it failed for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from operator import index
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from dgref.errors import DgrefError, FormatError, InputError, ShapeError, expected

SCALES = "scales"  # annotates a pair: the second of two tensors is the scales of the first

_RAW = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_AXES = {1: "one axis", 2: "two axes", 3: "three axes", 4: "four axes"}


def explained(function: Callable, name: str | None = None) -> Callable:
    """Let every error of a function name it, and name the argument that is not what its annotation says.

    `name` is what it is called, where that is not its own name.
    """

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options) if options else function(*arguments)
        except (DgrefError, *_RAW) as error:
            raise _explanation(function, call.__name__, arguments, options, error) from None

    call.__name__ = call.__qualname__ = name or function.__name__
    return call


def also_called(name: str, function: Callable) -> Callable:
    """Return an explained function under another name, which its errors then begin with."""
    return explained(function.__wrapped__, name)


def _explanation(
    function: Callable, name: str, arguments: tuple, options: dict[str, Any], error: Exception
) -> Exception:
    """Return an error of dgref's for one that a call raised; the same one where nothing is known to be amiss."""
    found = error if isinstance(error, DgrefError) else _amiss(function, arguments, options)
    if found is None:
        own = f"{function.__qualname__}()"  # begins Python's sentence about arguments that are missing or too many
        if isinstance(error, TypeError) and str(error).startswith(own):
            error.args = (str(error).replace(own, f"{name}()", 1),)
        return error
    found.sentence = getattr(found, "sentence", str(found))  # an outer function renames what an inner one raised
    found.args = (f"{name}: {found.sentence}",)
    return found


def _amiss(function: Callable, arguments: tuple, options: dict[str, Any]) -> DgrefError | None:
    """Return the error for the first argument that is not what the annotation of its parameter says."""
    try:
        given = signature(function).bind(*arguments, **options).arguments
    except TypeError:  # too many arguments or too few: Python's own sentence says which
        return None
    import torch  # files that only annotate with it need not import it

    hints = get_type_hints(function, localns={"torch": torch}, include_extras=True)
    try:
        for name in given:  # in their order: the first is named
            check(name, given[name], hints.get(name))
    except DgrefError as error:
        return error
    return None


def check(subject: str, value: Any, hint: Any) -> None:
    """Raise unless a value is what a type says; `Annotated[torch.Tensor, 2]` is a tensor of two axes."""
    import torch

    kind, axes = _unwrapped(hint)
    origin, parts = get_origin(kind), get_args(kind)
    if kind is torch.Tensor:
        _check_tensor(subject, value, axes)
    elif origin in (Union, UnionType):
        if value is not None or NoneType not in parts:
            check(subject, value, _alternative(value, [part for part in parts if part is not NoneType]))
    elif origin in (tuple, list):
        _check_members(subject, value, kind, SCALES in axes)
    elif kind is int:
        _check_integer(subject, value)
    elif kind is bool:
        if getattr(value, "ndim", 0):
            raise InputError(expected(subject, described(value), "True or False"))
    elif isinstance(kind, type) and not isinstance(value, (float, int) if kind is float else kind):
        raise InputError(expected(subject, described(value), kind.__name__))


def _unwrapped(hint: Any) -> tuple[Any, tuple]:
    """Return a type and what `Annotated` adds to it."""
    return (get_args(hint)[0], get_args(hint)[1:]) if get_origin(hint) is Annotated else (hint, ())


def _alternative(value: Any, hints: list[Any]) -> Any:
    """Return the one of several types that a value seems to be meant as: a tuple where it is one."""
    pair = isinstance(value, tuple | list)
    return next((hint for hint in hints if (get_origin(_unwrapped(hint)[0]) is tuple) == pair), hints[0])


def described(value: Any) -> str:
    """Return a value as a message shows it: tensors by type and shape, anything long by its kind."""
    import torch

    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {list(value.shape)}"
    text = repr(value)
    return text if len(text) <= 40 and "\n" not in text else type(value).__name__


def kind_of(value: Any) -> str:
    """Return the type of a value as a message names it: that of a tuple or a list with how many members it has."""
    kind = type(value).__name__
    return f"a {kind} of {len(value)}" if isinstance(value, tuple | list) else kind


def _check_tensor(subject: str, value: Any, axes: tuple[int, ...]) -> None:
    import torch

    if not isinstance(value, torch.Tensor):
        pair = isinstance(value, tuple | list) and bool(value) and isinstance(value[0], torch.Tensor)
        hint = " alone: this function takes no scales" if pair else ""
        raise FormatError(expected(subject, described(value), f"a torch tensor{hint}"))
    if value.layout != torch.strided or value.is_quantized:
        kind = value.dtype if value.is_quantized else value.layout
        raise FormatError(expected(subject, f"a tensor of {kind}", "a dense tensor"))
    if value.is_meta:
        raise InputError(expected(subject, "a tensor on meta", "a tensor that holds values"))
    if axes and value.dim() not in axes:
        need = " or ".join(_AXES[count] for count in axes)
        raise ShapeError(expected(f"{subject} shape", list(value.shape), need))


def _check_members(subject: str, value: Any, kind: Any, scaled: bool) -> None:
    """Check a tuple or a list; those of (tensor, scales) are named as the operand and its scales."""
    import torch

    parts, fixed = get_args(kind), get_origin(kind) is tuple and get_args(kind)[-1] is not ...
    if not isinstance(value, tuple | list) or (fixed and len(value) != len(parts)):
        what = "integers" if parts[0] is int else "tensors"
        need = f"{len(parts)} {what}" if fixed else f"a sequence of {what}"
        got = kind_of(value) if isinstance(value, tuple | list | torch.Tensor) else described(value)
        raise FormatError(expected(subject, got, "a tuple (tensor, scales)" if scaled else need))
    for place, member in enumerate(value):
        name = (subject, f"{subject} scales")[place] if scaled else f"{subject}[{place}]"
        check(name, member, parts[place if fixed else 0])


def _check_integer(subject: str, value: Any) -> None:
    try:
        number = index(value)
    except TypeError:
        number = None
    if number is None or abs(number) >= 1 << 63:
        raise InputError(
            expected(subject, described(value), "an integer" if number is None else "an integer of 64 bits")
        )
