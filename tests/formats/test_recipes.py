"""Recipes are rows of data: complete, described, and varied without new code."""

import numpy as np
import pytest

from dgref.errors import UnknownNameError
from dgref.formats import FORMATS, RECIPES, quantize
from dgref.formats.conventions import CONVENTIONS
from dgref.formats.payloads import PAYLOADS
from dgref.formats.recipe_table import SECTIONS
from dgref.formats.rules import RULES

SCALED = [row for row in RECIPES.values() if row.scaling is not None]


@pytest.mark.parametrize("row", RECIPES.values(), ids=lambda row: row.name)
def test_a_recipe_names_only_rows_that_exist(row):
    assert row.format in FORMATS and row.description and row.source
    if row.scaling is not None:
        scaling = row.scaling
        assert scaling.scale_format in FORMATS and scaling.rule in RULES and scaling.payload in PAYLOADS
        assert scaling.convention is None or row.format in CONVENTIONS[scaling.convention].conversions


def test_the_names_that_people_know_are_there():
    known = {
        "deepseek_fp8": ("float8_e4m3fn", (1, 128), "float32"),
        "deepseek_fp8_weight": ("float8_e4m3fn", (128, 128), "float32"),
        "deepseek_fp8_ue8m0": ("float8_e4m3fn", (1, 128), "float8_e8m0fnu"),
        "deepseek_fp8_weight_ue8m0": ("float8_e4m3fn", (128, 128), "float8_e8m0fnu"),
        "mxfp8": ("float8_e4m3fn", (1, 32), "float8_e8m0fnu"),
        "mxfp8_e5m2": ("float8_e5m2", (1, 32), "float8_e8m0fnu"),
        "mxfp4": ("float4_e2m1fn", (1, 32), "float8_e8m0fnu"),
        "nvfp4": ("float4_e2m1fn", (1, 16), "float8_e4m3fn"),
    }
    for name, (format, block, scale_format) in known.items():
        row = RECIPES[name]
        assert (row.format, row.scaling.block, row.scaling.scale_format) == (format, block, scale_format)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_alone_is_a_recipe(name):
    assert RECIPES[name].format == name and RECIPES[name].scaling is None


def test_two_scaled_recipes_of_one_format_differ_unless_they_say_so():
    same = {("per_row_fp8", "per_channel_fp8"), ("nvfp4/flashinfer_fast_math", "nvfp4/flashinfer")}
    for i, first in enumerate(SCALED):
        for second in SCALED[i + 1 :]:
            if (first.name, second.name) not in same:
                assert (first.format, first.scaling) != (second.format, second.scaling), (first.name, second.name)


def test_an_unknown_recipe_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="nvfp4"):
        RECIPES["nvpf4"]


def test_a_recipe_can_be_varied_in_place():
    wide = RECIPES["mxfp4"].varied("mxfp4_64", block=(1, 64))
    assert quantize(np.ones((2, 128), np.float32), wide).scale.shape == (2, 2)


@pytest.mark.parametrize("name", SECTIONS)
def test_the_documented_tables_are_the_generated_ones(name, pytestconfig):
    text = (pytestconfig.rootpath / "docs" / "numerics-scaling.md").read_text()
    assert f"<!-- generated: {name} -->\n{SECTIONS[name]()}\n" in text, "run python -m dgref.formats.recipe_table"
