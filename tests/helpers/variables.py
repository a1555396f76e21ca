"""Variables of models, drawn and named."""

import jax
import numpy as np


def random_variables(model, shape, seed=0):
    """Random variables; norms are random too, so that no part is the identity."""
    image = jax.ShapeDtypeStruct((1, *shape), np.float32)
    rng = np.random.default_rng(seed)

    def draw(path, x):
        name, normal = path[-1].key, rng.standard_normal(x.shape)
        if name in ("scale", "var"):
            normal = 0.5 + rng.random(x.shape)
        elif name == "kernel":
            normal = normal / np.sqrt(np.prod(x.shape[:-1]))
        return normal.astype(x.dtype)

    template = jax.eval_shape(model.init, jax.random.key(0), image)
    return jax.tree_util.tree_map_with_path(draw, template)


def paths(tree):
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return ["/".join(k.key for k in path) for path, _ in flat]
