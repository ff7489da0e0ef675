"""A table of rows answers by name and alias, and says what it has when asked for what it has not."""

import pytest

from dgref.arch import ARCHITECTURES, Architecture
from dgref.errors import InputError, UnknownNameError
from dgref.formats import FORMATS, LAYOUTS, RECIPES
from dgref.ops import OPS
from dgref.registry import Registry

SM90, SM100 = ARCHITECTURES["sm90"], ARCHITECTURES["sm100"]


@pytest.fixture
def table() -> Registry[Architecture]:
    return Registry("architecture", [SM90], aliases={"hopper": "sm90"})


def test_an_alias_finds_the_row_of_its_name(table):
    assert table["hopper"] is table["sm90"] and "hopper" in table
    assert list(table) == ["sm90"] and len(table) == 1


@pytest.mark.parametrize("aliases", [["sm90"], ["hopper"]])
def test_no_alias_takes_a_name_that_has_another_row(table, aliases):
    with pytest.raises(InputError, match=f"architecture '{aliases[0]}': got registered twice"):
        table.add(SM100, *aliases)
    assert list(table) == ["sm90"]


def test_a_row_is_registered_once_and_an_alias_stands_for_a_row(table):
    with pytest.raises(InputError, match="registered twice"):
        table.add(SM90)
    with pytest.raises(UnknownNameError, match="sm91"):
        Registry("architecture", [SM90], aliases={"hopper": "sm91"})


@pytest.mark.parametrize(
    ("registry", "name", "nearest"),
    [
        (FORMATS, "float8_e4m3", "float8_e4m3fn"),
        (LAYOUTS, "swizle_128x4", "swizzle_128x4"),
        (RECIPES, "NVFP4", "nvfp4"),
        (RECIPES, "fp8", "deepseek_fp8 .*mxfp8 .*`dgref list recipes` shows all"),
        (OPS, "grouped", "gemm_grouped_k or gemm_grouped_masked or gemm_grouped_contiguous"),
    ],
)
def test_a_typo_is_answered_with_the_nearest_names(registry, name, nearest):
    with pytest.raises(UnknownNameError, match=f"got '{name}', need .*{nearest}"):
        registry[name]


@pytest.mark.parametrize("name", [None, 3, ["sm90"]])
def test_what_is_no_name_is_answered_with_all_of_them(table, name):
    with pytest.raises(UnknownNameError, match="need one of hopper, sm90"):
        table[name]
