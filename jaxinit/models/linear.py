"""The networks whose recurrence is linear and diagonal: linear recurrent unit, gated linear
recurrence, real-gated linear recurrent unit.

    x -> factors, terms -> s_t = factor_t s_{t-1} + term_t -> h_t = gelu(s_t C + x_t D + b)

A unit sees no state but its own, so factors and terms depend on inputs alone, and an associative
scan computes all steps at once.
"""

from abc import abstractmethod
from typing import ClassVar, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Shaped

from jaxinit.introspect import Place, param
from jaxinit.models.bptt import State, States
from jaxinit.models.common import Dense, at_least_float32, dtype_of, wide
from jaxinit.models.recurrent import Carry, Layer, Recurrent, projected
from jaxinit.options import LinearRecurrentOptions

POWER = 8.0  # c of an RG-LRU, which decays by a^8 a step where its recurrence gate is open
LEAST_SQUARE = 2.5e-7  # of what an RG-LRU takes a root of: bounds the slope of the root by 1000


class LinearLayer(Layer):
    """What all linear recurrent layers have: D and b past the recurrence, and C out of it."""

    mix: nnx.Param

    def __init__(self, n_in: int, n: int, **place: Unpack[Place]):
        self.skip = Dense(n_in, n, "hidden", **place)


class Linear(Recurrent):
    """What the linear recurrent networks share. A subclass says what its states take in, and their
    product with C.

    What `project` returns ends with x_t D + b.
    """

    configuration = LinearRecurrentOptions
    roles: ClassVar[set[str]] = {"input", "hidden", "readout", "bias"}

    @property
    def activation_name(self) -> str:
        return "linear"

    @abstractmethod
    def mixed(self, layer: Layer, carry: Carry) -> Array:
        """The product of the states with C, in the dtype of the parameters."""

    def past(self, layer: LinearLayer, x_tbi: Array) -> States:
        """x_t D + b: what goes past the recurrence."""
        skip = layer.skip
        return projected(x_tbi, skip.kernel[...], skip.bias[...], self.options.backward)

    def unbiased(self, x_tbi: Array, w_in: Array) -> States:
        """x_t W, in float32 where the parameters are narrower."""
        no_bias = jnp.zeros(w_in.shape[-1], w_in.dtype)
        return wide(projected(x_tbi, w_in, no_bias, self.options.backward))

    def out(self, layer: Layer, carry: Carry, z: tuple[Array, ...]) -> Array:
        return jax.nn.gelu(self.mixed(layer, carry) + z[-1])

    def out_before(self, layer: Layer, carry: Carry) -> State:
        """That of a step whose input is 0."""
        assert isinstance(layer, LinearLayer)
        past = jnp.broadcast_to(layer.skip.bias[...], carry[0].shape)
        return self.out(layer, carry, (past,))

    def state_dtype(self) -> np.dtype:
        return at_least_float32(dtype_of(self))


class RingLayer(LinearLayer):
    """The parameters of a layer of an LRU; the real and the imaginary part are the copies of a
    matrix."""

    def __init__(self, n_in: int, n: int, **place: Unpack[Place]):
        super().__init__(n_in, n, **place)
        parts: Place = {**place, "gate": ("real", "imaginary")}
        self.log_decay = param((n,), "o", "log_decay", **place)
        self.log_phase = param((n,), "o", "log_phase", **place)
        self.input = param((2, n_in, n), ".io", "input", **parts)
        self.mix = param((2, n, n), ".io", "hidden", **parts)


