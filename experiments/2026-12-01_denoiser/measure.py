"""Errors of a noise predictor, and what five DDIM steps with it do."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from diffkd_jax.core.diffusion import add_noise, alpha_bar, ddim_plan, ddim_step

LEVELS = [10, 50, 100, 200, 400, 600, 800, 999]
BATCH = 64
Predict = Callable[[jax.Array, jax.Array], jax.Array]


def linear_predictors(x_0: np.ndarray) -> Predict:
    """Returns the best linear predictor of the noise at each level, in closed form.

    It maps the channels of one pixel to its noise, with a bias. ``a`` is alpha-bar, and
    ``C`` the covariance of the channels of ``x_0``. Then the weights of ``x_t`` are
    ``sqrt(1 - a) (a C + (1 - a) I)^-1``.
    """
    rows = x_0.reshape(-1, x_0.shape[-1]).astype(np.float64)
    mean, covariance = rows.mean(0), np.cov(rows.T)
    weights = [
        np.sqrt(1 - a) * np.linalg.inv(a * covariance + (1 - a) * np.eye(len(mean)))
        for a in alpha_bar()
    ]
    weights, powers = jnp.asarray(weights, jnp.float32), jnp.asarray(alpha_bar())

    def predict(x_t: jax.Array, t: jax.Array) -> jax.Array:
        shift = jnp.sqrt(powers[t])[:, None, None, None] * jnp.asarray(mean)
        product = jnp.einsum("bhwc,bcd->bhwd", x_t - shift, weights[t])
        return product.astype(jnp.float32)

    return jax.jit(predict)


def batches(*arrays: np.ndarray):
    """Yields full batches of the same examples of each array."""
    for start in range(0, len(arrays[0]) - BATCH + 1, BATCH):
        yield tuple(jnp.asarray(a[start : start + BATCH]) for a in arrays)


def noise_errors(predict: Predict, x_0: np.ndarray) -> dict[str, list[float]]:
    """Returns mean squared errors of the noise and of x_0 for each level of ``LEVELS``.

    ``noise``: all examples of a batch share the level, as in denoising. ``mixed``: the
    rest of the batch has other levels, as in the diffusion loss. ``origin``: the error
    of x_0 that follows from ``noise``, divided by the variance of x_0.
    """
    powers, key = jnp.asarray(alpha_bar()), jax.random.key(5)
    result = {"noise": [], "mixed": [], "origin": []}
    for level in LEVELS:
        errors = {"noise": [], "mixed": []}
        for i, (x,) in enumerate(batches(x_0)):
            keys = jax.random.split(jax.random.fold_in(key, i))
            eps = jax.random.normal(keys[0], x.shape)
            shared = jnp.full(BATCH, level)
            others = jax.random.randint(keys[1], (BATCH,), 0, 1000)
            mixed = jnp.where(jnp.arange(BATCH) % 8 == 0, shared, others)
            for name, t in (("noise", shared), ("mixed", mixed)):
                error = jnp.square(predict(add_noise(x, eps, powers[t]), t) - eps)
                errors[name].append(jnp.mean(error[::8]))
        for name, values in errors.items():
            result[name].append(float(np.mean(values)))
        a = alpha_bar()[level]
        variance = float(np.var(x_0, axis=(0, 1, 2)).mean())
        result["origin"].append(result["noise"][-1] * (1 - a) / a / variance)
    return {k: [float(f"{v:.4g}") for v in values] for k, values in result.items()}


def denoise_all(predict: Predict, maps: Mapping[str, np.ndarray]) -> dict[str, list]:
    """Returns distances to the teacher before and after five DDIM steps, by start.

    Each start has four numbers, all divided by the variance of the teacher's features:
    the mean squared error before and after; and both after the best linear map of the
    channels, as the output projection can learn it. This map is fitted on one half of
    the unseen images and scored on the other.
    """
    teacher, key = maps["unseen/teacher"], jax.random.key(6)
    student = _project(maps)
    eps = np.asarray(jax.random.normal(key, teacher.shape))
    a = alpha_bar()[400]
    starts = {"noise alone": eps}
    for who, x in (("teacher", teacher), ("student", student)):
        for gamma in (1.0, 0.9, 0.5):
            starts[f"{who}, gamma {gamma:g}"] = gamma * x + (1 - gamma) * eps
        starts[f"{who}, t = 400"] = np.sqrt(a) * x + np.sqrt(1 - a) * eps
    run = jax.jit(lambda x: _ddim(predict, x))
    variance = float(np.var(teacher, axis=(0, 1, 2)).mean())
    rows = {}
    for name, x_t in starts.items():
        after = np.concatenate([np.asarray(run(x)) for (x,) in batches(x_t)])
        target, before = teacher[: len(after)], x_t[: len(after)]
        plain = [np.mean(np.square(x - target)) / variance for x in (before, after)]
        mapped = [_mapped_error(x, target) / variance for x in (before, after)]
        rows[name] = [float(f"{value:.4g}") for value in plain + mapped]
    return rows


def _ddim(predict: Predict, x: jax.Array) -> jax.Array:
    """Returns the result of the five steps of DiffKD."""
    plan = ddim_plan(5)
    for i in range(5):
        row = jax.tree.map(lambda values, i=i: values[i], plan)
        x = ddim_step(x, predict(x, jnp.broadcast_to(row.t, x.shape[:1])), row)
    return x


def _project(maps: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the student's unseen features in the best linear projection.

    The projection is fitted on the training images.
    """
    weights = _fit(maps["train/student"], maps["train/teacher"])
    return _apply(weights, maps["unseen/student"])


def _mapped_error(x: np.ndarray, target: np.ndarray) -> float:
    """Returns the mean squared error after a linear map, on the second half."""
    half = len(x) // 2
    weights = _fit(x[:half], target[:half])
    return float(np.mean(np.square(_apply(weights, x[half:]) - target[half:])))


def _fit(x: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Returns the least-squares weights of the channels of each pixel, and a bias."""
    rows = np.concatenate([x, np.ones_like(x[..., :1])], -1)
    rows = rows.reshape(-1, rows.shape[-1]).astype(np.float64)
    goal = target.reshape(-1, target.shape[-1])
    return np.linalg.lstsq(rows.T @ rows, rows.T @ goal, rcond=None)[0]


def _apply(weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Applies the weights of :func:`_fit`."""
    return (x @ weights[:-1] + weights[-1]).astype(np.float32)
