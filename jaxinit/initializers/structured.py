"""Initializers with a structure beyond a variance: sparse, spectral, convolutional, recurrent.

The layout is that of `initializers`: `(*window, inputs, outputs)`. All sample in float32 or wider
and cast last.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Inexact, Key
from scipy.linalg import hadamard

from jaxinit.initializers.basic import Mode, fan_of, orthogonal
from jaxinit.initializers.sampling import (
    Number,
    known,
    one_by_one,
    polar,
    real_dtype,
    root,
    sampled_wide,
    within,
)
from jaxinit.spec import Joint, Sampler

SQUARINGS = 14  # the spectral radius is read off the 2^14th power


@one_by_one
def _eigenvalues(symmetric: Array) -> Array:
    return jnp.linalg.eigvalsh(symmetric, symmetrize_input=False)


@one_by_one
def _singular_values(matrix: Array) -> Array:
    return jnp.linalg.svd(matrix, compute_uv=False)


@one_by_one
def _svd(matrix: Array) -> tuple[Array, Array, Array]:
    u, s, vt = jnp.linalg.svd(matrix)
    return u, s, vt


def delta_orthogonal(gain: Number = 1.0) -> Sampler:
    """A convolution whose central tap is orthogonal and whose other taps are 0: an isometry of
    every pixel.

    Shapes: `(*window, inputs, outputs)` with inputs <= outputs; the centre of a window is (size -
    1) // 2, where SAME padding puts it, so that no pixel is lost at the border of an even one
    either. Even windows have no centre where they are dilated, and another, size // 2, in a
    transposed convolution without `transpose_kernel`.
    Raises: ValueError for fewer than three axes, or inputs > outputs.
    Source: Xiao et al. (2018), algorithm 1.
    """

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        _check_window(shape, "delta_orthogonal")
        if shape[-2] > shape[-1]:
            raise ValueError(
                f"delta_orthogonal needs inputs <= outputs, got {shape[-2]} inputs and {shape[-1]} "
                "outputs; use orthogonal, or give the layer more outputs"
            )
        tap = orthogonal(gain)(key, shape[-2:], dtype)
        return _central(tap, shape)

    return sampled_wide(init)


def dirac(gain: Number = 1.0) -> Sampler:
    """A convolution whose central tap is the identity: the output repeats the input, channel by
    channel.

    Shapes: `(*window, inputs, outputs)`; the centre of a window is (size - 1) // 2, as SAME padding
    has it.
    Raises: ValueError for fewer than three axes.
    Source: Zagoruyko & Komodakis (2017), DiracNets.
    """

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        del key
        _check_window(shape, "dirac")
        tap = jnp.asarray(gain, dtype) * jnp.eye(*shape[-2:], dtype=dtype)
        return _central(tap, shape)

    return sampled_wide(init)


def sparse(k: int = 15, std: Number = 1.0, spectral_radius: Number | None = None) -> Sampler:
    """Every output unit has exactly k non-zero incoming weights, N(0, std^2); all others are 0.

    With `spectral_radius` the (square) matrix is then scaled to it, whatever `std`.
    Shapes: a matrix `(inputs, outputs)`, square for a spectral radius.
    Raises: ValueError for k < 1 or more than the inputs, another number of axes, or a radius asked
    of a matrix that is not square or that is nilpotent (radius 0: no scale helps; draw with another
    key or a larger k).
    Source: Martens (2010) section 5.1, 15 connections a unit; Sutskever et al. (2013) section 3 for
    the radius.
    """
    if k < 1:
        raise ValueError(
            f"sparse needs k, the incoming weights of a unit, to be 1 or more, got {k}"
        )

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        _check_matrix(shape, "sparse")
        if k > shape[0]:
            raise ValueError(
                f"sparse: k={k} non-zero weights of {shape[0]} inputs; give k of at most {shape[0]}"
            )
        place_key, weight_key = jax.random.split(key)
        # The ranks of random numbers are a random permutation: k of them in every column are below
        # k, in a program whose shapes do not depend on where.
        order = jnp.argsort(jax.random.uniform(place_key, shape, jnp.float32), axis=0)
        rank = jnp.argsort(order, axis=0)
        kept = rank < k
        weights = jnp.asarray(std, dtype) * jax.random.normal(weight_key, shape, dtype)
        w = jnp.where(kept, weights, 0)
        if spectral_radius is None:
            return w
        return _at_radius(w, spectral_radius, "sparse")

    return sampled_wide(init)


def gaussian_at_radius(spectral_radius: Number) -> Sampler:
    """A square Gaussian matrix scaled to a spectral radius.

    Raises: ValueError for a shape that is not a square matrix. Source: Jaeger (2001), echo state
    networks.
    """

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        w = jax.random.normal(key, shape, dtype)
        return _at_radius(w, spectral_radius, "gaussian_at_radius")

    return sampled_wide(init)


def positive_definite_identity() -> Sampler:
    """(A + I) / e with A = R^H R / n, R Gaussian and e the largest eigenvalue of A + I: all
    eigenvalues in (0, 1].

    Shapes: a square matrix; exactly symmetric, in complex dtypes Hermitian. Raises: ValueError for
    any other.
    Source: Talathi & Vartak (2016), np-RNN, section 3.
    """

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        _check_square(shape, "positive_definite_identity")
        r = jax.random.normal(key, shape, dtype)
        a = r.conj().T @ r / shape[0] + jnp.eye(shape[0], dtype=dtype)
        a = (a + a.conj().T) / 2  # exactly symmetric, which a product is but to rounding
        largest = _eigenvalues(a)[-1]  # they come in ascending order, and real
        return a / largest.astype(dtype)

    return sampled_wide(init)


def mimetic(side: Literal["left", "right"], alpha: Number, beta: Number) -> Joint:
    """One of two kernels of an attention whose product is alpha Z + beta I, Z ~ N(0, 1/d) of d x d,
    by its key.

    With U S V^T the singular value decomposition of alpha Z + beta I: left U S^(1/2), right V
    S^(1/2); their product is the matrix, or the best of the rank of a head. The two must be drawn
    with the same key (`spec.Rule.key`).
    Shapes: queries and keys `[heads, d, d / heads]`, where every head has a Z of its own; values
    and outputs have one for all heads: `mimetic_whole`. Source: Trockman & Kolter (2023), section
    3.
    """

    def draw(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        heads, d, rank = shape

        def of_head(head_key: Key[Array, ""]) -> Array:
            return _half(head_key, d, side, alpha, beta, dtype)[:, :rank]

        return jax.vmap(of_head)(jax.random.split(key, heads))

    return Joint(sampled_wide(draw))


def mimetic_whole(side: Literal["left", "right"], alpha: Number, beta: Number) -> Joint:
    """As `mimetic` for the values of all heads (left) and the output kernel (right), whose product
    is d x d.

    Raises: ValueError unless the heads' widths add up to d, as they do not with grouped queries.
    """

    def draw(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        # Values `[heads, d, width]`, outputs `[heads, width, d]` or `[heads * width, d]`.
        d = shape[-1] if side == "right" else shape[-2]
        if math.prod(shape) != d * d:
            raise ValueError(
                f"mimetic: values and outputs need heads whose widths add up to {d}, got shape "
                f"{shape}"
            )
        half = _half(key, d, side, alpha, beta, dtype)
        if side == "right":
            return half.T.reshape(shape)
        # The columns of a head lie side by side; what is stored has the heads in front.
        heads, _, width = shape
        return half.reshape(d, heads, width).transpose(1, 0, 2)

    return Joint(sampled_wide(draw))


def _half(
    key: Key[Array, ""], d: int, side: str, alpha: Number, beta: Number, dtype: DTypeLike
) -> Array:
    """U S^(1/2) or V S^(1/2) of alpha Z + beta I: `[d, d]`."""
    noise = jnp.asarray(alpha, dtype) * jax.random.normal(key, (d, d), dtype) / math.sqrt(d)
    identity = jnp.asarray(beta, dtype) * jnp.eye(d, dtype=dtype)
    u, s, vt = _svd(noise + identity)
    singular_vectors = u if side == "left" else vt.T
    return singular_vectors * jnp.broadcast_to(jnp.sqrt(s), (d, d))


def ring(low: Number = 0.0, high: Number = 1.0, phase: Number = 2 * math.pi) -> Sampler:
    """Complex numbers uniform on the ring low <= |z| <= high with angles in [0, phase): a diagonal
    recurrent matrix.

    |z|^2 = u (high^2 - low^2) + low^2, with u uniform on [0, 1).
    Shapes: any; dtype complex; the bounds hold to the rounding of |z|.
    Raises: ValueError unless 0 <= low < high, or for a dtype that is not complex.
    Source: Orvieto et al. (2023), LRU, lemma 3.2.
    """
    if known(low, high) and not 0 <= low < high:
        raise ValueError(f"ring needs radii 0 <= low < high, got low={low}, high={high}")

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        if not jnp.issubdtype(dtype, jnp.complexfloating):
            raise ValueError(
                f"ring draws complex numbers, got dtype {jnp.dtype(dtype)}; ask for complex64"
            )
        radius_key, angle_key = jax.random.split(key)
        real = jnp.finfo(dtype).dtype
        least = jnp.asarray(low**2, real)
        span = jnp.asarray(high**2 - low**2, real)
        square = jax.random.uniform(radius_key, shape, real) * span + least
        radius = jnp.sqrt(square)
        angle = jnp.asarray(phase, real) * jax.random.uniform(angle_key, shape, real)
        return polar(radius, angle)

    return Sampler(init, complex)


def hippo_legs(gain: Number = 1.0) -> Sampler:
    """The HiPPO-LegS state matrix, transposed to our layout: the optimal memory of a history in
    Legendre polynomials.

    A[n, k] = -sqrt((2 n + 1)(2 k + 1)) for n > k, -(n + 1) for n = k, 0 for n < k; the kernel is
    gain * A^T.
    Shapes: a square matrix. Raises: ValueError for any other. Source: Gu et al. (2020), theorem 2.
    """

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        del key
        _check_square(shape, "hippo_legs")
        # In NumPy's float64: the entries grow with n, and nothing here is random or traced.
        n = np.arange(shape[0], dtype=np.float64)
        root = np.sqrt(2 * n + 1)
        below_diagonal = np.tril(np.outer(root, root), -1)
        a = -below_diagonal - np.diag(n + 1)
        return jnp.asarray(gain, dtype) * jnp.asarray(a.T, dtype)

    return sampled_wide(init)


def zero_hadamard() -> Sampler:
    """ZerO: the (partial) identity where outputs <= inputs, else a Hadamard matrix between two
    partial identities.

    c I H I with H of size 2^m, m = ceil(log2(outputs)), c = 2^(-(m - 1) / 2). Nothing is random.
    Shapes: a matrix. Raises: ValueError for any other. Source: Zhao et al. (2022), algorithm 1.
    """

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        del key
        _check_matrix(shape, "zero_hadamard")
        inputs, outputs = shape
        if outputs <= inputs:
            return jnp.eye(inputs, outputs, dtype=dtype)
        m = math.ceil(math.log2(outputs))
        c = 2 ** (-(m - 1) / 2)
        # Between two partial identities: the first inputs and outputs of the Hadamard matrix.
        between = hadamard(2**m)[:inputs, :outputs]
        return jnp.asarray(c * between, dtype)

    return sampled_wide(init)


def sinusoidal(scale: Number = 1.0, mode: Mode = "fan_avg", copy_axes: int = 0) -> Sampler:
    """Every output unit is a sine wave over its inputs, of its own frequency and phase; not random.

    W[j, i] = a sin(2 pi i (j / n + 1 / m)) for inputs j = 0 ... n - 1 and outputs i = 1 ... m, with
    a such that the variance of all entries (the unbiased estimate) is scale / fan, as in
    `variance_scaling`; the defaults are Glorot's, 2 / (n + m).
    Shapes: `(*window, inputs, outputs)`, one wave over window and inputs; dtypes: real. With
    `copy_axes` the first axes are copies, such as gates or heads: the waves are counted on from
    copy to copy, m of all of them, since equal ones might stay equal; the fan is that of one.
    It has less than full rank where the sizes share a factor: (n - 1) // 2 where n = m, and inputs
    j = n - 1 and outputs i = n then have no weights. Where m >= n, all weights of unit i = n are
    alike.
    Raises: ValueError for fewer than two axes, and for at most 2 inputs and 2 outputs, where every
    entry is 0.
    Source: Fernandez-Hernandez et al. (2025), Sinusoidal Initialization, Time for a New Start, as
    their code has it, initialize.py (commit 9b601fb, 2025-12-04); as read last (commit 334f680,
    2026-04-28) it has He's variance, `sinusoidal(2.0, "fan_in")`. Departures: the fan out of a
    convolution counts its window, copies are as said above, and windows come before inputs.
    """

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        del key
        dtype = real_dtype(dtype, "sinusoidal")
        copies, kernel = shape[:copy_axes], shape[copy_axes:]
        if len(kernel) < 2:
            raise ValueError(
                "sinusoidal needs inputs and outputs, the last two axes of a kernel, got shape "
                f"{kernel}; for a bias use zeros"
            )
        n, m = math.prod(kernel[:-1]), math.prod(copies) * kernel[-1]
        if max(n, m) <= 2:
            raise ValueError(
                f"sinusoidal: with {n} inputs and {m} outputs every entry is 0; use another law "
                "for a kernel this small"
            )
        place = jnp.arange(n)[:, None]
        wave = jnp.arange(1, m + 1)[None, :]
        # The turns before the last one are left out as whole numbers, which no rounding touches.
        turns = (place * (wave % n) % n).astype(dtype) / n + wave.astype(dtype) / m
        w = jnp.sin(2 * math.pi * turns)
        target = jnp.asarray(root(scale / fan_of(kernel, mode)), dtype)
        w = target / jnp.std(w, ddof=1) * w
        # [inputs, copies, outputs] -> copies first
        apart = w.reshape(n, math.prod(copies), kernel[-1])
        return apart.transpose(1, 0, 2).reshape(shape)

    sampler = sampled_wide(init)
    if copy_axes:
        return Joint(sampler)
    return sampler


def spectral(norm: Number | None = None) -> Sampler:
    """A Gaussian kernel scaled to an operator norm: `norm`, or sqrt(outputs / inputs), which keeps
    entries of order 1.

    Shapes: a matrix. Raises: ValueError for any other, or a norm that is not positive.
    Source: Yang et al. (2023), A Spectral Condition for Feature Learning, condition 1.
    """
    if norm is not None and known(norm) and not norm > 0:
        raise ValueError(f"spectral needs a positive operator norm, got {norm}")

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        _check_matrix(shape, "spectral")
        w = jax.random.normal(key, shape, dtype)
        inputs, outputs = shape
        target = math.sqrt(outputs / inputs) if norm is None else norm
        drawn_norm = _singular_values(w)[0]
        factor = jnp.asarray(target, w.real.dtype) / drawn_norm
        return w * factor.astype(dtype)

    return sampled_wide(init)


def gate_biases(gates: tuple[str, ...], **values: Number) -> Joint:
    """Biases that are constant within a gate: `gate_biases(leaf.gate, forget=1.0)`; the gates not
    named get 0.

    Shapes: `(gates, units)`. Raises: ValueError for a gate that is not among `gates`.
    Source: Jozefowicz et al. (2015), section 5, for a forget bias of 1.
    """
    unknown = sorted(set(values) - set(gates))
    if unknown:
        raise ValueError(
            f"gate_biases: no gates are called {unknown}; the gates are "
            f"{', '.join(gates) or 'none'}"
        )

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        del key
        by_gate = [jnp.asarray(values.get(gate, 0.0), dtype) for gate in gates]
        other_axes = [1] * (len(shape) - 1)
        column = jnp.stack(by_gate).reshape(-1, *other_axes)
        return jnp.broadcast_to(column, shape)

    return Joint(init)


def chrono(gates: tuple[str, ...], longest: int | Number) -> Joint:
    """Chrono: forget biases log(u), u uniform on [1, longest - 1], input biases their negatives,
    all others 0.

    A unit then keeps its state for about u steps. For a GRU, whose update gate z keeps: its bias is
    log(u).
    Shapes: `(gates, units)`. Raises: ValueError for longest < 3, or gates without forget or update.
    Source: Tallec & Ollivier (2018), eq. 16. Our GRU keeps z, so the sign is that of a forget gate.
    """
    if known(longest) and longest < 3:
        raise ValueError(
            f"chrono needs the longest dependency to learn, 3 steps or more, got {longest}"
        )
    if "forget" in gates:
        keep = "forget"
    elif "update" in gates:
        keep = "update"
    else:
        raise ValueError(
            f"chrono needs a forget or an update gate, got {', '.join(gates) or 'none'}"
        )

    def init(key: Key[Array, ""], shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        wide = real_dtype(dtype, "chrono")
        time = jax.random.uniform(key, shape[1:], wide, 1.0, longest - 1.0)
        bias = jnp.log(time).astype(dtype)
        if known(longest):
            bias = within(bias, 0.0, math.log(longest - 1))
        # One time for all gates of a unit, so that it takes in what it makes room for.
        sign = {keep: 1.0}
        if keep == "forget":
            sign["input"] = -1.0
        return jnp.stack([sign.get(gate, 0.0) * bias for gate in gates])

    return Joint(init)


def spectral_radius(w: Inexact[Array, "n n"]) -> Float[Array, ""]:
    """The largest absolute eigenvalue of a square matrix, to about 1e-3, on any device and under
    jit and vmap.

    ||W^k||^(1/k) with k = 2^14 by repeated squaring, rescaled at every step (Gelfand's formula).
    """

    def square(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
        m, log_size = carry
        size = jnp.linalg.norm(m)
        # The matrix is kept at norm 1 and its size as a logarithm: a power overflows otherwise.
        m = m / jnp.where(size > 0, size, 1).astype(m.dtype)
        return (m @ m, 2 * (log_size + jnp.log(size))), None

    (m, log_size), _ = jax.lax.scan(
        square, (w, jnp.zeros((), w.real.dtype)), None, length=SQUARINGS
    )
    log_size = log_size + jnp.log(jnp.linalg.norm(m))
    return jnp.exp(log_size / 2**SQUARINGS)


def _at_radius(w: Array, target: Number, name: str) -> Array:
    """A matrix scaled to a spectral radius."""
    _check_square(w.shape, name)
    radius = spectral_radius(w)
    if known(radius) and not radius > 0:
        raise ValueError(
            f"{name}: the matrix drawn is nilpotent (all eigenvalues 0), so no scale gives it a "
            f"spectral radius of {target}; draw with another key or a larger k"
        )
    factor = jnp.asarray(target, radius.dtype) / radius
    return w * factor.astype(w.dtype)


def _central(tap: Array, shape: tuple[int, ...]) -> Array:
    """A convolution of zeros but for its central tap."""
    centre = tuple((size - 1) // 2 for size in shape[:-2])
    return jnp.zeros(shape, tap.dtype).at[centre].set(tap)


def _check_window(shape: tuple[int, ...], name: str) -> None:
    if len(shape) < 3:
        raise ValueError(
            f"{name} needs a convolution (*window, inputs, outputs), got shape {shape}; use "
            "orthogonal"
        )


def _check_matrix(shape: tuple[int, ...], name: str) -> None:
    if len(shape) != 2:
        raise ValueError(f"{name} needs a matrix (inputs, outputs), got shape {shape}")


def _check_square(shape: tuple[int, ...], name: str) -> None:
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(
            f"{name} needs a square matrix, got shape {shape}; use it for recurrent or hidden "
            "kernels"
        )
