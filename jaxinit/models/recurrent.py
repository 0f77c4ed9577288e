"""What all recurrent networks share: layers in a stack, directions, lengths, segments, states
carried on, the readout.

    x -> (embedding) -> layer by layer, the time loop of each -> states -> readout

In every layer the input projection of all time steps is one matrix product outside the time loop.
The networks themselves (`cells`, `linear`) say what one step does, and may have a faster loop of
their own (`bptt`).
"""

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any, ClassVar, SupportsIndex, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Shaped

from jaxinit.introspect import Place, Training, param
from jaxinit.models.bptt import Matrix, State, States, projection
from jaxinit.models.common import (
    EPSILON,
    Dense,
    Inputs,
    dropped,
    dtype_of,
    resolve_lengths,
    sequences,
    sizes,
    start,
    wide,
)
from jaxinit.options import Backward, RecurrentOptions, gather

# Bytes that the time loop of one batch may keep for its backward pass before it is segmented.
KEPT_WHOLE = 2**28

Carry = tuple[Array, ...]  # the states of one layer between two steps


class Layer(nnx.Module):
    """The parameters of one recurrent layer in one direction; with gates, their first axis runs
    over them."""

    reset_bias: nnx.Param
    peephole: nnx.Param
    scale: nnx.Param
    start: nnx.List

    def __init__(self, n_in: int, n: int, **place: Unpack[Place]):
        gates = place.get("gate", ())
        copies = ()
        dot = ""  # the axis that fans do not count
        if gates:
            copies = (len(gates),)
            dot = "."
        self.input = param((*copies, n_in, n), dot + "io", "input", **place)
        self.recurrent = param((*copies, n, n), dot + "io", "recurrent", **place)
        beside: Place = {**place, "partner": "recurrent"}
        self.bias = param((*copies, n), dot + "o", "bias", **beside)


