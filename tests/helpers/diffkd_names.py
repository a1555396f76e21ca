"""Names that the official DiffKD code has for the layers of the blocks."""

from diffkd_jax.weights.torch.renaming import Rename

# Convolutions and norms share one sequence there.
_BOTTLENECK: Rename = (
    (r"/(?:conv|norm)0$", lambda m: ".block.0" if "conv" in m[0] else ".block.1"),
    (r"/(?:conv|norm)1$", lambda m: ".block.3" if "conv" in m[0] else ".block.4"),
    (r"/(?:conv|norm)2$", lambda m: ".block.6" if "conv" in m[0] else ".block.7"),
)
_DIFFKD: Rename = (
    (r"^student_projection", "trans"),
    (r"^autoencoder/encoder", "ae.encoder.0"),
    (r"^autoencoder/norm", "ae.encoder.1"),
    (r"^autoencoder/decoder", "ae.decoder.0"),
    (r"^output_projection", "proj.0"),
    (r"^output_norm", "proj.1"),
    (r"^noise_predictor/time_embedding", "model.time_embedding"),
    (r"^noise_adapter/dense", "noise_adapter.pred"),
)
DIFFKD_FEATURES: Rename = (
    *_DIFFKD,
    *_BOTTLENECK,
    (r"^noise_predictor/bottleneck(\d)", r"model.pred.\1"),
    (r"^noise_predictor/conv", "model.pred.2"),
    (r"^noise_predictor/norm", "model.pred.3"),
    (r"^noise_adapter/bottleneck", "noise_adapter.feat.0"),
)
DIFFKD_LOGITS: Rename = (
    *_DIFFKD,
    (r"^noise_predictor/conv0", "model.pred.0"),
    (r"^noise_predictor/norm0", "model.pred.1"),
    (r"^noise_predictor/conv1", "model.pred.3"),
    (r"^noise_predictor/norm1", "model.pred.4"),
    (r"^noise_predictor/conv2", "model.pred.5"),
    (r"^noise_predictor/norm2", "model.pred.6"),
    (r"^noise_predictor/conv3", "model.pred.8"),
    (r"^noise_adapter/conv0", "noise_adapter.feat.0"),
    (r"^noise_adapter/norm0", "noise_adapter.feat.1"),
    (r"^noise_adapter/conv1", "noise_adapter.feat.3"),
    (r"^noise_adapter/norm1", "noise_adapter.feat.4"),
)
