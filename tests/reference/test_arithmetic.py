"""Arithmetics are data: ranges partition K, JSON gives them back, nonsense is refused by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgref.errors import InputError, UnknownNameError
from dgref.reference.arithmetic import ARITHMETICS, Arithmetic, Lanes, sm90_fp8

_CORE = "sm90.wgmma.float8_e4m3fn"


@pytest.mark.parametrize("name", ARITHMETICS)
def test_every_preset_survives_json(name):
    arithmetic = ARITHMETICS[name]
    assert Arithmetic.from_dict(json.loads(json.dumps(arithmetic.to_dict()))) == arithmetic


@given(st.integers(0, 4000), st.integers(1, 40), st.sampled_from([1, 32, 64, 128]), st.sampled_from([0, 32, 128]))
def test_splits_and_chains_partition_k(k, splits, unit, interval):
    arithmetic = Arithmetic("test", _CORE, interval, splits=splits, split_unit=unit)
    spans = arithmetic.ranges(k)
    covered = [position for span in spans for chain in arithmetic.chains(*span) for position in range(*chain)]
    assert covered == list(range(k))
    assert len(spans) <= splits
    assert all(low % unit == 0 for low, _ in spans)


def test_uneven_splits_give_the_first_ranges_one_unit_more():
    assert Arithmetic("test", _CORE, splits=3, split_unit=64).ranges(448) == [(0, 192), (192, 320), (320, 448)]


def test_explicit_boundaries_win_over_a_count():
    assert sm90_fp8((256, 640)).ranges(1024) == [(0, 256), (256, 640), (640, 1024)]
    assert sm90_fp8((256, 640)).ranges(512) == [(0, 256), (256, 512)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"promotion": "fam"}, "promotion: got 'fam', need add or fma or multiply_add"),
        ({"scales": "outside"}, "scales: got 'outside', need none or product"),
        ({"interval": -1}, "interval: got -1, need an integer from 0"),
        ({"splits": 0}, "splits: got 0, need an integer from 1"),
        ({"boundaries": (128, 64)}, "boundaries: got \\(128, 64\\), need ascending K positions"),
        ({"boundaries": [64]}, "boundaries: got \\[64\\], need a tuple of K positions"),
        ({"interval": 1.5}, "interval: got 1.5, need an integer from 0 up"),
        ({"output_rounding": "up"}, "output_rounding: got 'up', need nearest_even or toward_zero"),
        ({"status": "proven"}, "status: got 'proven', need hardware or published"),
        ({"round_b": "tf23"}, "got 'tf23', need"),
        ({"partial": "bfloat61"}, "got 'bfloat61', need bfloat16"),
        ({"lanes": 4}, "lanes: got 4, need Lanes, or None"),
    ],
)
def test_nonsense_is_refused_by_name(fields, message):
    with pytest.raises(InputError, match=message):
        Arithmetic("test", _CORE, **fields)


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UnknownNameError, match=r"sm90\.wgmma\.float8_e4m3fn"):
        Arithmetic("test", "sm90.wgmma.float8_e4m3")
    with pytest.raises(UnknownNameError, match=r"deep_gemm\.sm90\.fp8_1d2d"):
        ARITHMETICS["deep_gemm.sm90.fp8_1d2"]
    with pytest.raises(InputError, match=r"fields \['intervall'\]"):
        Arithmetic.from_dict({"name": "x", "core": _CORE, "intervall": 3})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"step": "fam"}, "lanes step: got 'fam', need fma or add or pairs"),
        ({"precision": "float8"}, "lanes precision: got 'float8', need float32 or bfloat16"),
        ({"lanes": 0}, "lanes lanes: got 0, need an integer from 1"),
        ({"stride": 6}, "lanes stride: got 6, need a multiple of lanes \\* run, 4"),
        ({"shuffles": (1,)}, "lanes shuffles: got \\(1,\\), need distances of a butterfly that brings 4 sums together"),
        ({"sums": ()}, "lanes sums: got \\(\\), need distances of a butterfly that brings 2 sums together"),
    ],
)
def test_lanes_that_would_lose_a_part_of_the_sum_are_refused(fields, message):
    whole = {"lanes": 4, "stride": 8, "run": 1, "sums": (1,), "shuffles": (1, 2)}
    Lanes(**whole)
    with pytest.raises(InputError, match=message):
        Lanes(**whole | fields)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "arithmetic: got 3, need a mapping of fields"),
        ({"name": "x"}, "arithmetic: got no core, need every field"),
        ({"name": "x", "core": _CORE, "lanes": {"lanes": 1}}, "arithmetic lanes: got no stride and no run"),
        ({"name": "x", "core": _CORE, "lanes": {"strides": 1}}, r"arithmetic lanes: got fields \['strides'\]"),
    ],
)
def test_plain_data_that_is_no_arithmetic_is_refused(data, message):
    with pytest.raises(InputError, match=message):
        Arithmetic.from_dict(data)


def test_integers_of_any_kind_become_ints_that_json_takes():
    row = Arithmetic("x", "sm90.wgmma.bfloat16", np.int64(128), splits=np.int32(2), boundaries=(np.int64(64),))
    assert Arithmetic.from_dict(json.loads(json.dumps(row.to_dict()))) == row
