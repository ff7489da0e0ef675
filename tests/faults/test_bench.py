"""A slice of the fault bench: injected faults are caught and named, correct results are never called wrong."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from dgref.cli.faults import command
from dgref.errors import UnknownNameError
from dgref.faults import bench, inject
from dgref.faults.bench import OTHERS, Bench, outcome_of
from dgref.faults.injectors import RUNNER_FAULTS, differ, injected_faults, misbehave
from dgref.faults.table import markdown, rows

SLICE = (
    "scale_truncated",
    "packer_mantissa_unmasked",
    "scale_exponent_offset",
    "global_scale_inverted",
    "scale_inverted",
    "argument_ignored",
    "float32_read_as_ue8m0",
    "e4m3_read_as_e8m0",
    "scale_swizzle",
    "scale_tile_crosses_groups",
    "nibble_order",
    "gate_up_order",
    "operands_swapped",
    "output_strides",
    "group_boundary_inside_tile",
    "max_m_below_rows",
    "ragged_metadata",
    "fast_accumulation",
    "k_tail_dropped",
    "other_convention",
)


@pytest.mark.parametrize("fault", SLICE)
def test_an_injected_fault_is_caught_and_named(fault: str) -> None:
    instance, _ = inject(fault, np.random.default_rng(7))
    assert differ(instance.state, instance.correct, instance.outputs)
    outcome = outcome_of(instance)
    assert outcome.caught
    assert outcome.third or outcome.same_bits, outcome
    assert outcome.names[0] == fault, outcome


@pytest.mark.parametrize("fault", RUNNER_FAULTS)
def test_a_fault_of_a_run_is_named_from_what_the_runner_observed(fault: str) -> None:
    outcome = outcome_of(misbehave(fault, np.random.default_rng(3)))
    assert outcome.caught and outcome.first


def test_correct_results_by_valid_arithmetics_are_never_called_wrong() -> None:
    result = bench(seed=11, instances=0, correct=14)
    assert result.correct >= 40
    assert result.alarms == [] and result.unnamed_orders == []
    assert result.ok


def test_the_same_seed_injects_the_same_bits() -> None:
    first, second = (inject("k_tail_dropped", np.random.default_rng(5))[0] for _ in range(2))
    assert first.state.case == second.state.case
    assert all(first.outputs[name].tobytes() == array.tobytes() for name, array in second.outputs.items())


def test_a_bench_without_named_faults_misses_its_bar() -> None:
    instance = misbehave("race", np.random.default_rng(0))
    missed = outcome_of(instance)
    missed.names = ["something_else"]
    assert not Bench(0, [missed]).ok
    assert not Bench(0, [], alarms=["one"]).ok
    assert not Bench(0, [], absent=["scale_swizzle"]).ok


def test_the_table_has_a_row_a_family_and_a_column_for_every_other_rule() -> None:
    result = bench(seed=1, instances=4, correct=0, only=("race", "silent_fallback"))
    table = rows(result)
    assert [row[0] for row in table] == ["Execution", "all"]
    assert all(rule in markdown(result) for rule in OTHERS)


def test_the_command_refuses_an_unknown_fault_and_prints_a_table() -> None:
    options = ["--instances", "2", "--correct", "0", "--only", "race", "--markdown"]
    result = CliRunner().invoke(command, options, standalone_mode=False)
    assert result.return_value == 0 and "| Execution | 2 | 2 | 2 | 2 |" in result.output
    refused = CliRunner().invoke(command, ["--only", "rase"], standalone_mode=False)
    assert isinstance(refused.exception, UnknownNameError) and "race" in str(refused.exception)


def test_the_command_says_beside_its_table_how_far_it_is(capsys: pytest.CaptureFixture) -> None:
    arguments = ["--instances", "26", "--correct", "0", "--only", "silent_fallback", "--markdown"]
    command.main(arguments, standalone_mode=False)
    said = capsys.readouterr()
    assert said.err == "25/26 done\n26/26 done\n" and said.out.startswith("| faults |")


def test_every_fault_but_valid_arithmetics_is_injected() -> None:
    assert "scale_byte_order" in injected_faults() and "reduction_order" not in injected_faults()


def test_every_fault_finds_a_case_in_which_it_changes_an_output_bit() -> None:
    assert [fault for fault in injected_faults() if inject(fault, np.random.default_rng(3))[0] is None] == []
