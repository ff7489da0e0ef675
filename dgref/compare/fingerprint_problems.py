"""What a search needs to know of one recorded output: samples of it, and the same elements under any arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np

from dgref.compare import fingerprint_space as space
from dgref.errors import InputError, ShapeError, UnsupportedError, expected
from dgref.formats.element import FORMATS
from dgref.formats.native import as_native, format_of, to_numpy
from dgref.formats.tensor import ScaledTensor
from dgref.reference import engine
from dgref.reference.arithmetic import Arithmetic
from dgref.reference.contraction import contract, finish
from dgref.reference.engine_operand import Operand, as_scaled
from dgref.reference.operands import take_rows
from dgref.reference.reductions import hc_square_sum, mqa_reduce

Sample = Literal["small", "medium", "all"]
_EXTENTS = {"small": (4, 8), "medium": (32, 48)}
_LIMIT = 1 << 34  # multiply-accumulates of one recomputation; larger outputs are compared on rows spread over them
_SCORES_AT_ONCE = 1 << 24


def plain_values(operand: Any) -> np.ndarray:
    """Return an operand without scales as float32."""
    return np.asarray(as_scaled(operand).values(), np.float32)


class Problem(Protocol):
    """One recorded output and the arithmetics that could have made it."""

    k: int

    def presets(self) -> list[Arithmetic]: ...
    def plans(self) -> list[Arithmetic]: ...
    def endings(self, plan: Arithmetic) -> Iterator[Arithmetic]: ...
    def splits(self, plan: Arithmetic) -> Iterator[Arithmetic]: ...
    def observed(self, sample: Sample) -> np.ndarray: ...
    def computed(self, arithmetic: Arithmetic, sample: Sample) -> np.ndarray: ...


class ChainStore:
    """Chains of one sample, kept: arithmetics that differ in promotion, splits or epilogue share them."""

    def __init__(self) -> None:
        self._chains: dict[tuple, np.ndarray] = {}

    def __call__(self, core: Any, a: Operand, b: Operand, span: tuple[int, int], seed: np.ndarray | None) -> np.ndarray:
        if seed is not None:
            return engine.chain(core, a, b, span, seed)
        key = (core.name, a.format, b.format, a.codes.shape, b.codes.shape, span)
        if key not in self._chains:
            self._chains[key] = engine.chain(core, a, b, span, None)
        return self._chains[key].copy()


def spread(extent: int, count: int) -> np.ndarray:
    """Return up to `count` indices spread over an axis, first and last included."""
    return np.unique(np.linspace(0, max(extent - 1, 0), min(count, extent)).round().astype(np.int64))


class Product:
    """d = c + a . b^T, the output in its own format."""

    def __init__(self, a: Any, b: Any, d: np.ndarray, c: Any = None, architecture: str | None = None):
        self.a, self.b, self.architecture = as_scaled(a), as_scaled(b), architecture
        self.d, self.c = d, None if c is None else np.asarray(to_numpy(c, "c"), np.float32)
        self.out, self.k = format_of(d).name, self.a.shape[-1]
        need = (self.a.shape[-2], self.b.shape[-2])
        if len(self.a.shape) != 2 or len(self.b.shape) != 2 or d.shape != need:
            raise ShapeError(expected("output", d.shape, f"{need} of a {self.a.shape} and b {self.b.shape}"))
        self._store = ChainStore()

    def presets(self) -> list[Arithmetic]:
        return space.presets(self.a, self.b, self.architecture)

    def plans(self) -> list[Arithmetic]:
        return space.plans(self.a, self.b, self.architecture)

    def endings(self, plan: Arithmetic) -> Iterator[Arithmetic]:
        return space.refinements(plan, self.c is not None)

    def splits(self, plan: Arithmetic) -> Iterator[Arithmetic]:
        return space.splits(plan, self.k)

    def _indices(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        height, width = self.d.shape
        everything = (max(_LIMIT // max(width * self.k, 1), 32), width)
        count = everything if sample == "all" else _EXTENTS[sample]
        return spread(height, count[0]), spread(width, count[1])

    def observed(self, sample: Sample) -> np.ndarray:
        return self.d[np.ix_(*self._indices(sample))]

    def computed(self, arithmetic: Arithmetic, sample: Sample) -> np.ndarray:
        if sample == "small":
            sums = contract(*self._small[:2], arithmetic, self._small[2], engine=self._store)
        else:
            rows, columns = self._indices(sample)
            sums = contract(self.a, self.b, arithmetic, self.c, rows=rows, columns=columns)
        return finish(sums, out=self.out, rounding=arithmetic.output_rounding)

    @cached_property
    def _small(self) -> tuple[ScaledTensor, ScaledTensor, np.ndarray | None]:
        """The operands of the small sample, cut out so that rounding them beforehand costs little."""
        rows, columns = self._indices("small")
        c = None if self.c is None else self.c[np.ix_(rows, columns)]
        return take_rows(self.a, rows), take_rows(self.b, columns), c


class Logits:
    """Indexer logits: scores of every head, reduced by lanes, where each row sees its own range of keys."""

    def __init__(self, inputs: Mapping[str, Any], logits: np.ndarray, architecture: str | None = None):
        kv = as_scaled(inputs["kv"])
        shared = kv.scale is not None and kv.scale.shape[-1] == 1
        self.q, self.scale = as_scaled(inputs["q"]), np.asarray(kv.scale[:, 0], np.float32) if shared else None
        self.kv = ScaledTensor(kv.data, kv.format) if shared else kv
        self.weights = plain_values(inputs["weights"])
        self.d, self.out, self.architecture, self.k = logits, format_of(logits).name, architecture, self.q.shape[-1]
        if logits.shape != (self.q.shape[0], self.kv.shape[0]):
            raise UnsupportedError(expected("logits", logits.shape, "one column for each key: not compressed"))
        self.visible = self._visible(inputs)
        self._scores: dict[Arithmetic, np.ndarray] = {}

    def _visible(self, inputs: Mapping[str, Any]) -> np.ndarray:
        keys = np.arange(self.kv.shape[0])
        starts, ends = (inputs.get(name) for name in ("starts", "ends"))
        low = 0 if starts is None else np.asarray(starts)[:, None]
        high = keys.size if ends is None else np.asarray(ends)[:, None]
        return np.broadcast_to((keys >= low) & (keys < high), self.d.shape)

    @cached_property
    def _small(self) -> tuple[np.ndarray, np.ndarray]:
        """The row that sees most, and a neighbour, with keys that both see."""
        rows = np.argsort(-self.visible.sum(1), kind="stable")[:2]
        keys = np.flatnonzero(self.visible[rows].all(0))
        if keys.size == 0:
            rows, keys = rows[:1], np.flatnonzero(self.visible[rows[0]])
        if keys.size == 0:
            raise InputError(expected("logits", "no visible key in any row", "at least one"))
        return rows, keys[spread(keys.size, 16)]

    def presets(self) -> list[Arithmetic]:
        return space.presets(self.q, self.kv, self.architecture, lanes=True)

    def plans(self) -> list[Arithmetic]:
        orders = space.lane_orders(self.scale is not None)
        flat = ScaledTensor(self.q.data.reshape(-1, self.k), self.q.format, *_flat_scale(self.q))
        return [plan.but(lanes=order) for plan in space.plans(flat, self.kv, self.architecture) for order in orders]

    def endings(self, plan: Arithmetic) -> Iterator[Arithmetic]:
        return space.refinements(plan, with_c=False)

    def splits(self, plan: Arithmetic) -> Iterator[Arithmetic]:
        return iter(())

    @cached_property
    def _rows(self) -> np.ndarray:
        tokens, heads, depth = self.q.shape
        return spread(tokens, max(_LIMIT // max(heads * depth * self.kv.shape[0], 1), 4))

    def observed(self, sample: Sample) -> np.ndarray:
        if sample == "small":
            return self.d[np.ix_(*self._small)]
        return self.d[self._rows][self.visible[self._rows]]

    def computed(self, arithmetic: Arithmetic, sample: Sample) -> np.ndarray:
        if sample == "small":
            return self._reduced(self._small_scores(arithmetic), *self._small, arithmetic)
        keys, heads = np.arange(self.kv.shape[0]), self.q.shape[1]
        step = max(_SCORES_AT_ONCE // max(heads * keys.size, 1), 1)
        parts = [self._rows[start : start + step] for start in range(0, self._rows.size, step)]
        logits = [self._reduced(self._scores_of(arithmetic, rows, keys), rows, keys, arithmetic) for rows in parts]
        return np.concatenate([part[self.visible[rows]] for part, rows in zip(logits, parts, strict=True)])

    def _reduced(self, scores: np.ndarray, rows: np.ndarray, keys: np.ndarray, arithmetic: Arithmetic) -> np.ndarray:
        scale = None if self.scale is None else self.scale[keys]
        sums = mqa_reduce(scores, self.weights[rows], scale, arithmetic)
        return finish(sums, out=self.out, rounding=arithmetic.output_rounding)

    def _small_scores(self, arithmetic: Arithmetic) -> np.ndarray:
        """Return the small sample's scores, computed once for arithmetics that differ in their lanes only."""
        product = arithmetic.but(name="", lanes=None, output_rounding="nearest_even", status="declared", source="")
        if product not in self._scores:
            self._scores[product] = self._scores_of(arithmetic, *self._small)
        return self._scores[product]

    def _scores_of(self, arithmetic: Arithmetic, rows: np.ndarray, keys: np.ndarray) -> np.ndarray:
        scale = None if self.q.scale is None else self.q.scale[rows]
        q = ScaledTensor(self.q.data[rows], self.q.format, scale, self.q.scaling)
        return contract(q, self.kv, arithmetic, columns=keys)


