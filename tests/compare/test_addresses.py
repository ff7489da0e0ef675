"""Kernels that read elsewhere are asked where, and say so; right ones read everything where it belongs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from dgref.compare.address_alphabet import GARBLED, Alphabet
from dgref.compare.address_outputs import note, reads_of
from dgref.compare.address_parts import parts_of
from dgref.compare.address_report import Addresses, Finding
from dgref.compare.address_rules import UNASKED, UNREAD
from dgref.compare.addresses import read_addresses
from dgref.compare.diagnosis import Diagnosis, diagnose
from dgref.compare.hypotheses import HYPOTHESES, Scene, State
from dgref.compare.hypotheses.scale_layout import read_as
from dgref.compare.prediction import compute
from dgref.errors import UnsupportedError
from dgref.formats import FORMATS, ScaledTensor
from dgref.ops import OPS
from dgref.ops.typical import operands_of, typical_arithmetic
from dgref.suite import Case, InputChoice, OperandChoice, load

Change = Callable[[State], State]


def product(recipe: str, layout: str | None = None, b: str | None = None, **changes) -> Case:
    operands = {"a": OperandChoice(recipe, layout), "b": OperandChoice(b or recipe, None if b else layout)}
    case = Case("by-hand", "a test", "gemm", {"m": 136, "n": 144, "k": 512}, operands, out="float32")
    return replace(case, **changes)


FP32 = product("deepseek_fp8", "mn_major_tma", "deepseek_fp8_weight")
MX = product("mxfp8", "swizzle_128x4", shape={"m": 136, "n": 144, "k": 256})
FP4 = product("mxfp4", "swizzle_128x4")
MASKED = product("deepseek_fp8", op="gemm_grouped_masked", shape={"g": 3, "m": 40, "n": 48, "k": 256})
K_GROUPS = product("deepseek_fp8", "mn_major_tma", op="gemm_grouped_k", shape={"g": 3, "m": 136, "n": 144, "k": 768})
K_ENDS = replace(K_GROUPS, params={"psum": True, "alignment": 192})  # a column of scales is no multiple of 128 along K
BATCHED = product("deepseek_fp8", b="deepseek_fp8_weight", op="einsum", shape={"batch": 3, "m": 24, "n": 136, "k": 256})
SPLITS = Case("splits", "a test", "hc_prenorm", {"m": 72, "n": 24, "k": 512}, params={"num_splits": 3})


def batched(expression: str) -> Case:
    return product(
        "bfloat16", op="einsum", shape={"batch": 3, "m": 24, "n": 40, "k": 128}, params={"expression": expression}
    )


CASES = [
    *load("fingerprint").cases,
    product("bfloat16", params={"head_splits": [8, 4, 9]}),
    product("nvfp4", out="bfloat16", params={"accumulate": True}),
    K_GROUPS,
    K_ENDS,
    replace(K_GROUPS, params={"groups": "empty", "alignment": 200, "accumulate": True}),
    product("bfloat16", op="gemm_grouped_k", shape=K_GROUPS.shape, params={"groups": "skewed"}),
    BATCHED,
    *(batched(expression) for expression in ("bhr,hdr->bhd", "bhd,hdr->bhr", "bhd,bhr->hdr")),
    SPLITS,
]


def asked(case: Case, *changes: Change) -> Addresses:
    """Return what is found out about a kernel that computes a case after some changes to its inputs."""
    arithmetic = typical_arithmetic(case.op, operands_of(case))

    def launch(inputs: dict) -> dict[str, np.ndarray]:
        state = State(case, dict(inputs), arithmetic)
        for change in changes:
            state = change(state)
        with np.errstate(all="ignore"):
            return OPS[case.op].compute(state.case, state.inputs, arithmetic)

    return read_addresses(case, launch)


def moved(name: str, part: str, how: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Return the change that moves an operand's scales or payload."""

    def tensor(old: ScaledTensor) -> ScaledTensor:
        if part == "scales":
            return old.with_scale(np.ascontiguousarray(how(np.asarray(old.scale))))
        return replace(old, data=np.ascontiguousarray(how(np.asarray(old.data))))

    return lambda state: state.put(name, tensor(state.inputs[name]))


def finding(found: Addresses, operand: str, part: str) -> Finding:
    return next(row for row in found.findings if (row.operand, row.part) == (operand, part))


