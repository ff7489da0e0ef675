"""Groups of rows or of K whose boundaries, labels or lengths were taken wrongly."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from dgref.compare.hypotheses.base import Misreading, Outputs, Scene, State, hypothesis, on
from dgref.compare.hypotheses.memory import blank, poisoned
from dgref.reference.operands import take

TILES = (256, 128, 64, 32, 16)


def _indexed(state: State, name: str, cause: str, how: Callable[[np.ndarray], np.ndarray], fix: str) -> Misreading:
    def change(s: State) -> State:
        array = np.asarray(s.inputs[name])
        return s.put(name, how(array).astype(array.dtype))

    return Misreading(cause, change, name, fix, "taking them so")


def _labels(scene: Scene) -> np.ndarray | None:
    """Return the label of each row of a contiguous grouped product, where it is given by labels."""
    state = scene.state
    if state.case.op != "gemm_grouped_contiguous" or state.case.params.get("psum"):
        return None
    return np.asarray(state.inputs["grouped_layout"])


def _groups(scene: Scene) -> int:
    return scene.state.inputs["b"].shape[0]


@hypothesis(30, likelihood=0.85)
def group_boundary_inside_tile(scene: Scene) -> Iterator[Misreading]:
    """One label read for a whole tile of rows in which a boundary lies."""
    labels = _labels(scene)
    for tile in TILES if labels is not None else ():
        changed = _by_tile(labels, tile)
        if tile < labels.size and (changed != labels)[labels >= 0].any():
            yield _indexed(
                scene.state,
                "grouped_layout",
                f"one label was read for every {tile} rows, though a group ends inside a tile",
                lambda x, tile=tile: _by_tile(x, tile),
                f"align every group to {tile} rows (padding rows labelled -1)",
            )


def _by_tile(labels: np.ndarray, tile: int) -> np.ndarray:
    first = labels[np.arange(labels.size) // tile * tile]
    return np.where(labels < 0, labels, np.where(first < 0, labels, first))


@hypothesis(31, likelihood=0.8)
def group_index_wrong(scene: Scene) -> Iterator[Misreading]:
    """Labels off by one group, or counted without the empty groups; -1 taken for a group."""
    labels, fix = _labels(scene), "pass the label of each row as an index into b, and skip -1"
    if labels is None or not (labels >= 0).any():
        return
    count = _groups(scene)
    used = np.unique(labels[labels >= 0])
    ways = {
        "every label was taken as one more than it is": lambda x: np.where(x < 0, x, (x + 1) % count),
        "every label was taken as one less than it is": lambda x: np.where(x < 0, x, (x - 1) % count),
        "every label but the last group's was taken as one more": lambda x: np.where(
            x < 0, x, np.minimum(x + 1, count - 1)
        ),
        "every label but 0 was taken as one less": lambda x: np.where(x < 0, x, np.maximum(x - 1, 0)),
        "groups were counted from the last": lambda x: np.where(x < 0, x, count - 1 - x),
        "every row was given to group 0": lambda x: np.where(x < 0, x, 0),
        "groups were counted without the empty ones": lambda x: np.where(x < 0, x, np.searchsorted(used, x)),
        "padding rows (-1) were given to group 0": lambda x: np.where(x < 0, 0, x),
        "padding rows (-1) were given to the last group": lambda x: np.where(x < 0, count - 1, x),
    }
    told = {labels.tobytes()}  # with few groups several ways give the same labels: the first says it
    for cause, how in ways.items():
        wrong = how(labels).astype(labels.dtype).tobytes()
        if wrong not in told:
            told.add(wrong)
            yield _indexed(scene.state, "grouped_layout", cause, how, fix)


@hypothesis(31, likelihood=0.69)
def weights_of_neighbour(scene: Scene) -> Iterator[Misreading]:
    """Each group of a masked product multiplied by the weights of another group."""
    if "masked_m" not in scene.state.inputs or _groups(scene) < 2:
        return
    last = _groups(scene) - 1
    ways = {
        "the group before (the first by its own)": lambda g: np.maximum(g - 1, 0),
        "the group before (the first by the last)": lambda g: (g - 1) % (last + 1),
        "the group after (the last by its own)": lambda g: np.minimum(g + 1, last),
        "the group after (the last by the first)": lambda g: (g + 1) % (last + 1),
        "group 0": lambda g: g * 0,
    }
    for which, how in ways.items():
        yield Misreading(
            f"every group was multiplied by the weights of {which}",
            on("b", lambda t, how=how: take(t, how(np.arange(last + 1)))),
            "b",
            "check the index of the group with which b and its scales are addressed",
        )


@hypothesis(31, likelihood=0.96)
def masked_m_wrong(scene: Scene) -> Iterator[Misreading]:
    """The number of rows of each group taken from another group."""
    if "masked_m" not in scene.state.inputs:
        return
    counts = np.asarray(scene.state.inputs["masked_m"])
    ways = {
        "masked_m was read one group too early": lambda x: np.roll(x, 1),
        "masked_m was read one group too late": lambda x: np.roll(x, -1),
        "the smallest masked_m was used for every group": lambda x: np.full_like(x, x.min()),
    }
    for cause, how in ways.items():
        if (how(counts) < counts).any():
            wrong = _rows_skipped(cause, lambda s, how=how: how(np.asarray(s.inputs["masked_m"])))
            yield wrong


def _rows_skipped(cause: str, counts: Callable[[State], np.ndarray]) -> Misreading:
    """Return a misreading under which rows past other counts keep what was there before."""

    def change(state: State) -> State:
        now = np.asarray(state.inputs["masked_m"])
        return state.put("masked_m", np.minimum(now, counts(state)).astype(now.dtype))

    def after(outputs: Outputs, observed: Outputs | None) -> Outputs:
        filled = {}
        for name, array in outputs.items():
            missing = blank(array) & (np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}") == 0)
            source = poisoned(array) if observed is None else np.where(blank(observed[name]), observed[name], array)
            filled[name] = np.where(missing, source, array)
        return filled

    fix = "pass masked_m as int32, one count a group, in the order of the groups; max_m at least the largest"
    return Misreading(cause, change, "masked_m", fix, "skipping the rows after them", after, elementwise=True)


@hypothesis(32, likelihood=0.97)
def max_m_below_rows(scene: Scene) -> Iterator[Misreading]:
    """A masked group has more rows than the kernel was told to expect, and the rest is skipped."""
    if "masked_m" not in scene.state.inputs:
        return
    top = int(np.asarray(scene.state.inputs["masked_m"]).max(initial=0))
    for limit in [m for m in (8, 16, 32, 64, 128, 192, 256) if m < top]:
        yield _rows_skipped(
            f"only the first {limit} rows of each group were computed",
            lambda s, m=limit: np.minimum(np.asarray(s.inputs["masked_m"]), m),
        )


@hypothesis(33, likelihood=0.7)
def ragged_metadata(scene: Scene) -> Iterator[Misreading]:
    """Ends, lengths or starts of ragged groups read as one another, or along the wrong axis."""
    state = scene.state
    if state.case.op in ("gemm_grouped_contiguous", "gemm_grouped_k") and state.case.params.get("psum"):
        fix = "with psum, pass the row at which each group ends; else lengths or labels"
        cause = "the ends of the groups were read as their lengths"
        yield _indexed(state, "grouped_layout", cause, lambda x: np.minimum(np.cumsum(x), _limit(state)), fix)
    if state.case.op == "gemm_grouped_k" and not state.case.params.get("psum"):
        fix = "pass the K of each group in the order of the groups"
        yield _indexed(state, "grouped_layout", "the lengths of the groups were read backwards", lambda x: x[::-1], fix)
        yield _indexed(state, "grouped_layout", "the lengths were read one group late", lambda x: np.roll(x, 1), fix)
    if "starts" in state.inputs:
        fix = "pass the first key of each row in starts, and the key after its last in ends"
        yield _indexed(state, "starts", "starts was ignored: every range began at key 0", np.zeros_like, fix)
        before, after = (lambda x: np.maximum(x - 1, 0)), (lambda x: x + 1)
        yield _indexed(state, "starts", "starts were read one key too early", before, fix)
        yield _indexed(state, "starts", "starts were read one key too late", after, fix)
        yield _indexed(state, "ends", "ends were read as the last key, one too late", lambda x: x + 1, fix)
        yield _indexed(state, "ends", "ends were read one key too early", lambda x: x - 1, fix)
    if "context_lens" in state.inputs:
        fix = "pass context_lens as [batch, next_n]"
        yield _indexed(state, "context_lens", "context_lens were read along the other axis", _other_axis, fix)
    if "block_table" in state.inputs:
        fix = "pass block_table as [batch, blocks], row-major"
        yield _indexed(state, "block_table", "the block table was read column by column", _other_axis, fix)


def _limit(state: State) -> int:
    return state.inputs["a"].shape[-2 if state.case.op == "gemm_grouped_contiguous" else -1]


def _other_axis(table: np.ndarray) -> np.ndarray:
    if table.ndim < 2:
        return table[::-1]
    return np.ascontiguousarray(table.T).reshape(table.shape)
