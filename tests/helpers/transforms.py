"""Transforms of a config's section ``data``, for whatever a batch holds."""

from diffkd_jax.data.transforms import recognise_target


def train_transform(options):
    """Augmentation, as a function of a batch and draws."""

    def transform(batch, draws):
        kind = recognise_target(batch.get("target", {}))
        kind.check(options)
        return kind.train(batch, draws, options)

    return transform


def eval_transform(options):
    """Preparation for evaluation, as a function of a batch."""

    def transform(batch):
        kind = recognise_target(batch.get("target", {}))
        kind.check(options)
        return kind.evaluate(batch, options)

    return transform