def _flat_scale(q: ScaledTensor) -> tuple[Any, Any]:
    return (None, None) if q.scale is None else (q.scale.reshape(-1, q.scale.shape[-1]), q.scaling)


class Squares:
    """Row sums of squares: only the order of lanes is open."""

    def __init__(self, a: Any, sums: np.ndarray, core: str):
        self.a, self.sums, self.core = as_scaled(a), sums, core
        self.k = self.a.shape[-1]

    def presets(self) -> list[Arithmetic]:
        return [Arithmetic("inferred", self.core, lanes=order) for order in space.lane_orders(scaled=False)]

    def plans(self) -> list[Arithmetic]:
        return []

    def endings(self, plan: Arithmetic) -> Iterator[Arithmetic]:
        return iter(())

    def splits(self, plan: Arithmetic) -> Iterator[Arithmetic]:
        return iter(())

    def observed(self, sample: Sample) -> np.ndarray:
        return self.sums[spread(len(self.sums), 4)] if sample == "small" else self.sums

    def computed(self, arithmetic: Arithmetic, sample: Sample) -> np.ndarray:
        rows = spread(len(self.sums), 4) if sample == "small" else np.arange(len(self.sums))
        return hc_square_sum(ScaledTensor(self.a.data[rows], self.a.format), arithmetic)[0]


def native(output: Any, format: str | None) -> np.ndarray:
    """Return a recorded output as a native array; integers are codes of `format`, or of their width's usual one."""
    array = to_numpy(output, "output")
    if array.dtype.kind != "u":
        return array
    usual = {2: "bfloat16", 4: "float32"}
    return as_native(array, FORMATS[format or usual.get(array.dtype.itemsize, "float8_e4m3fn")])
