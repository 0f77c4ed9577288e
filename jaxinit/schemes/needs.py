"""What a scheme needs a model to say of itself: its depth, the roles that its rules name, what
biases belong to.

A scheme's `unmatched` asks here which of its rules match nothing, so that a study refuses it in a
line that settles it."""

from collections.abc import Sequence

from jaxinit.spec import Leaf

INTO_STREAM = (
    "attention_out",
    "ffn_out",
)  # the kernels whose products are added to the residual stream


SCALED_BRANCH = ("value", "attention_out", "ffn_in", "ffn_out")


TABLES = ("embedding", "position")


EDGES = ("input", *TABLES)  # kernels whose inputs do not grow with the width


def blocks(leaf: Leaf, scheme: str) -> int:
    """The number of blocks of a leaf's model. Raises: ValueError where it is unknown."""
    if not leaf.n_layers:
        raise ValueError(
            f"scheme {scheme!r} needs the number of blocks, which parameter {leaf.name!r} does not "
            "know; say declare(model, n_layers=12), if there are 12"
        )
    return leaf.n_layers


def partner(leaf: Leaf, scheme: str) -> str:
    """The role of the kernel that a bias or a scale belongs to; empty for what belongs to none,
    such as norms' biases.

    Raises: ValueError for a bias that is added to a product nobody has named: to the queries' it
    has another size.
    """
    bare = leaf.role == "bias" and not leaf.partner and leaf.kind != "norm" and leaf.dims
    if bare:
        raise ValueError(
            f"scheme {scheme!r} needs to know what the bias {leaf.name!r} is added to; say "
            f"declare(model, partners={{{leaf.name!r}: 'query'}}), if that is the product of a "
            "query"
        )
    return leaf.partner


def without_stream(leaves: Sequence[Leaf], also: Sequence[str] = ()) -> list[str]:
    """What a rule for residual branches misses in a model that has none, or some of whose roles
    nobody has said.

    `also`: roles that it rules on besides those of the kernels into the stream.
    """
    there = {leaf.role for leaf in leaves}
    if there & set(INTO_STREAM):
        return unsaid(leaves, *((role,) for role in (*INTO_STREAM, *also)))
    hint = unsaid(leaves, INTO_STREAM)
    return hint or [f"the roles {' and '.join(INTO_STREAM)}"]


def without_branches(leaves: Sequence[Leaf]) -> list[str]:
    """As `without_stream`, for a rule on every kernel of a branch but queries and keys."""
    return without_stream(leaves, ("value", "ffn_in"))


def without_edges(leaves: Sequence[Leaf]) -> list[str]:
    """What a rule on the first and the last kernels misses in a model whose roles nobody has
    said."""
    return unsaid(leaves, ("readout",), EDGES)


def unsaid(leaves: Sequence[Leaf], *groups: Sequence[str]) -> list[str]:
    """The groups of roles none of which is there, where a kernel's role is a guess that may hide
    it."""
    there = {leaf.role for leaf in leaves}
    guessed = next((leaf.name for leaf in leaves if leaf.role_assumed), None)
    absent = [group for group in groups if not there & set(group)]
    if guessed is None or not absent:
        return []
    roles = ", ".join(" or ".join(group) for group in absent)
    say = (
        f"say declare(model, roles={{{guessed!r}: {absent[0][0]!r}, ...}}), or 'hidden' of kernels "
        "without such a role"
    )
    return [f"the roles {roles}, where nobody has said the role of parameter {guessed!r}; {say}"]


def without_gate(leaves: Sequence[Leaf]) -> list[str]:
    """What a rule for gated branches misses in a model that has none."""
    return (
        []
        if any(leaf.role == "residual_gate" for leaf in leaves)
        else ["the role residual_gate (option gate)"]
    )
