"""A factor on every output, measured over all of them together: a remark about outputs that are within their bounds.

The mean ratio to exact of n elements is known sqrt(n) times better than the ratio of one, if their errors are as good
as independent. Truncation is biased toward zero: the published accumulators say how much, in one order of K. Inputs
that have a structure along K may give another order a gain of its own, so that no gain makes an output wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

Arrays = Mapping[str, np.ndarray]

_ENOUGH_IN_LINE = 32
_ENOUGH = 256  # different large elements; fewer may share one rounding error
_SURE = 8.0  # standard errors
_ROUNDED = 2.0**-8  # what rounding both operands to bf16 in the same direction could give
_UNLIKE_PEERS = 1.5  # times the bias of a published accumulator


@dataclass(frozen=True)
class Gain:
    """The mean ratio of an output to the exact one, over `count` large elements, and its standard error."""

    value: float
    error: float
    count: int
    part: str = "the outputs are"

    @property
    def margin(self) -> float:
        """How far the ratio may be from that of a right output."""
        return _ROUNDED + _SURE * self.error

    def sentence(self) -> str:
        """Return what it means."""
        size, sign = abs(self.value - 1), "large" if self.value > 1 else "small"
        return (
            f"{self.part} {size:.2%} too {sign} on average: the mean ratio to exact is {self.value:.5f} +- "
            f"{self.error:.5f} over {self.count:,} large elements, which no published accumulator explains"
        )


def measured(actual: np.ndarray, exact: np.ndarray, mask: np.ndarray | None = None) -> Gain | None:
    """Return the gain of an output; None where too few different elements are large enough to tell."""
    if exact.dtype.kind in "iub" or actual.shape != exact.shape or exact.dtype.itemsize < 2:
        return None
    observed, truth = (np.atleast_2d(side.astype(np.float64)) for side in (actual, exact))
    usable = np.isfinite(observed) & np.isfinite(truth) & (truth != 0)
    usable &= True if mask is None else np.atleast_2d(mask)
    if np.count_nonzero(usable) < _ENOUGH:
        return None
    usable &= np.abs(truth) >= np.median(np.abs(truth[usable]))
    ratios = observed[usable] / truth[usable]
    if np.unique(truth[usable]).size < max(_ENOUGH, ratios.size // 16):
        return None
    value, error = float(ratios.mean()), float(ratios.std() / np.sqrt(ratios.size))
    return Gain(value, error, ratios.size)


def unexplained(
    actual: Arrays, exact: Arrays, masks: Mapping[str, np.ndarray | None], peers: Iterable[Arrays]
) -> dict[str, Gain]:
    """Return the gain of each output that has one, unless one of the `peers`, outputs that are right, has it too."""
    found = {name: measured(actual[name], truth, masks.get(name)) for name, truth in exact.items() if name in actual}
    odd = {name: gain for name, gain in found.items() if gain and abs(gain.value - 1) > gain.margin}
    lines = {name: _line(actual[name], exact[name], masks.get(name)) for name in found.keys() - odd.keys()}
    lines = {name: gain for name, gain in lines.items() if gain and gain.value - 1 > gain.margin}
    if not odd and not lines:
        return {}
    for peer in peers:
        odd = {name: gain for name, gain in odd.items() if not _shared(gain, peer[name], exact[name], masks.get(name))}
        lines = {name: g for name, g in lines.items() if not _likewise(g, peer[name], exact[name], masks.get(name))}
    return lines | odd


def _line(actual: np.ndarray, exact: np.ndarray, mask: np.ndarray | None) -> Gain | None:
    """Return the gain of the row or column that is furthest from zero, beyond what its errors explain."""
    if exact.dtype.kind in "iub" or actual.shape != exact.shape or exact.dtype.itemsize < 2:
        return None
    if exact.ndim < 2 or not exact.size:
        return None
    observed, truth = (side.astype(np.float64).reshape(-1, side.shape[-1]) for side in (actual, exact))
    usable = np.isfinite(observed) & np.isfinite(truth) & (truth != 0)
    usable &= True if mask is None else np.broadcast_to(mask, exact.shape).reshape(truth.shape)
    truth = np.where(usable, truth, 0.0)
    ratios = np.divide(observed, truth, out=np.zeros_like(truth), where=usable)
    found = [_furthest(ratios, truth, "row"), _furthest(ratios.T, truth.T, "column")]
    return max((gain for gain in found if gain), key=lambda gain: gain.value - gain.margin, default=None)


def _furthest(ratios: np.ndarray, truth: np.ndarray, kind: str) -> Gain | None:
    """Return the gain of one row: of its elements that are not small beside the others."""
    large = (truth != 0) & (np.abs(truth) >= np.sqrt(np.square(truth).mean(1, keepdims=True)) / 2)
    counts = large.sum(1)
    rows = np.flatnonzero(counts >= _ENOUGH_IN_LINE)
    if not rows.size:
        return None
    ratios, large, counts = ratios[rows], large[rows], counts[rows]
    means = (ratios * large).sum(1) / counts
    spread = np.sqrt((np.square(ratios - means[:, None]) * large).sum(1) / (counts - 1))
    chance = np.sqrt(1 + 2 * np.log(rows.size) / _SURE**2)  # the largest of so many is further out
    errors = chance * np.maximum(spread, np.median(spread)) / np.sqrt(counts)
    best = int(np.argmax(means - _SURE * errors))
    if np.unique(truth[rows[best]][large[best]]).size < _ENOUGH_IN_LINE // 2:
        return None
    part = f"the elements of {kind} {rows[best]} of those judged are"
    return Gain(float(means[best]), float(errors[best]), int(counts[best]), part)


def _likewise(gain: Gain, peer: np.ndarray, exact: np.ndarray, mask: np.ndarray | None) -> bool:
    """Return whether some line of a right output has a gain in the same direction, of nearly that size."""
    own = _line(peer, exact, mask)
    return own is not None and gain.value - 1 <= _UNLIKE_PEERS * max(own.value - 1, 0.0) + gain.margin


def _shared(gain: Gain, peer: np.ndarray, exact: np.ndarray, mask: np.ndarray | None) -> bool:
    own = measured(peer, exact, mask)
    if own is None:
        return True
    likewise = (own.value - 1) * (gain.value - 1) > 0
    return likewise and abs(gain.value - 1) <= _UNLIKE_PEERS * abs(own.value - 1) + gain.margin
