"""Ranges of keys, context lengths, block tables and routes that the rows make obey the contracts of kernels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgref.ops import OPS
from dgref.ops.attention import RANGES
from dgref.ops.moe import ROUTES
from tests.ops.cases import MOE, MQA, PAGED, case

patterns = st.sampled_from(RANGES)


@settings(max_examples=40, deadline=None)
@given(s=st.integers(0, 9), t=st.integers(0, 30), keys=patterns, width=st.sampled_from([0, 5]), seed=st.integers(0, 9))
def test_ranges_lie_within_the_keys_and_the_compressed_width(s, t, keys, width, seed):
    row = case(
        "mqa_logits",
        {**MQA, "s": s, "t": t},
        params={"keys": keys, "max_seqlen_k": width, "clean": not width},
        seed=seed,
    )
    inputs = OPS["mqa_logits"].make_inputs(row)
    starts, ends = inputs["starts"], inputs["ends"]
    assert starts.shape == ends.shape == (s,)
    assert (starts >= 0).all() and (starts <= ends).all() and (ends <= t).all()
    assert not width or (ends - starts <= width).all()
    assert keys != "none" or (starts == ends).all()
    assert keys != "empty" or (starts == ends)[::2].all()


@settings(max_examples=40, deadline=None)
@given(keys=patterns, per_token=st.booleans(), page=st.sampled_from([1, 8, 32]), seed=st.integers(0, 9))
def test_every_page_is_used_once_and_the_last_token_sees_the_whole_sequence(keys, per_token, page, seed):
    params = {"keys": keys, "per_token": per_token}
    row = case("paged_mqa_logits", {**PAGED, "page": page}, params=params, seed=seed)
    inputs = OPS["paged_mqa_logits"].make_inputs(row)
    assert sorted(inputs["block_table"].ravel()) == list(range(inputs["kv_cache"].shape[0]))
    lengths = inputs["context_lens"]
    assert lengths.shape == ((3, 2) if per_token else (3,)) and (lengths >= 0).all() and (lengths <= 20).all()
    assert not per_token or (lengths <= lengths[:, -1:]).all()


@pytest.mark.parametrize("routes", ROUTES)
def test_routes_of_a_token_are_different_experts(routes):
    row = case("mega_moe", {**MOE, "tokens": 50}, params={"routes": routes})
    chosen = OPS["mega_moe"].make_inputs(row)["topk_idx"]
    assert (chosen >= -1).all() and (chosen < 4).all()
    assert all(len(set(used)) == len(used) for used in (slots[slots >= 0] for slots in chosen.reshape(-1, 2)))
    assert routes != "none" or (chosen == -1).all()
    assert routes != "skewed" or (chosen[..., 0] == 0).all()
    assert (routes in ("masked", "none")) == bool((chosen == -1).any())


def test_no_tokens_and_no_slots_are_shapes_like_others():
    for shape in ({**MOE, "tokens": 0}, {**MOE, "topk": 0}):
        for routes in ROUTES:
            row = case("mega_moe", shape, params={"routes": routes})
            op = OPS["mega_moe"]
            y = op.compute(row, op.make_inputs(row))["y"]
            assert y.shape == (2, shape["tokens"], 128) and not np.asarray(y, np.float32).any()
