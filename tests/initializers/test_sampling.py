"""What initializers share: bounds after casts, traced numbers, batched decompositions."""

import math
import subprocess
import sys
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import every

from jaxinit import initializers as I
from jaxinit.spec import along

KEY = jax.random.key(0)
CUT = 1 / I.truncated_std(-2, 2)  # where a corrected cut at 2 ends, in standard deviations
TAIL_STD = I.truncated_std(2, 3)


BOUNDED = {
    "truncated_normal": (I.truncated_normal(0.3), (2,), -0.6 * CUT, 0.6 * CUT),
    "truncated_normal in a tail": (
        I.truncated_normal(0.3, 2, 3),
        (2,),
        0.6 / TAIL_STD,
        0.9 / TAIL_STD,
    ),
    "U[0, 1)": (I.uniform(0.0, 1.0), (2,), 0.0, 1.0),
    "U[5, 5.5)": (I.uniform(5.0, 5.5), (2,), 5.0, 5.5),
    "U[-0.1, 0.1)": (I.uniform(-0.1, 0.1), (2,), -0.1, 0.1),
    "U[0.0998, 0.3)": (I.uniform(0.0998, 0.3), (2,), 0.0998, 0.3),
    "glorot": (I.glorot("uniform"), (4, 4), -math.sqrt(6 / 8), math.sqrt(6 / 8)),
    "he": (I.he("uniform"), (4, 4), -math.sqrt(6 / 4), math.sqrt(6 / 4)),
    "lecun": (I.lecun("uniform"), (4, 4), -math.sqrt(3 / 4), math.sqrt(3 / 4)),
    "log_decay": (
        I.log_decay(0.9, 0.999),
        (2,),
        math.log(-math.log(0.999)),
        math.log(-math.log(0.9)),
    ),
    "log_phase": (I.log_phase(6.2), (2,), -math.inf, math.log(6.2)),
    "log_rate": (I.log_rate(1.0, 16.0), (2,), 0.0, math.log(16)),
    "time_steps": (
        I.time_steps(1e-3, 0.1),
        (2,),
        math.log(math.expm1(1e-3)),
        math.log(math.expm1(0.1)),
    ),
    "decay_logit": (
        I.decay_logit(0.9, 0.999, 1.0),
        (2,),
        math.log(0.9 / 0.1),
        math.log(0.999 / 0.001),
    ),
}


DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16, jnp.float64, jnp.float8_e4m3fn]


@pytest.mark.parametrize(("name", "dtype"), every(2, of=product(BOUNDED, DTYPES)))
@pytest.mark.parametrize("through", ["init", pytest.param("along", marks=pytest.mark.slow)])
def test_bounds_hold_after_the_cast(name: str, dtype: jnp.dtype, through: str) -> None:
    init, shape, low, high = BOUNDED[name]
    copies = 40_000
    with jax.enable_x64(dtype == jnp.float64):
        if through == "init":

            @jax.jit
            @jax.vmap
            def draw(key: jax.Array) -> jax.Array:
                return init(key, shape, dtype)

            w = draw(jax.random.split(KEY, copies))
        else:
            dims = ".io" if len(shape) == 2 else ".o"
            w = along(dims, init)(KEY, (copies, *shape), dtype)
        assert w.dtype == dtype
        w = np.asarray(w).astype(np.float64)
    assert low <= w.min()
    if name.startswith(("log", "trunc", "time", "decay")):
        assert w.max() <= high
    else:
        assert w.max() < high
    if name == "U[0, 1)" and dtype != jnp.float8_e4m3fn:
        assert w.mean() == pytest.approx(0.5, abs=4 / math.sqrt(12 * w.size))


@pytest.mark.parametrize("name", ["truncated_normal", "U[0, 1)", "glorot"])
def test_bounds_hold_after_the_cast_of_copies(name: str) -> None:
    """Whoever maps over copies casts last too, which is one place for all laws and dtypes."""
    test_bounds_hold_after_the_cast(name, jnp.bfloat16, "along")


def test_a_dtype_without_a_number_between_the_bounds_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"no bfloat16 number lies between 0\.0997 and 0\.0999; ask for a wider"
    ):
        I.uniform(0.0997, 0.0999)(KEY, (3,), jnp.bfloat16)


@pytest.mark.slow
def test_many_batches_of_orthogonal_matrices_in_one_program_come_to_an_end() -> None:
    program = """
import jax, jax.numpy as jnp
from jaxinit.initializers import orthogonal
from jaxinit.initializers.structured import positive_definite_identity, spectral
draws = [orthogonal()] * 12 + [positive_definite_identity()] * 4 + [spectral()] * 4
def draw_all(key):
    return [init(jax.random.fold_in(key, i), (64, 64)) for i, init in enumerate(draws)]
run = jax.jit(jax.vmap(draw_all))
for seed in range(20):
    jax.block_until_ready(run(jax.random.split(jax.random.key(seed), 11)))
"""
    # batched, it never ends on two cores
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


OF_NUMBERS = [
    I.constant,
    lambda s: I.uniform(-s, s),
    lambda s: I.uniform(0.0, s),
    lambda s: I.normal(s, mean=s),
    I.truncated_normal,
    lambda s: I.truncated_normal(0.3, -s, 2 * s),
    lambda s: I.variance_scaling(s, "fan_avg", "uniform"),
    lambda s: I.variance_scaling(s, "fan_avg", "truncated_normal"),
    lambda s: I.he("normal", negative_slope=s),
    I.orthogonal,
    I.identity,
    partial(I.scaled, I.normal(1.0)),
    lambda s: I.log_decay(s, 2 * s),
    I.log_phase,
    lambda s: I.log_rate(s, 2 * s),
    lambda s: I.time_steps(s / 10, s, s / 5),
    lambda s: I.decay_logit(s, 2 * s, 10 * s),
]


@pytest.mark.parametrize(
    ("dtype", "make"), every(3, of=product([jnp.float32, jnp.bfloat16], OF_NUMBERS))
)
def test_numbers_may_be_traced(make, dtype: jnp.dtype) -> None:
    def draw(number: float | jax.Array) -> jax.Array:
        return make(number)(KEY, (6, 6), dtype)

    known = draw(0.3)
    traced = jax.jit(draw)(0.3)
    strong = jax.jit(draw)(jnp.float32(0.3))
    assert traced.dtype == strong.dtype == dtype
    rounding = 4 * float(jnp.finfo(dtype).eps)
    for other in (traced, strong):
        np.testing.assert_allclose(
            np.asarray(other, np.float32), np.asarray(known, np.float32), rtol=rounding, atol=1e-6
        )