class LRU(Linear):
    """The linear recurrent unit: a diagonal complex recurrence, and a nonlinearity between layers
    only.

    s_t = l s_{t-1} + g (x_t B) with l = exp(-exp(log_decay) + i exp(log_phase)), g = sqrt(1 -
    |l|^2), s_0 = 0;
    h_t = gelu(Re(s_t C) + x_t D + b). y as in `RNN`. All steps are computed at once by an
    associative scan.

    Shapes, roles and keywords as in `RNN`, with `LinearRecurrentOptions`.
    Roles: `log_decay` and `log_phase`, which every scheme draws uniformly on the ring 0.9 <= |l| <=
    0.999; `input` (B) and `hidden` (C, D), B and C with a leading axis over their real and
    imaginary parts, each of which is divided by sqrt(2), so that a scheme of variance 1/fan_in
    gives the complex matrix that variance. States are float32 where the parameters are narrower,
    since |l| = 0.999 is 1 in bfloat16; matrix products keep the dtype of the parameters, of which
    `log_decay` and `log_phase` may be wider than the others.
    Source: Orvieto et al. (2023), sections 3.1 to 3.4. Departures: g follows l instead of being
    learned; D is a matrix; one nonlinearity between layers in place of a gated MLP with a residual
    connection.
    """

    kind = "lru"
    kept = 8
    carries = 2  # the real and the imaginary part

    def make_layer(self, n_in: int, n: int, **place: Unpack[Place]) -> Layer:
        return RingLayer(n_in, n, **place)

    def project(self, layer: Layer, x_tbi: Array) -> tuple[States, ...]:
        assert isinstance(layer, RingLayer)
        squared_pole = jnp.exp(-2 * jnp.exp(wide(layer.log_decay[...])))
        # The variance of a complex matrix is shared by its real and its imaginary part.
        size = jnp.sqrt((1 - squared_pole) / 2)
        past = self.past(layer, x_tbi)
        parts = []
        for w_in in layer.input[...]:
            z_tbn = self.unbiased(x_tbi, w_in)
            parts.append(jnp.broadcast_to(size, z_tbn.shape) * z_tbn)
        return (*parts, past)

    def step(self, layer: Layer, carry: Carry, z: tuple[Array, ...], keep: Array | None) -> Carry:
        del keep
        assert isinstance(layer, RingLayer)
        re, im = carry
        pole_re, pole_im = poles(layer)
        a = jnp.broadcast_to(pole_re, re.shape)
        b = jnp.broadcast_to(pole_im, re.shape)
        return a * re - b * im + z[0], a * im + b * re + z[1]

    def mixed(self, layer: Layer, carry: Carry) -> Array:
        assert isinstance(layer, RingLayer)
        real, imaginary = layer.mix[...]
        re, im = (part.astype(real.dtype) for part in carry)
        return (re @ real - im @ imaginary) / jnp.sqrt(2.0).astype(real.dtype)

    def loop(self, layer: Layer, z: tuple[States, ...], before: Carry) -> tuple[States, Carry]:
        assert isinstance(layer, RingLayer)
        inputs = jax.lax.complex(z[0], z[1])
        factors = jnp.broadcast_to(jax.lax.complex(*poles(layer)), inputs.shape)
        states = scanned(factors, inputs, jax.lax.complex(*before))
        re, im = states.real, states.imag
        return self.out(layer, (re, im), z), (re[-1], im[-1])


class GatedLinear(Linear):
    """The linear recurrent networks whose factors depend on the inputs: real, one number a unit and
    step.

    `project` returns factors, terms, and what goes past the recurrence.
    """

    def step(self, layer: Layer, carry: Carry, z: tuple[Array, ...], keep: Array | None) -> Carry:
        del layer, keep
        (s,) = carry
        factor, term, _ = z
        return (factor * s + term,)

    def mixed(self, layer: Layer, carry: Carry) -> Array:
        assert isinstance(layer, LinearLayer)
        mix = layer.mix[...]
        return carry[0].astype(mix.dtype) @ mix

    def loop(self, layer: Layer, z: tuple[States, ...], before: Carry) -> tuple[States, Carry]:
        factors, terms, _ = z
        s_tbn = scanned(factors, terms, before[0])
        return self.out(layer, (s_tbn,), z), (s_tbn[-1],)


class SelectiveLayer(LinearLayer):
    """The parameters of a layer of a GLR: B, the kernel and the bias of its time steps, its
    rates."""

    def __init__(self, n_in: int, n: int, **place: Unpack[Place]):
        super().__init__(n_in, n, **place)
        self.input = param((n_in, n), "io", "input", **place)
        self.time_step = param((n_in, n), "io", "input", **place)
        self.step_bias = param((n,), "o", "step_bias", **place)
        self.log_rate = param((n,), "o", "log_rate", **place)
        self.mix = param((n, n), "io", "hidden", **place)


class GLR(GatedLinear):
    """A gated linear recurrence: units that decay at a rate of their own, over a time that the
    input selects.

    dt_t = softplus(x_t W + step_bias); a_t = exp(-dt_t A) with A = exp(log_rate); s_t = a_t s_{t-1}
    + (1 - a_t) (x_t B), s_0 = 0; h_t = gelu(s_t C + x_t D + b). y as in `RNN`. All steps are
    computed at once by an associative scan.

    Shapes and keywords as in `RNN`, with `LinearRecurrentOptions`.
    Roles: `step_bias` and `log_rate`, to which a scheme that does not know them gives the laws of
    Mamba-2 (`initializers.time_steps`, `log_rate`); `input` (B, W) and `hidden` (C, D). How long
    its units remember: `theory.glr_half_life`. With log_rate = 0 it is the minimal GRU of Feng et
    al. (2024), section 3.1, whose gate sigmoid(x_t W + step_bias) sees the input alone: scheme
    `min_gru`. States are float32 where the parameters are narrower; matrix products keep the dtype
    of the parameters, of which `step_bias` and `log_rate` may be wider than the others.
    Source: Gu & Dao (2023), Mamba, algorithm 2, with the scalar decays of Dao & Gu (2024), Mamba-2.
    Departures: one state a unit and so no read-out by the input; 1 - a_t, the exact discretization
    of ds/dt = A (x B - s), in place of dt_t, so that time steps decide how long memory lasts and
    not how large it is; W has full rank; no convolution, output gate or norm.
    """

    kind = "glr"
    kept = 12

    def make_layer(self, n_in: int, n: int, **place: Unpack[Place]) -> Layer:
        return SelectiveLayer(n_in, n, **place)

    def project(self, layer: Layer, x_tbi: Array) -> tuple[States, ...]:
        assert isinstance(layer, SelectiveLayer)
        selected = self.unbiased(x_tbi, layer.time_step[...])
        taken_in = self.unbiased(x_tbi, layer.input[...])
        dt = jax.nn.softplus(
            selected + jnp.broadcast_to(wide(layer.step_bias[...]), selected.shape)
        )
        log_factor = -dt * jnp.broadcast_to(jnp.exp(wide(layer.log_rate[...])), dt.shape)
        # By expm1: a factor near 1 leaves few digits to its difference from 1.
        terms = -jnp.expm1(log_factor) * taken_in
        return jnp.exp(log_factor), terms, self.past(layer, x_tbi)


