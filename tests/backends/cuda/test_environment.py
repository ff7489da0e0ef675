from __future__ import annotations

from pathlib import Path

import pytest

from dgref.backends.cuda import environment
from dgref.errors import InputError, UnknownNameError


@pytest.mark.parametrize("name", environment.VARIABLES)
def test_our_prefix_wins_over_deep_gemms(name, monkeypatch):
    monkeypatch.setenv(f"DG_{name}", "theirs")
    assert environment.text(name) == "theirs"
    monkeypatch.setenv(f"DGREF_{name}", "ours")
    assert environment.text(name) == "ours"


def test_a_switch_that_is_neither_yes_nor_no_is_an_error(monkeypatch):
    monkeypatch.setenv("DG_JIT_DEBUG", "maybe")
    with pytest.raises(InputError, match="DG_JIT_DEBUG: got 'maybe', need 0 or 1"):
        environment.flag("JIT_DEBUG")


def test_an_unlisted_variable_is_never_read():
    with pytest.raises(UnknownNameError, match="JIT_CACHE_DIR"):
        environment.text("JIT_CACHE_DIRS")


def test_the_cache_folder_follows_xdg_and_is_overridden_by_our_variable(monkeypatch):
    for spelling in environment.VARIABLES["JIT_CACHE_DIR"].spellings:
        monkeypatch.delenv(spelling, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert environment.cache_folder() == Path("/somewhere/dgref")
    monkeypatch.setenv("DG_JIT_CACHE_DIR", "/elsewhere")
    assert environment.cache_folder() == Path("/elsewhere")


def test_the_page_about_the_jit_names_every_variable():
    page = (Path(__file__).parents[3] / "docs/jit.md").read_text()
    assert [name for name in environment.VARIABLES if f"`{name}`" not in page] == []
