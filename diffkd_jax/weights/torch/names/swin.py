"""Rename tables of Swin, see :mod:`diffkd_jax.weights.torch.renaming`."""

import re
from collections.abc import Callable

from ..renaming import Rename, add_one


def _swin_names(merging: Callable[[re.Match[str]], str], head: str) -> Rename:
    """Returns the table of a definition of Swin, by its names for merging and head."""
    return (
        (r"^patch_conv$", "patch_embed.proj"),
        (r"^patch_norm$", "patch_embed.norm"),
        (r"^stage(\d)_merging", merging),
        (r"downsample/norm$", "downsample.norm"),
        (r"downsample/dense$", "downsample.reduction"),
        (r"^stage(\d)_block(\d+)", lambda m: f"layers.{int(m[1]) - 1}.blocks.{m[2]}"),
        (r"/norm(\d)$", add_one(".norm")),
        (r"/qkv$", ".attn.qkv"),
        (r"/projection$", ".attn.proj"),
        (r"/dense(\d)$", add_one(".mlp.fc")),
        (r"^last_norm$", "norm"),
        (r"^head$", head),
    )


# timm merges patches at the start of a stage, the original at the end of
# the stage before.
TIMM_SWIN = _swin_names(lambda m: f"layers.{int(m[1]) - 1}.downsample", "head.fc")

MICROSOFT_SWIN = _swin_names(lambda m: f"layers.{int(m[1]) - 2}.downsample", "head")

TORCHVISION_SWIN: Rename = (
    (r"^patch_conv$", "features.0.0"),
    (r"^patch_norm$", "features.0.2"),
    (r"^stage(\d)_merging/norm$", lambda m: f"features.{2 * int(m[1]) - 2}.norm"),
    (
        r"^stage(\d)_merging/dense$",
        lambda m: f"features.{2 * int(m[1]) - 2}.reduction",
    ),
    (r"^stage(\d)_block(\d+)", lambda m: f"features.{2 * int(m[1]) - 1}.{m[2]}"),
    (r"/norm(\d)$", add_one(".norm")),
    (r"/qkv$", ".attn.qkv"),
    (r"/projection$", ".attn.proj"),
    (r"/dense0$", ".mlp.0"),
    (r"/dense1$", ".mlp.3"),
    (r"^last_norm$", "norm"),
)