@pytest.mark.parametrize("case", CASES)
def test_a_right_kernel_reads_everything_where_it_belongs(case: Case) -> None:
    wide = {"m": 40 if case.op == "gemm" else 136, "n": 136, "k": 256}
    found = asked(replace(case, shape={axis: wide.get(axis, extent) for axis, extent in case.shape.items()}))
    assert found.in_place, found.lines()
    assert not found.alternatives
    assert ("c: not asked, as it was zero in every launch" in found.lines()) == bool(case.params.get("accumulate"))


def stride(extra: int) -> Callable[[np.ndarray], np.ndarray]:
    """A column-major buffer whose columns are read further apart than they lie; zeros are behind it."""

    def read(grid: np.ndarray) -> np.ndarray:
        buffer = np.zeros(grid.size + grid.shape[1] * extra, grid.dtype)
        buffer[: grid.size] = grid.T.reshape(-1)
        row, column = np.indices(grid.shape)
        return buffer[column * (grid.shape[0] + extra) + row]

    return read


def rows(order: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda grid: grid[..., order(np.arange(grid.shape[-2])), :]


def turned_bits(row: np.ndarray) -> np.ndarray:
    return row // 8 * 8 + (row % 8 >> 1) + (row % 2) * 4


def bits_across(grid: np.ndarray) -> np.ndarray:
    """The lowest bits of row and block exchanged."""
    row, block = np.indices(grid.shape)
    return grid[row & ~1 | block & 1, block & ~1 | row & 1]


@pytest.mark.parametrize(
    ("case", "part", "how", "words"),
    [
        (FP32, "scales", rows(lambda i: i ^ 1), "(row, block) reads (row xor 1, block)"),
        (FP32, "scales", lambda g: np.roll(g, 1, 0), "(row, block) reads ((row - 1) mod 136, block)"),
        (FP32, "scales", lambda g: g[:, np.arange(4) // 2], "(row, block) reads (row, block // 2)"),
        (FP32, "scales", lambda g: g[:, [3] * 4], "(row, block) reads (row, 3)"),
        (FP32, "scales", rows(lambda i: np.minimum(i + 2, 135)), "(row, block) reads (min(row + 2, 135), block)"),
        (FP32, "scales", lambda g: np.pad(g, ((0, 2), (0, 0)))[2:], "(row, block) reads (row + 2, block)"),
        (
            FP32,
            "scales",
            stride(3),
            "(row, block) is read at address row + 139 * block where it lies at row + 136 * block (mn_major_tma)",
        ),
        (FP32, "scales", lambda g: g.T.reshape(g.shape), "linear"),
        (
            MX,
            "scales",
            rows(turned_bits),
            "(row, block) reads (row with bit 0 from bit 1, bit 1 from bit 2, bit 2 from bit 0, block)",
        ),
        (
            MX,
            "scales",
            rows(lambda i: i // 8 * 8 + np.array([0, 3, 1, 2, 4, 6, 7, 5])[i % 8]),
            "(row, block) reads (row - row mod 8 + (0, 3, 1, 2, 4, 6, 7, 5)[row mod 8], block)",
        ),
        (
            MX,
            "scales",
            bits_across,
            "(row, block) reads where bit 0 of row is bit 0 of block, bit 0 of block is bit 0 of row",
        ),
        (MX, "scales", read_as("swizzle_128x4", "linear"), "packed as swizzle_128x4, the grid is read as linear"),
        (MASKED, "scales", lambda g: np.roll(g, 1, 0), "(group, row, block) reads ((group - 1) mod 3, row, block)"),
        (MASKED, "payload", lambda g: g[[0, 0, 0]], "(group, row, k) reads (0, row, k)"),
        (FP4, "payload", rows(lambda i: i ^ 4), "(row, k) reads (row xor 4, k)"),
        (K_GROUPS, "scales", rows(lambda i: i ^ 1), "(row, block) reads (row xor 1, block)"),
        (K_ENDS, "scales", lambda g: np.roll(g, 1, 1), "(row, block) reads (row, (block - 1) mod 5)"),
        (K_ENDS, "scales", stride(3), "row + 139 * block where it lies at row + 136 * block (mn_major_tma)"),
        (K_GROUPS, "payload", rows(lambda i: i ^ 4), "(row, k) reads (row xor 4, k)"),
        (BATCHED, "scales", lambda g: g[[1, 2, 0]], "(group, row, block) reads ((group + 1) mod 3, row, block)"),
        (SPLITS, "payload", rows(lambda i: i ^ 1), "(row, k) reads (row xor 1, k)"),
    ],
)
def test_what_is_read_elsewhere_is_a_rule(case: Case, part: str, how: Callable, words: str) -> None:
    found = asked(case, moved("a", part, how))
    assert found.confirmed and not found.in_place
    assert words in finding(found, "a", part).rule
    assert all(row.in_place for row in found.findings if row.operand == "b"), found.lines()


def test_a_random_permutation_has_no_rule_and_right_examples() -> None:
    order = np.random.default_rng(0).permutation(136 * 4)
    found = asked(FP32, moved("a", "scales", lambda g: g.reshape(-1)[order].reshape(g.shape)))
    row = finding(found, "a", "scales")
    assert (found.confirmed, row.rule) == (True, None)
    assert row.misplaced == np.count_nonzero(order != np.arange(order.size))
    assert len(row.examples) == 4
    for example in row.examples:
        place, read = (tuple(map(int, text.strip("()").split(", "))) for text in example.split(" reads "))
        assert np.ravel_multi_index(read, (136, 4)) == order[np.ravel_multi_index(place, (136, 4))]


@pytest.mark.parametrize(
    ("fault", "case"),
    [
        ("scale_major_swapped", FP32),
        ("scale_padding_missing", replace(FP32, shape={"m": 134, "n": 144, "k": 512})),
        ("scale_swizzle", MX),
        ("scale_permuted_not_interleaved", replace(MX, shape={"m": 256, "n": 160, "k": 256})),
        ("scale_byte_order", product("deepseek_fp8_ue8m0", "packed_ue8m0")),
        ("scale_of_neighbour", MX),
        ("scale_of_neighbour", MASKED),
        ("scale_of_neighbour", K_ENDS),
        ("scale_major_swapped", K_ENDS),
        ("scale_padding_missing", replace(K_GROUPS, shape={"g": 3, "m": 134, "n": 144, "k": 768})),
        ("scale_permuted_not_interleaved", replace(K_ENDS, shape={"g": 3, "m": 256, "n": 144, "k": 768})),
        ("scale_of_neighbour", BATCHED),
    ],
)
def test_injected_faults_of_addresses_are_rules_too(fault: str, case: Case) -> None:
    state = State(case, case.make_inputs(), None)
    variants = [row for row in HYPOTHESES[fault].misreadings(Scene(state)) if row.site == "a"]
    assert variants
    for variant in variants:
        found = asked(case, variant.change)
        row = finding(found, "a", "scales")
        assert found.confirmed, (variant.cause, found.lines())
        assert row.rule if row.misplaced else found.unknown, (variant.cause, found.lines())


def test_both_operands_at_once_are_told_apart() -> None:
    linear = read_as("swizzle_128x4", "linear")
    found = asked(MX, moved("a", "scales", linear), moved("b", "scales", rows(lambda i: i ^ 2)))
    assert found.confirmed
    assert finding(found, "a", "scales").rule == "packed as swizzle_128x4, the grid is read as linear"
    assert finding(found, "b", "scales").rule == "(row, block) reads (row xor 2, block)"
    assert finding(found, "a", "payload").misplaced == finding(found, "b", "payload").misplaced == 0


def test_rows_of_b_with_their_scales_are_not_laid_on_a() -> None:
    roll = rows(lambda i: (i + 1) % i.size)
    found = asked(FP4, moved("b", "payload", roll), moved("b", "scales", roll))
    assert found.confirmed and not found.alternatives
    assert finding(found, "b", "payload").rule == "(row, k) reads ((row + 1) mod 144, k)"
    assert finding(found, "b", "scales").rule == "(row, block) reads ((row + 1) mod 144, block)"
    assert all(row.in_place for row in found.findings if row.operand == "a")


def test_a_change_of_k_in_one_payload_may_be_one_in_the_other() -> None:
    swap = moved("b", "payload", lambda d: d.reshape(len(d), -1, 2)[..., ::-1].reshape(d.shape))
    found = asked(FP4, swap)
    assert found.confirmed
    assert finding(found, "a", "payload").rule == "(row, k) reads (row, k xor 1)"
    assert [(row.operand, row.rule) for row in found.alternatives] == [("b", "(row, k) reads (row, k xor 1)")]
    assert any(line.startswith("or, as no output can tell which: b's payload") for line in found.lines())


def finer_rows(state: State) -> State:
    """Weight scales read as if they were for 64 rows each."""
    b = state.inputs["b"]
    lines = np.minimum(np.arange(b.shape[0]) // 64, len(b.scale) - 1)
    return state.put("b", replace(b, scale=b.scale[lines], scaling=replace(b.scaling, block=(1, 128))))


def test_blocks_of_another_height_are_told_row_by_row() -> None:
    row = finding(asked(FP32, finer_rows), "b", "scales")
    assert row.rule == "(row, block) reads (min(row // 64, 1), block) where (row // 128, block) belongs"


def test_the_k_of_another_group_shows_in_both_payloads() -> None:
    def turned(tensor: ScaledTensor) -> ScaledTensor:
        data, scale = (
            np.ascontiguousarray(np.roll(array, by, 1)) for array, by in ((tensor.data, 256), (tensor.scale, 2))
        )
        return replace(tensor, data=data, scale=scale)

    case = replace(K_GROUPS, params={"alignment": 256})  # all groups alike
    found = asked(case, *(lambda state, name=name: state.put(name, turned(state.inputs[name])) for name in "ab"))
    assert found.confirmed
    for name in "ab":
        assert finding(found, name, "payload").rule == "(row, k) reads (row, (k - 256) mod 768)"
        assert finding(found, name, "scales").rule == "(row, block) reads (row, (block - 2) mod 6)"


def test_values_that_are_changed_name_no_wrong_address() -> None:
    twice = asked(FP32, moved("a", "scales", lambda g: g * np.float32(2)))
    assert not twice.confirmed and all(row.in_place for row in twice.findings)
    squared = asked(FP32, moved("a", "scales", lambda g: g * g))
    row = finding(squared, "a", "scales")
    assert (row.misplaced, squared.in_place) == (0, False)
    ignored = asked(FP32, moved("a", "scales", np.ones_like))
    assert finding(ignored, "a", "scales").decoded == 0
    assert "no output shows an address of them" in "\n".join(ignored.lines())
    assert ignored.lines()[-1].endswith("none of the 19,584 outputs depends on known addresses alone")


def test_what_is_zero_shows_no_address_and_is_laid_on_nobody_else() -> None:
    found = asked(FP32, moved("a", "scales", lambda g: np.where(np.arange(136)[:, None] < 128, g, np.float32(0))))
    assert found.confirmed and not found.in_place
    row = finding(found, "a", "scales")
    assert (row.asked, row.decoded, row.misplaced) == (544, 512, 0)
    assert "32 show no address, (128, 0) to (135, 3)" in row.sentence()
    assert all(row.in_place for row in found.findings if row.operand == "b")
    assert found.unknown == 8 * 144


@pytest.mark.parametrize("format", ["float8_e4m3fn", "float8_e5m2", "float4_e2m1fn", "bfloat16", "float8_e8m0fnu"])
def test_an_index_is_spelled_and_a_wrong_digit_is_noticed(format: str) -> None:
    alphabet = Alphabet.of(FORMATS[format], FORMATS["bfloat16"], FORMATS[format].signed)
    values = alphabet.spell((40, 50))
    assert np.array_equal(FORMATS[format].decode(FORMATS[format].encode(values[0])), values[0])
    assert np.array_equal(alphabet.number(values, 2000), np.arange(2000).reshape(40, 50))
    for place in range(len(values)):
        wrong = [np.roll(array, 1) if i == place else array for i, array in enumerate(values)]
        same = wrong[place] == values[place]
        assert (alphabet.number(wrong, 2000)[~same] == GARBLED).all()


def test_an_address_outweighs_silence_and_a_contradiction_stays() -> None:
    tensor = FP32.make_inputs()["a"]
    found, (part,) = np.full((136, 512), UNASKED, np.int64), parts_of(FP32, {"a": tensor})
    for shown in ([-1, 5], [7, 5], [8, 5], [7, 5]):  # by the outputs of two columns, launch after launch
        note(found, "a", part, np.array([0, 128]), np.broadcast_to(shown, (136, 2)))
    reads = reads_of(tensor, "scales", found, [part])
    assert np.array_equal(reads.found, np.broadcast_to([UNREAD, 5, UNASKED, UNASKED], (136, 4)))


def test_other_operations_are_refused() -> None:
    case = Case("logits", "a test", "mqa_logits", {"s": 8, "h": 32, "d": 32, "t": 16}, out="float32")
    with pytest.raises(UnsupportedError, match=r"addresses of: got mqa_logits, need gemm or .* \[a logit adds up all"):
        read_addresses(case, lambda inputs: {})
    with pytest.raises(UnsupportedError, match=r"addresses of: got bmk,bnk->mn, need one axis that is summed over"):
        asked(batched("bmk,bnk->mn"))
    with pytest.raises(UnsupportedError, match=r"addresses of a: got \(136, 0\), need elements"):
        asked(replace(FP32, shape={"m": 136, "n": 144, "k": 0}))


def test_plain_data_says_the_same() -> None:
    data = asked(FP32, moved("a", "scales", rows(lambda i: i ^ 1))).to_dict()
    assert (data["confirmed"], data["in_place"]) == (True, False)
    assert [row["rule"] for row in data["findings"] if not row["in_place"]] == ["(row, block) reads (row xor 1, block)"]


def recorded(case: Case, *changes: Change, arithmetic: bool = True) -> Diagnosis:
    """Return the diagnosis of one recorded output of a kernel that computes a case after some changes."""
    state = State(case, case.make_inputs(), typical_arithmetic(case.op, operands_of(case)))
    wrong = state
    for change in changes:
        wrong = change(wrong)
    return diagnose(case, state.inputs, compute(wrong), state.arithmetic if arithmetic else None)


TELLING = InputChoice("coordinate_exponents", 31)


@pytest.mark.parametrize(
    ("case", "operand", "how", "words"),
    [
        (FP32, "a", rows(lambda i: i ^ 1), "a's scales were read elsewhere ((row, block) reads (row xor 1, block));"),
        (FP32, "a", stride(3), "(mn_major_tma)), and 9 of them as zero; reading them so makes all 626,688 output bits"),
        (
            product("deepseek_fp8_ue8m0", b="deepseek_fp8_weight_ue8m0", shape={"m": 40, "n": 640, "k": 512}),
            "b",
            rows(lambda i: np.array([0, 3, 4, 1, 2])[i]),
            "b's scales were read elsewhere (by no simple rule: (1, 0) reads (3, 0), ",
        ),
        (MASKED, "a", rows(lambda i: i ^ 4), "((group, row, block) reads (group, row xor 4, block));"),
        (
            replace(K_ENDS, params={**K_ENDS.params, "groups": "single"}),
            "a",
            rows(lambda i: i ^ 4),
            "((row, block) reads (row xor 4, block));",
        ),
    ],
)
def test_a_recorded_output_of_unlike_scales_tells_which_were_read(
    case: Case, operand: str, how: Callable, words: str
) -> None:
    for declared in (True, False):
        found = recorded(replace(case, inputs=TELLING), moved(operand, "scales", how), arithmetic=declared)
        assert (found.status, found.hypothesis) == ("confirmed", "scale_addresses"), found.sentence
        assert words.partition("; reading")[0] in found.sentence
        assert declared is False or words in found.sentence


def test_blocks_of_another_height_are_told_by_a_recorded_output() -> None:
    found = recorded(replace(FP32, inputs=TELLING, shape={"m": 40, "n": 328, "k": 512}), finer_rows)
    assert "(min(row // 64, 2), block) where (row // 128, block) belongs" in found.sentence


@pytest.mark.parametrize(
    ("case", "how"),
    [
        (replace(MX, inputs=TELLING), rows(lambda i: i ^ 1)),  # 61 exponents for a thousand scales
        (replace(FP32, inputs=InputChoice("normal", 3)), rows(lambda i: i ^ 1)),  # sums, not products
        (replace(FP32, inputs=TELLING), lambda g: g * np.float32(1.25)),
        (replace(FP32, inputs=TELLING), lambda g: np.full_like(g, 3)),
    ],
)
def test_outputs_that_do_not_tell_name_no_address(case: Case, how: Callable) -> None:
    assert recorded(case, moved("a", "scales", how)).hypothesis != "scale_addresses"
