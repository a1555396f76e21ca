"""Folded batch norm gives the same outputs."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffkd_jax import models
from diffkd_jax.models.fold import fold
from diffkd_jax.models.model import from_linen
from tests.helpers.variables import paths, random_variables

NAMES = ["resnet8", "wrn_16_1", "vgg8", "shufflenet_v1", "mobilenet_v2"]
NAMES += ["tf_efficientnet_b0"]


SEGMENTERS = {
    "aspp": models.build_network("deeplabv3_resnet8", num_classes=5, aux=True),
    "pyramid": models.Segmenter(models.MODELS["resnet8"], "pyramid", 5),
}


@pytest.mark.parametrize("name", [*NAMES, *SEGMENTERS])
def test_outputs_are_the_same(name):
    model = SEGMENTERS.get(name) or models.build_network(name, num_classes=5)
    x = np.random.default_rng(1).standard_normal((2, 32, 32, 3)).astype(np.float32)
    variables = random_variables(model, (32, 32, 3))
    folded = fold(model, variables, (32, 32, 3))
    # Norms in front of convolutions, or with outputs behind them, stay.
    assert not [k for k in paths(folded) if "conv0/norm" in k or "expand/norm" in k]
    expected, found = (jax.jit(model.apply)(v, x) for v in (variables, folded))
    for output in expected:
        error = np.abs(found[output] - expected[output]).max()
        assert error < 1e-5 * np.abs(expected[output]).max(), output


@pytest.mark.parametrize("name", SEGMENTERS)
def test_networks_of_segmentation_keep_no_norm(name):
    model = SEGMENTERS[name]
    variables = random_variables(model, (32, 32, 3))
    folded = paths(fold(model, variables, (32, 32, 3)))
    assert any("norm" in path for path in paths(variables))
    assert not [path for path in folded if "norm" in path or "batch_stats" in path]
    assert {"params/head/bias", "params/aux_head/kernel"} <= set(folded)


def test_folded_variables_do_not_train():
    model = models.build_network("resnet8", num_classes=5)
    x = np.zeros((2, 8, 8, 1), np.float32)
    folded = fold(model, random_variables(model, (8, 8, 1)), (8, 8, 1))
    with pytest.raises(ValueError, match="stem: found folded variables"):
        jax.eval_shape(lambda: model.apply(folded, x, train=True))


def test_modules_without_batch_norm_are_left_alone():
    model = models.build_network("swin_t", num_classes=5)
    shape = (32, 32, 3)
    variables = random_variables(model, shape)
    chex.assert_trees_all_equal(fold(model, variables, shape), variables)


class NeedsTrain(nn.Module):
    """A network that has to be told whether it trains."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dropout(0.5, deterministic=not train)(nn.Conv(4, (3, 3))(x))
        return {"features": x, "logits": x.mean((1, 2))}


def test_a_module_that_has_to_be_told_whether_it_trains_can_be_a_teacher():
    model, batch = from_linen(NeedsTrain()), {"image": jnp.ones((2, 8, 8, 3))}
    params, state = model.init(jax.random.key(0), batch)
    frozen = model.freeze(params, state, batch)
    expected = model.infer({"params": params, **state}, batch)["logits"]
    logits = model.infer({"params": frozen[0], **frozen[1]}, batch)["logits"]
    np.testing.assert_array_equal(logits, expected)
