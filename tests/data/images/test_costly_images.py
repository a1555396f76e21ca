"""Pictures that would take time or memory out of proportion to their size."""

import io
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from diffkd_jax.data.images.decoding import decode_image
from diffkd_jax.data.images.encoded import Encoded, UnreadableImage


def test_jpegs_of_many_scans_are_refused():
    stream = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(stream, "JPEG", progressive=True)
    data = stream.getvalue()
    assert decode_image(Encoded(data, "a.jpg")).shape == (64, 64, 3)
    last = data[data.rindex(b"\xff\xda") : -2]
    repeated = data[:-2] + last * 1000 + data[-2:]
    with pytest.raises(UnreadableImage, match=r"a\.jpg: .* found 10\d\d scans of 64x"):
        decode_image(Encoded(repeated, "a.jpg"))


def test_levels_of_16_bits_are_all_scaled_without_wide_copies():
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256).repeat(8, 0)
    stream = io.BytesIO()
    Image.fromarray(levels).save(stream, "TIFF")
    picture = Encoded(stream.getvalue(), "a.tif", channels=1)
    tracemalloc.start()
    grey = decode_image(picture)[..., 0]
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(grey, np.rint(levels / 257))
    assert most < 4 * levels.nbytes
