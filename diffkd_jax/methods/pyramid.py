"""Methods for a feature pyramid, with one tap for each level (detection)."""

import functools
from collections.abc import Sequence

from ..bounds import Channels, Factor, Positive, Share, Weight
from ..core.diffkd import DiffKD
from ..core.distances import DISTANCES, l1
from ..core.losses import Weight as LossWeight
from ..core.taps import Tap
from ..named import find
from .fgd_blocks import Relation
from .fgd_blocks import fgd as fgd_distance
from .method import Method
from .single import Denoiser, Gradient, Steps, TrainSteps

LEVELS = ("p3", "p4", "p5", "p6", "p7")


def diffkd_fpn(
    *,
    levels: tuple[str, ...] = LEVELS,
    distance: str = "mse",
    latent_channels: Channels | None = None,
    num_steps: Steps = 5,
    num_train_steps: TrainSteps = 1000,
    gradient: Gradient = "full",
    denoiser: Denoiser = "diffusion",
    gamma: Share | None = None,
    min_noise: Share = 0.0,
    time_aware: bool = False,
    predictor_width: Factor = 1.0,
    weight: Weight = 5.0,
    diffusion_weight: Weight = 1.0,
    box_weight: Weight = 0.0,
    share: bool = False,
    remat: bool = False,
) -> Method:
    """Returns DiffKD on all levels of a feature pyramid (paper, section 4.3).

    Losses are means within a level, and sums over levels.

    Args:
      levels: matched outputs ``fpn/<level>``: p3 to p7 for RetinaNet and FCOS, p2 to p5
        for Faster R-CNN.
      distance: a key of :data:`diffkd_jax.DISTANCES`, or an import path. The paper
        marks results with an attention-based MSE by a dagger; ``attention_mse`` is our
        reading of it.
      latent_channels: width of the autoencoder, or None for no autoencoder, as in the
        paper.
      num_steps: number of denoising steps; 0 for projections and noise matching alone.
      num_train_steps: number of diffusion time steps.
      gradient: how denoising is differentiated, see :class:`diffkd_jax.DiffKD`.
      denoiser: the network that denoises and what trains it, see the same class. All
        values but "diffusion" are controls.
      gamma: share of the student that noise matching keeps; None to learn it.
      min_noise: smallest share of noise in the student, an upper bound of gamma; 0 in
        the paper.
      time_aware: let denoising depend on the time step, which the paper's does not, see
        :class:`diffkd_jax.DiffKD`.
      predictor_width: factor of the inner widths of the noise predictor; 1 in the
        paper.
      weight: weight of the distances: 5 for RetinaNet, FCOS and Faster R-CNN, 15 for
        RepPoints.
      diffusion_weight: weight of the diffusion losses. The paper does not say whether
        its weight of 5 applies to them too, as it does in its code for classification.
      box_weight: weight of the mean absolute difference of ``box_codes`` on the same
        levels, the regression KD of MasKD for RetinaNet; 0 for none.
      share: if true, all levels share one block; if false, each has its own. The paper
        does not say which.
      remat: if true, recompute the noise predictor in the backward pass to save memory.

    >>> method = diffkd_fpn(levels=["p3", "p4"], box_weight=1.0)
    >>> sorted(method.taps)
    ['box_p3', 'box_p4', 'p3', 'p4']
    """
    _check(levels)
    function = find(distance, DISTANCES, "distance")
    block = DiffKD(
        latent_channels,
        None,
        num_steps,
        num_train_steps,
        remat=remat,
        gradient=gradient,
        denoiser=denoiser,
        gamma=gamma,
        min_noise=min_noise,
        time_aware=time_aware,
        predictor_width=predictor_width,
    )
    shared_name = "pyramid" if share else ""
    taps, weights = {}, dict[str, LossWeight]()
    for level in levels:
        name = f"fpn/{level}"
        taps[level] = Tap(name, name, function, block, share=shared_name)
        weights[f"{level}/distance"] = weight
        if "diffusion" in block.loss_names:
            weights[f"{level}/diffusion"] = diffusion_weight
        if box_weight:
            codes = f"box_codes/{level}"
            taps[f"box_{level}"] = Tap(codes, codes, l1, None)
            weights[f"box_{level}"] = box_weight
    return Method(taps, weights)


def mse_fpn(
    *, levels: tuple[str, ...] = LEVELS, distance: str = "mse", weight: Weight = 1.0
) -> Method:
    """Returns the method that compares levels directly, without denoising.

    The student is projected if the numbers of channels differ.

    Args:
      levels: matched outputs ``fpn/<level>``.
      distance: a key of :data:`diffkd_jax.DISTANCES`, or an import path.
      weight: weight of each level.

    >>> mse_fpn(levels=["p3"], weight=2.0).weights
    {'p3/distance': 2.0}
    """
    _check(levels)
    function = find(distance, DISTANCES, "distance")
    taps = {level: Tap(f"fpn/{level}", f"fpn/{level}", function) for level in levels}
    return Method(taps, {f"{level}/distance": weight for level in levels})


def fgd(
    *,
    levels: tuple[str, ...] = LEVELS,
    temperature: Positive = 0.5,
    alpha: Weight = 1e-3,
    beta: Weight = 5e-4,
    gamma: Weight = 5e-4,
    relation: Weight = 5e-6,
) -> Method:
    """Returns focal and global distillation of a pyramid (Yang et al., CVPR 2022).

    The default weights are those for RetinaNet. For Faster R-CNN, on ``p2`` to ``p5``,
    ``alpha``, ``beta``, ``gamma`` and ``relation`` are 5e-5, 2.5e-5, 5e-5 and 5e-7. For
    FCOS they are 1.6e-3, 8e-4, 8e-4 and 8e-6, with a temperature of 0.8.

    Args:
      levels: matched outputs ``fpn/<level>``; ``p3`` has a stride of 8 pixels.
      temperature: temperature of the attention.
      alpha: weight of errors inside boxes.
      beta: weight of errors outside boxes.
      gamma: weight of the difference between the attentions of student and teacher.
      relation: weight of the loss of :class:`diffkd_jax.methods.fgd_blocks.Relation`,
        lambda in the paper of FGD.

    >>> method = fgd(levels=("p3", "p4"))
    >>> sorted(method.taps), method.taps["p4"].distance.keywords["stride"]
    (['p3', 'p4'], 16)
    """
    _check(levels)
    taps = {}
    for level in levels:
        distance = functools.partial(
            fgd_distance,
            stride=2 ** int(level[1:]),
            temperature=temperature,
            alpha=alpha,
            beta=beta,
            gamma=gamma,
        )
        taps[level] = Tap(f"fpn/{level}", f"fpn/{level}", distance, Relation())
    return Method(taps, {f"{level}/relation": relation for level in levels})


def _check(levels: Sequence[str]) -> None:
    """Refuses levels that are not named like ``p3``, and levels named twice."""
    valid = [level[:1] == "p" and level[1:].isdecimal() for level in levels]
    if not valid or not all(valid):
        raise ValueError(f"levels: found {levels!r}, expected names such as 'p3'")
    if len(set(levels)) < len(levels):
        raise ValueError(f"levels: found {levels!r}, expected each level once")
