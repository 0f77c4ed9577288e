"""Schemes refuse models that do not say what their rules need."""

import math
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from cases import every
from flax import nnx
from residual_nets import FEED, KEY, declared

from jaxinit import introspect
from jaxinit.introspect import declare, functional
from jaxinit.models import MLP
from jaxinit.schemes import SCHEMES
from jaxinit.schemes.mup import depth_mup, mup, spectral_mup, u_mup
from jaxinit.spec import Leaf, Rule, draw, rules

OF_BRANCHES = (
    "gpt2",
    "gpt2_blocks",
    "layer_index",
    "small_init_wang",
    "spike_no_more",
    "t_fixup",
    "fixup",
    "deepnorm",
    "t_fixup_encoder",
)


@pytest.mark.parametrize("name", OF_BRANCHES)
def test_a_rule_for_branches_is_refused_by_a_model_without(name: str) -> None:
    plain = functional(lambda: MLP(4, 8, 2, rngs=nnx.Rngs(0))).leaves
    message = r"the rules for \['the roles attention_out and ffn_out'\] match no parameter"
    with pytest.raises(ValueError, match=message):
        draw(SCHEMES[name], KEY, plain)


@pytest.mark.parametrize("name", every(3, of=OF_BRANCHES))
def test_unknown_depth_and_unknown_roles_are_refused_with_the_line_that_settles_them(
    name: str,
) -> None:
    scheme = SCHEMES[name]
    message = r"ffn_out.*nobody has said the role of parameter.*say declare\(model, roles="
    with pytest.raises(ValueError, match=message):
        rules(scheme, declared(n_layers=12))
    said = dict(FEED)
    if name == "fixup":
        said["head"] = "readout"
    unknown = (
        rf"'{name}' needs the number of blocks, which parameter 'blocks.0.*' does not know; "
        r"say declare\(model, n"
    )
    with pytest.raises(ValueError, match=unknown):
        rules(scheme, declared(roles=said))
    rules(scheme, declared(roles=said, n_layers=12))


def test_gpt2_knows_the_depth_that_was_said() -> None:
    known = declared(roles=FEED, n_layers=12)
    of_one_block = [leaf for leaf in known if leaf.layer == 3]
    drawn = draw(SCHEMES["gpt2"], KEY, of_one_block)
    for name in ("blocks.3.attention.out.kernel", "blocks.3.down.kernel"):
        assert float(np.std(drawn[name])) == pytest.approx(0.02 / math.sqrt(24), rel=0.05)


@pytest.mark.parametrize("name", ["nanochat", "speedrun"])
def test_recipes_that_name_no_depth_ask_for_roles_alone(name: str) -> None:
    with pytest.raises(ValueError, match=r"readout.*nobody has said the role of parameter"):
        rules(SCHEMES[name], declared(roles=FEED))
    rules(SCHEMES[name], declared(roles={**FEED, "head": "readout"}))


def test_a_rule_by_the_place_of_a_block_needs_to_know_it() -> None:
    """A place that nobody has said is 0, and all blocks would be drawn as the first."""
    apart = [Leaf(f"b{k}.out", (8, 8), "io", "ffn_out", layer=k, n_layers=3) for k in range(3)]
    attention = [replace(leaf, name=f"{leaf.name}.a", role="attention_out") for leaf in apart]
    rules(SCHEMES["layer_index"], [*apart, *attention])
    message = "the blocks after the first.*keep them in an nnx.List"
    placeless = [replace(leaf, layer=0) for leaf in [*apart, *attention]]
    with pytest.raises(ValueError, match=message):
        rules(SCHEMES["layer_index"], placeless)
    stacked = [
        replace(leaf, shape=(3, 8, 8), dims=".io", layer=0) for leaf in (apart[0], attention[0])
    ]
    with pytest.raises(ValueError, match=message):
        rules(SCHEMES["layer_index"], stacked)


class BareAttention(nnx.Module):
    """Kernels and biases side by side, which no layer puts in pairs."""

    def __init__(self, n: int):
        self.wq = nnx.Param(jnp.ones((n, n)))
        self.wk = nnx.Param(jnp.ones((n, n)))
        self.wv = nnx.Param(jnp.ones((n, n)))
        self.wo = nnx.Param(jnp.ones((n, n)))
        self.wr = nnx.Param(jnp.ones((n, n)))
        self.bq = nnx.Param(jnp.ones((n,)))
        self.bo = nnx.Param(jnp.ones((n,)))


BARE = {
    "wq": "query",
    "wk": "key",
    "wv": "value",
    "wo": "attention_out",
    "wr": "readout",
    "b?": "bias",
}
BIASES = {
    "mup": (mup(8), "bq"),
    "u_mup": (u_mup(8), "bq"),
    "spectral_mup": (spectral_mup(8), "bq"),
    "depth_mup": (depth_mup(SCHEMES["xavier_rnn"], 2), "bo"),
}


@pytest.mark.parametrize("name", BIASES)
def test_what_a_bias_is_added_to_is_asked_where_its_size_depends_on_that(name: str) -> None:
    scheme, scaled = BIASES[name]
    said: dict[str, Any] = {
        "dims": {"w?": "io", "b?": "o"},
        "roles": BARE,
        "n_layers": 4,
        "width": 16,
    }

    def rules_with(**partners: str) -> dict[str, Rule]:
        model = declare(BareAttention(16), **said, partners=partners)
        return rules(scheme, introspect.leaves(model))

    needs = (
        r"mup' needs to know what the bias 'bo' is added to; say declare\(model, partners={'bo': "
        r"'query'}\)"
    )
    with pytest.raises(ValueError, match=needs):
        rules_with(bq="query")
    by_name = rules_with(bq="query", bo="attention_out")
    (plain,) = {"bq", "bo"} - {scaled}
    assert by_name[plain].multiplier == 1
    assert by_name[scaled].multiplier == pytest.approx(2**-0.5)