class Recurrent(nnx.Module):
    """What the recurrent networks share. A subclass names its gates and says what one step of one
    layer does.

    `kept` is the number of arrays `[t, b, n]` that the backward pass of a layer needs, projections
    and their gradients included; `carries` the number of arrays `[b, n]` that pass from one step to
    the next.
    """

    configuration: ClassVar[type[RecurrentOptions]] = RecurrentOptions
    gates: ClassVar[tuple[str, ...]] = ()
    kind: ClassVar[str] = "rnn"
    kept: ClassVar[int] = 3
    carries: ClassVar[int] = 1
    roles: ClassVar[set[str]] = {"input", "recurrent", "readout", "bias"}
    options: RecurrentOptions

    def __init__(
        self,
        in_features: SupportsIndex,
        hidden_features: SupportsIndex,
        out_features: SupportsIndex,
        *,
        rngs: nnx.Rngs,
        **keywords: Any,
    ):
        options, inits = gather(self.configuration, keywords)
        in_features, width, out_features = sizes(
            in_features=in_features, hidden_features=hidden_features, out_features=out_features
        )
        self.options = options
        self.hidden_features = width
        roles = set(self.roles)
        table = None
        if options.embedding is not None:
            roles.add("embedding")
            shape = (in_features, options.embedding)
            table = param(shape, "io", "embedding", layer=0, width=width)
        self.table = table

        # The states of both directions are side by side where the next layer reads them.
        handed_on = 2 * width if options.bidirectional else width
        widths = [options.embedding or in_features] + [handed_on] * (options.layers - 1)
        self.layers = self._stack(widths)
        self.layers_back = self._stack(widths) if options.bidirectional else None
        place: Place = {"layer": options.layers, "n_layers": options.layers, "width": width}
        self.readout = Dense(handed_on, out_features, "readout", **place)

        # Running statistics to Flax: part of a model, but no parameters, so nothing trains them.
        carried = []
        if options.stateful is not None:
            for _ in range(options.layers * self.carries):
                zeros = jnp.zeros((options.stateful, width), jnp.float32)
                carried.append(nnx.BatchStat(zeros))
        self.carried = nnx.List(carried)
        start(self, rngs, roles, inits)

    # What a network says of itself.

    @property
    def activation_name(self) -> str:
        """The activation function of the states, which schemes ask for."""
        return "tanh"

    @property
    def read_every_step(self) -> bool:
        return self.options.readout == "all"

    def make_layer(self, n_in: int, n: int, **place: Unpack[Place]) -> Layer:
        """The parameters of one layer, those of options aside."""
        return Layer(n_in, n, **place)

    def project(self, layer: Layer, x_tbi: Array) -> tuple[States, ...]:
        """What the inputs of all steps contribute to each gate: outside the time loop."""
        bias = layer.bias[...]
        backward = self.options.backward
        if self.options.norm is not None:
            # Where there is a norm it is `normalized` that adds the bias, after it.
            bias = jnp.zeros_like(bias)
        if not self.gates:
            return (projected(x_tbi, layer.input[...], bias, backward),)
        by_gate = []
        for w_in, bias_n in zip(layer.input[...], bias, strict=True):
            by_gate.append(projected(x_tbi, w_in, bias_n, backward))
        return tuple(by_gate)

    def step(self, layer: Layer, carry: Carry, z: tuple[Array, ...], keep: Array | None) -> Carry:
        """The states of one layer after one step; `keep` multiplies the state before its recurrent
        product."""
        raise TypeError(
            f"{type(self).__name__} is abstract; use RNN, LSTM, GRU, MGU, LRU, GLR or RGLRU"
        )

    def out(self, layer: Layer, carry: Carry, z: tuple[Array, ...]) -> Array:
        """What a layer hands on of its states after a step."""
        del layer, z
        return carry[0]

    def out_before(self, layer: Layer, carry: Carry) -> State:
        """What a layer hands on of its states before the first step."""
        del layer
        return carry[0]

    def state_dtype(self) -> np.dtype:
        """The dtype of the states between two steps: that of the parameters."""
        return dtype_of(self)

    def loop(
        self, layer: Layer, z: tuple[States, ...], before: Carry
    ) -> tuple[States, Carry] | None:
        """A faster loop over time than a scan of `step`, where there is one for the options
        asked."""
        del layer, z, before
        return None

    # Running them.

    def __call__(
        self,
        x: Inputs,
        training: Training | None = None,
        *,
        lengths: Shaped[Array | np.ndarray, "..."] | None = None,
        mask: Shaped[Array | np.ndarray, "..."] | None = None,
    ) -> Float[Array, "b o"] | Float[Array, "b t o"]:
        """The outputs; see `advance` for those of a part of a sequence.

        With `lengths`, or a `mask` that is true for each sequence's first steps, what follows a
        sequence's end does not reach its output: the last output is that of its own last step,
        outputs after it are 0, and the backward direction starts at its end.
        Lengths and masks that are traced cannot be refused: a length counts as the nearest of 0 to
        T, a mask ends at its first false, and of a length and a mask the shorter counts. The last
        output of no steps is that of the states before the first step.
        Raises: ValueError for lengths of 0 or beyond T, or a mask that is no such prefix or
        disagrees with `lengths`; for an x of another shape than the network takes, or without a
        step; for either where states are carried on.
        """
        x = self._given(x)
        b, t = x.shape[:2]
        lengths = resolve_lengths(lengths, mask, b, t)
        for name in ("unroll", "truncate"):
            steps = getattr(self.options, name)
            if steps is not None and steps > t:
                raise ValueError(f"{name}={steps} is more than the {t} time steps; give 1 to that")
        # Evaluation starts afresh, and so does a batch of another size, such as a last one.
        passes_on = False
        if self.carried and training is not None:
            passes_on = b == self.carried[0][...].shape[0]
        if passes_on and lengths is not None:
            raise ValueError(
                "a stateful network passes on its states after the last step, which is padding "
                "where sequences have lengths or a mask; cut them into parts of whole steps, or "
                "use advance"
            )
        before = self._carried() if passes_on else self.start(b)
        y, after = self._outputs(x, before, training, lengths)
        if passes_on:
            states = chain.from_iterable(after)
            for variable, state in zip(self.carried, states, strict=True):
                cut = jax.lax.stop_gradient(state)
                variable.set_value(cut.astype(variable[...].dtype))
        return y

    def advance(
        self, x: Inputs, before: Sequence[Carry] | None = None
    ) -> tuple[Array, tuple[Carry, ...]]:
        """The outputs of a part of a sequence, and the states after it, to be given to the next
        part.

        `before` are the states before the part, one tuple of `[b, n]` a layer (default: `start`).
        To truncate the gradient there, pass them through `jax.lax.stop_gradient`.
        Raises: ValueError for states of the wrong shape, for a bidirectional network, or for an x
        as `__call__`.
        """
        x = self._given(x)
        if self.layers_back is not None:
            raise ValueError(
                "a bidirectional network reads the whole sequence at once; it has no states to go "
                "on from"
            )
        states = self.start(x.shape[0])
        if before is not None:
            if shapes_of(before) != shapes_of(states):
                raise ValueError(
                    f"states have the shapes {shapes_of(before)}, expected {shapes_of(states)}: "
                    "one tuple a layer"
                )
            dtype = self.state_dtype()
            carries = []
            for carry in before:
                carries.append(tuple(jnp.asarray(state, dtype) for state in carry))
            states = tuple(carries)
        return self._outputs(x, states, None, None)

    def start(self, b: int) -> tuple[Carry, ...]:
        """The states before the first step of `b` sequences: zero, or learned."""
        if not self.options.learned_start:
            # Zeros are the same for every layer, and one array in the program.
            return (self._start_of(self.layers[0], b),) * len(self.layers)
        return tuple(self._start_of(layer, b) for layer in self.layers)

    def _start_of(self, layer: Layer, b: int) -> Carry:
        shape, dtype = (b, self.hidden_features), self.state_dtype()
        if not self.options.learned_start:
            return (jnp.zeros(shape, dtype),) * self.carries
        return tuple(jnp.broadcast_to(start[...].astype(dtype), shape) for start in layer.start)

    def unrolled(
        self, x: Inputs, taps: Sequence[Carry] | None = None
    ) -> tuple[Float[Array, "b o"] | Float[Array, "b t o"], list[Carry], list[tuple[States, ...]]]:
        """The outputs, every state of every layer at every step, as `step` computes them, and each
        layer's projections.

        `taps`, one tuple of `[t, b, n]` a layer, are added to the states: the gradient with respect
        to zeros there is that with respect to the states, through everything that depends on them.
        Shapes: states `[t, b, n]`. Raises: ValueError for a bidirectional network, or for an x as
        `__call__`.
        """
        x = self._given(x)
        if self.layers_back is not None:
            raise ValueError(
                "the states of a bidirectional network are of two directions; probe one that has "
                "one"
            )
        h_tbn = self._embedded(x)
        before = self.start(x.shape[0])
        states, projections = [], []
        for k, layer in enumerate(self.layers):
            z = self.project(layer, h_tbn)

            def turn(
                carry: Carry, at: tuple, layer: Layer = layer
            ) -> tuple[Carry, tuple[Array, Carry]]:
                z, tap = at
                carry = self.step(layer, carry, z, None)
                # Zeros that are added change nothing but have a gradient, that of the state.
                if tap is not None:
                    carry = tuple(jnp.add(a, b) for a, b in zip(carry, tap, strict=True))
                return carry, (self.out(layer, carry, z), carry)

            taps_of_layer = None if taps is None else taps[k]
            _, (h_tbn, kept) = jax.lax.scan(turn, before[k], (z, taps_of_layer))
            states.append(kept)
            projections.append(z)
        if not self.read_every_step:
            return self.readout(h_tbn[-1]), states, projections
        y_tbo = self.readout(h_tbn)
        return y_tbo.swapaxes(0, 1), states, projections

    def _outputs(
        self, x: Array, before: tuple[Carry, ...], training: Training | None, lengths: Array | None
    ) -> tuple[Array, tuple[Carry, ...]]:
        """The outputs of a batch of sequences, and the states of every layer after them.

        The sequence runs in segments: the first takes what is left over, the others are scanned,
        and what happens inside of each is computed again in the backward pass.
        """
        x_tbi = self._embedded(x)
        b, t = x.shape[:2]
        truncate = self.options.truncate
        key = None if training is None else training.key
        # The last states alone do not answer where a sequence ends before the last step, nor where
        # the backward direction ends at the first.
        every_step = self.read_every_step or lengths is not None or self.layers_back is not None
        size = truncate or min(self.options.segment or self._segment(t, b), t)
        if self.layers_back is not None:
            size = t  # a direction that starts at the end cannot run segment by segment
        first = t % size or size
        n_segments = math.ceil(t / size)
        noise = None if key is None else jax.random.split(key, n_segments)

        def run(
            before: tuple[Carry, ...], at: tuple[Array, Any]
        ) -> tuple[tuple[Carry, ...], Array]:
            x_tbi, key = at
            # Before the first segment too: those may be the last states of another batch.
            if truncate is not None:
                before = jax.lax.stop_gradient(before)
            noisy = training and training._replace(key=key)
            after, h_tbn = self._run(before, x_tbi, noisy, training, lengths)
            return after, h_tbn if every_step else h_tbn[-1:]

        first_segment = (x_tbi[:first], None if noise is None else noise[0])
        after, h_tbn = run(before, first_segment)
        if first < t:
            rest = x_tbi[first:].reshape(-1, size, *x_tbi.shape[1:])
            rest_noise = None if noise is None else noise[1:]
            # Inside a scan nothing is computed twice in one pass, which is all that `prevent_cse`
            # is for.
            again = jax.checkpoint(run, prevent_cse=False)
            after, more = jax.lax.scan(again, after, (rest, rest_noise))
            more = more.reshape(-1, *more.shape[2:])
            h_tbn = jnp.concatenate([h_tbn, more]) if every_step else more[-1:]

        if not self.read_every_step:
            h_bn = self._last(h_tbn, before, lengths)
            read = self._dropped(h_bn[None], training, training, len(self.layers))[0]
            return self.readout(read), after
        y_tbo = self.readout(self._dropped(h_tbn, training, training, len(self.layers)))
        if lengths is not None:
            within = jnp.arange(t)[:, None] < lengths[None]
            y_tbo = jnp.where(within[:, :, None], y_tbo, 0)
        return y_tbo.swapaxes(0, 1), after

    def _last(self, h_tbn: States, before: tuple[Carry, ...], lengths: Array | None) -> Array:
        """What the readout of the last step reads: of each sequence its own last step, or what is
        handed on before the first where it has none."""
        b = h_tbn.shape[1]
        last = h_tbn[-1]
        if lengths is not None:
            # A traced length may be 0: any row will do there, it is replaced below.
            last = h_tbn[jnp.maximum(lengths, 1) - 1, jnp.arange(b)]
        h_bn = last
        if self.layers_back is not None:
            # The backward direction, the second half of the units, ends at the first step.
            n = self.hidden_features
            h_bn = jnp.concatenate([last[:, :n], h_tbn[0][:, n:]], axis=1)
        if lengths is not None:
            h_bn = jnp.where(lengths[:, None] > 0, h_bn, self._handed_on_before(before))
        return h_bn

    def _run(
        self,
        before: tuple[Carry, ...],
        x_tbi: Array,
        training: Training | None,
        whole: Training | None,
        lengths: Array | None,
    ) -> tuple[tuple[Carry, ...], States]:
        """All layers over some steps: the states after them, and what the last layer hands on at
        each of them.

        `training` has the noise of these steps, `whole` that of the sequence.
        """
        b = x_tbi.shape[1]
        h_tbn = x_tbi
        after = []
        for k, (layer, carry) in enumerate(zip(self.layers, before, strict=True)):
            given = self._dropped(h_tbn, training, whole, k)
            keep = self._keep(whole, k, (b, self.hidden_features))
            h_tbn, carry = self.run_layer(layer, given, carry, keep)
            after.append(carry)
            if self.layers_back is not None:
                layer_back = self.layers_back[k]
                # Of both directions only the forward one goes on from the states before.
                fresh = self._start_of(layer_back, b)
                back, _ = self.run_layer(layer_back, reverse(given, lengths), fresh, keep)
                h_tbn = jnp.concatenate([h_tbn, reverse(back, lengths)], axis=-1)
        return tuple(after), h_tbn

    def run_layer(
        self, layer: Layer, x_tbi: Array, before: Carry, keep: Array | None
    ) -> tuple[States, Carry]:
        """One layer over some steps, by its own loop where it has one."""
        z = self.project(layer, x_tbi)
        # A mask and a norm stand inside the step, which the loops by hand do not know.
        if keep is None and self.options.norm is None:
            states = self.loop(layer, z, before)
            if states is not None:
                return states

        def turn(carry: Carry, z: tuple[Array, ...]) -> tuple[Carry, Array]:
            carry = self.step(layer, carry, z, keep)
            return carry, self.out(layer, carry, z)

        after, h_tbn = jax.lax.scan(turn, before, z, unroll=self.options.unroll)
        return h_tbn, after

    def recur(
        self, layer: Layer, gate: int, z: Array, h: State, plus: Array | None = None
    ) -> Array:
        """The pre-activation of one gate: z + h U (+ `plus`), normalized over the units where the
        layers are."""
        u_nn: Matrix = layer.recurrent[...]
        if self.gates:
            u_nn = u_nn[gate]
        z = z + h @ u_nn
        if plus is not None:
            z = z + plus
        return self.normalized(layer, gate, z)

    def normalized(self, layer: Layer, gate: int, z: Array) -> Array:
        """gamma (z - mean) / std + b over the units, where the layers are normalized; z itself
        where not."""
        if self.options.norm is None:
            return z
        scale = layer.scale[...]
        bias = layer.bias[...]
        if self.gates:
            scale = scale[gate]
            bias = bias[gate]
        # Moments of a narrow dtype would be rounded to it before they are taken a root of.
        centred = wide(z) - wide(z).mean(-1, keepdims=True)
        size = jnp.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON)
        scaled = jnp.broadcast_to(wide(scale), z.shape) * centred / size
        return (scaled + jnp.broadcast_to(wide(bias), z.shape)).astype(z.dtype)

    def _handed_on_before(self, before: tuple[Carry, ...]) -> Array:
        """What the last layer hands on before the first step, where `before` are the states."""
        h_bn = self.out_before(self.layers[-1], before[-1])
        if self.layers_back is None:
            return h_bn
        back = self.layers_back[-1]
        back_bn = self.out_before(back, self._start_of(back, len(h_bn)))
        return jnp.concatenate([h_bn, back_bn], axis=1)

    def _stack(self, widths: Sequence[int]) -> nnx.List:
        """The layers of one direction, of as many inputs as `widths` says."""
        layers = []
        for k, n_in in enumerate(widths):
            place: Place = {
                "gate": self.gates,
                "layer": k,
                "n_layers": len(widths),
                "activation": self.activation_name,
                "inputs": n_in,
                "kind": self.kind,
                "width": self.hidden_features,
            }
            layers.append(self._layer(n_in, **place))
        return nnx.List(layers)

    def _layer(self, n_in: int, **place: Unpack[Place]) -> Layer:
        """The parameters of one layer, with those that options add."""
        n = self.hidden_features
        layer = self.make_layer(n_in, n, **place)
        if self.options.norm is not None:
            of_norm: Place = {**place, "kind": "norm"}
            if self.gates:
                layer.scale = param((len(self.gates), n), ".o", "scale", **of_norm)
            else:
                layer.scale = param((n,), "o", "scale", **of_norm)
        if self.options.learned_start:
            ungated: Place = {**place, "gate": ()}
            starts = [param((n,), "o", "start", **ungated) for _ in range(self.carries)]
            layer.start = nnx.List(starts)
        return layer

    def _given(self, x: Inputs) -> Array:
        """The inputs, checked and in the dtype of the parameters."""
        first = self.layers[0].input if self.table is None else self.table
        return sequences(x, first.shape[-2], dtype_of(self))

    def _embedded(self, x: Array) -> Array:
        """Time first; whole numbers as rows of the embedding, or as they are where there is
        none."""
        x_t = x.swapaxes(0, 1)
        if self.table is None:
            return x_t
        rows = self.table[...]
        if jnp.issubdtype(x_t.dtype, jnp.integer):
            return rows[x_t]
        return x_t @ rows

    def _carried(self) -> tuple[Carry, ...]:
        """The states that the last training batch ended with."""
        dtype = self.state_dtype()
        values = [variable[...].astype(dtype) for variable in self.carried]
        by_layer = []
        for first in range(0, len(values), self.carries):
            by_layer.append(tuple(values[first : first + self.carries]))
        return tuple(by_layer)

    def _dropped(
        self, h: Array, training: Training | None, whole: Training | None, place: int
    ) -> Array:
        """Non-recurrent connections with entries dropped, anew at every step or, where variational,
        once a sequence."""
        if not jnp.issubdtype(h.dtype, jnp.floating):
            return h  # whole numbers stand for rows, which are dropped further on
        if not self.options.variational:
            return dropped(h, training, place)
        # One mask for all steps, by the noise of the whole sequence: segments have the same.
        return h * dropped(jnp.ones_like(h[:1]), whole, place)

    def _keep(self, whole: Training | None, place: int, shape: tuple[int, int]) -> Array | None:
        """What multiplies the states before their recurrent products: a mask of one sequence, where
        variational."""
        if not self.options.variational or whole is None or whole.key is None:
            return None
        # After the places of the layers' inputs and of the readout's.
        place = len(self.layers) + 1 + place
        return dropped(jnp.ones(shape, dtype_of(self)), whole, place)

    def _segment(self, t: int, b: int) -> int:
        """The whole length where its residuals are few, else the square root: memory grows as
        sqrt(t) from there."""
        kept = self.kept * len(self.layers) * t * b * self.hidden_features
        if kept * dtype_of(self).itemsize <= KEPT_WHOLE:
            return t
        # The root rounded up, in whole numbers: a float would lose digits of a long sequence.
        return math.isqrt(t - 1) + 1


def projected(x_tbi: Array, w_in: Array, bias_n: Array, backward: Backward) -> States:
    """`bptt.projection`, and for whole numbers, which stand for one-hot vectors, the rows that they
    name."""
    if jnp.issubdtype(x_tbi.dtype, jnp.integer):
        rows = w_in[x_tbi]
        return rows + jnp.broadcast_to(bias_n, rows.shape)
    return projection(x_tbi, w_in, bias_n, backward)


def reverse(h_tbn: Array, lengths: Array | None) -> Array:
    """The steps of every sequence in reverse; those after its end stay where they are."""
    if lengths is None:
        return h_tbn[::-1]
    t = jnp.arange(h_tbn.shape[0])[:, None]
    within = t < lengths[None]
    back = jnp.where(within, lengths[None] - 1 - t, t)
    return h_tbn[back, jnp.arange(h_tbn.shape[1])[None]]


def shapes_of(states: Sequence[Carry]) -> list[list[tuple[int, ...]]]:
    return [[state.shape for state in carry] for carry in states]
