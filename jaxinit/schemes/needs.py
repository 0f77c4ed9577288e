"""What a scheme needs to know of a model: its depth, the roles that its rules name, what biases are
added to.

A scheme's `unmatched` asks here which of its rules match nothing, so that a study refuses it with
the line of code that settles it."""

from collections.abc import Sequence

from jaxinit.spec import Leaf

INTO_STREAM = ("attention_out", "ffn_out")  # kernels whose products join the residual stream
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


def branches(leaf: Leaf, scheme: str) -> int:
    """The number of residual branches of a leaf's model: two a block, attention and feed-forward,
    and one of convolutions. Raises: ValueError where the number of blocks is unknown."""
    in_a_block = 1 if "w" in leaf.dims else 2
    return in_a_block * blocks(leaf, scheme)


def block_index(leaf: Leaf, scheme: str) -> int:
    """The place of a leaf's block among the others, from 0. Raises: ValueError where the number of
    blocks is unknown, and a 0 may be a place that nobody has said."""
    blocks(leaf, scheme)
    return leaf.layer


def partner(leaf: Leaf, scheme: str) -> str:
    """The role of the kernel that a bias or a scale belongs to; empty for what belongs to none,
    such as norms' biases.

    Raises: ValueError for a bias of which nobody has said what it is added to: a query's has
    another size.
    """
    is_bias = leaf.role == "bias" and leaf.kind != "norm"
    is_single_number = not leaf.dims
    if is_bias and not leaf.partner and not is_single_number:
        raise ValueError(
            f"scheme {scheme!r} needs to know what the bias {leaf.name!r} is added to; say "
            f"declare(model, partners={{{leaf.name!r}: 'query'}}), if that is the product of a "
            "query"
        )
    return leaf.partner


def without_stream(leaves: Sequence[Leaf], also: Sequence[str] = ()) -> list[str]:
    """What a rule for residual branches misses in a model that has none, or some of whose roles are
    guesses.

    `also`: roles that it rules on besides those of the kernels into the stream.
    """
    roles = {leaf.role for leaf in leaves}
    if roles.isdisjoint(INTO_STREAM):
        hint = unsaid(leaves, INTO_STREAM)
        return hint or [f"the roles {' and '.join(INTO_STREAM)}"]
    # A model with one of these roles is a residual one, and then should have the others too.
    required = [(role,) for role in (*INTO_STREAM, *also)]
    return unsaid(leaves, *required)


def without_branches(leaves: Sequence[Leaf]) -> list[str]:
    """As `without_stream`, for a rule on every kernel of a branch but queries and keys."""
    return without_stream(leaves, ("value", "ffn_in"))


def without_index(leaves: Sequence[Leaf]) -> list[str]:
    """As `without_stream`, for a rule on the place of a block, which some models do not tell: those
    whose blocks are stacked in one array, or stand in no list."""
    missing = without_stream(leaves)
    into_stream = [leaf for leaf in leaves if leaf.role in INTO_STREAM and leaf.n_layers > 1]
    if any(leaf.layer > 0 for leaf in into_stream):
        return missing
    roles = [leaf.role for leaf in into_stream]
    for leaf in into_stream:
        is_stacked = leaf.dims.startswith(".") and leaf.shape[0] == leaf.n_layers
        if is_stacked or roles.count(leaf.role) > 1:
            return [
                *missing,
                f"the blocks after the first: of the {leaf.n_layers} blocks none but that of "
                f"parameter {leaf.name!r} is known; keep them in an nnx.List",
            ]
    return missing


def without_edges(leaves: Sequence[Leaf]) -> list[str]:
    """What a rule on the first and the last kernels misses in a model whose roles are guesses."""
    return unsaid(leaves, ("readout",), EDGES)


def unsaid(leaves: Sequence[Leaf], *groups: Sequence[str]) -> list[str]:
    """The groups of roles of which no leaf has any, where the role of some kernel is a guess.

    Where every role has been said, a role that is absent is no mistake: the model has none."""
    guessed = [leaf.name for leaf in leaves if leaf.role_assumed]
    roles = {leaf.role for leaf in leaves}
    absent = [group for group in groups if roles.isdisjoint(group)]
    if not guessed or not absent:
        return []
    alternatives = [" or ".join(group) for group in absent]
    missing = ", ".join(alternatives)
    first = guessed[0]
    remedy = (
        f"say declare(model, roles={{{first!r}: {absent[0][0]!r}, ...}}), or 'hidden' of kernels "
        "without such a role"
    )
    return [f"the roles {missing}, where nobody has said the role of parameter {first!r}; {remedy}"]


def without_gate(leaves: Sequence[Leaf]) -> list[str]:
    """What a rule for gated branches misses in a model that has none."""
    if any(leaf.role == "residual_gate" for leaf in leaves):
        return []
    return ["the role residual_gate (option gate)"]