class GriffinLayer(LinearLayer):
    """The parameters of a layer of an RG-LRU: B, both gates, and the logits of its decays."""

    def __init__(self, n_in: int, n: int, **place: Unpack[Place]):
        super().__init__(n_in, n, **place)
        self.input = param((n_in, n), "io", "input", **place)
        self.recurrence_gate = Dense(n, n, "hidden", **place)
        self.input_gate = Dense(n, n, "hidden", **place)
        self.decay_logit = param((n,), "o", "decay_logit", **place)
        self.mix = param((n, n), "io", "hidden", **place)


class RGLRU(GatedLinear):
    """The real-gated linear recurrent unit of Griffin.

    u_t = x_t B; r_t = s(u_t W_r + b_r), i_t = s(u_t W_i + b_i), s the logistic function; a_t = a^(8
    r_t) with a = s(decay_logit); s_t = a_t s_{t-1} + sqrt(1 - a_t^2) (i_t u_t), s_0 = 0; h_t =
    gelu(s_t C + x_t D + b). y as in `RNN`. All steps are computed at once by an associative scan.

    Shapes and keywords as in `RNN`, with `LinearRecurrentOptions`.
    Roles: `decay_logit`, to which a scheme that does not know it gives Griffin's law
    (`initializers.decay_logit`); `input` (B) and `hidden` (W_r, W_i, C, D). How long its units
    remember: `theory.rg_lru_half_life`. States are float32 where the parameters are narrower;
    matrix products keep the dtype of the parameters, of which `decay_logit` may be wider than the
    others.
    Source: De et al. (2024), Griffin, eq. 1 to 4. Departures: W_r and W_i are whole matrices
    instead of block-diagonal ones; no convolution before it; D and a GELU in place of a gated
    branch. 1 - a_t^2 is 2.5e-7 at least, as in their code the slope of its root is 1000 at most.
    """

    kind = "rg_lru"
    kept = 16

    def make_layer(self, n_in: int, n: int, **place: Unpack[Place]) -> Layer:
        return GriffinLayer(n_in, n, **place)

    def project(self, layer: Layer, x_tbi: Array) -> tuple[States, ...]:
        assert isinstance(layer, GriffinLayer)
        no_bias = jnp.zeros_like(layer.skip.bias[...])
        u_tbn = projected(x_tbi, layer.input[...], no_bias, self.options.backward)
        r_tbn = self._gate(layer.recurrence_gate, u_tbn)
        i_tbn = self._gate(layer.input_gate, u_tbn)
        log_decay = -jax.nn.softplus(-wide(layer.decay_logit[...]))
        log_factor = POWER * r_tbn * jnp.broadcast_to(log_decay, r_tbn.shape)
        square = jnp.maximum(-jnp.expm1(2 * log_factor), LEAST_SQUARE)
        terms = jnp.sqrt(square) * i_tbn * wide(u_tbn)
        return jnp.exp(log_factor), terms, self.past(layer, x_tbi)

    def _gate(self, gate: Dense, u_tbn: States) -> States:
        z_tbn = projected(u_tbn, gate.kernel[...], gate.bias[...], self.options.backward)
        return jax.nn.sigmoid(wide(z_tbn))


def scanned(
    factors: Shaped[Array, "t b n"], terms: Shaped[Array, "t b n"], before: Shaped[Array, "b n"]
) -> Shaped[Array, "t b n"]:
    """s_t = factor_t s_{t-1} + term_t of all steps, real or complex, from the states before the
    first."""
    # The states before the first step enter as a part of its term: a scan starts from nothing.
    terms = terms.at[0].add(factors[0] * before)

    def after(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        """Two stretches s -> factor s + term, one after the other, as one such stretch."""
        left_factor, left_term = left
        factor, term = right
        return left_factor * factor, factor * left_term + term

    _, states = jax.lax.associative_scan(after, (factors, terms))
    return states


def poles(layer: RingLayer) -> tuple[Array, Array]:
    """The real and the imaginary part of the diagonal of a linear recurrence, float32 or wider."""
    # Two exponentials keep the size below 1 whatever an optimizer makes of the parameter.
    size = jnp.exp(-jnp.exp(wide(layer.log_decay[...])))
    phase = jnp.exp(wide(layer.log_phase[...]))
    return size * jnp.cos(phase), size * jnp.sin(phase)
