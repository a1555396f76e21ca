"""The content of an image file, and the one error of a file that does not decode."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

NOT_AN_IMAGE = "not an image that decodes"


class UnreadableImage(ValueError):
    """An image file that does not decode; the message begins with its name."""


class Encoded(NamedTuple):
    """The content of an image file (JPEG, PNG, ...) and its name.

    Attributes:
      data: the bytes of the file.
      name: name for messages.
      channels: number of channels to decode to, 3 for RGB or 1 for grey.
      fault: why the file could not be read, or "".
      max_level: the level that is white in an image of 16 bits, such as 4095 for a
        camera of 12 bits; 0 for the highest level that the file can hold.

    >>> Encoded(b"GIF89a...", "1.gif").channels
    3
    """

    data: bytes
    name: str
    channels: int = 3
    fault: str = ""
    max_level: int = 0


ImageLike = np.ndarray | Encoded  # uint8 [h, w, c], or a file that decodes to that


@contextlib.contextmanager
def decoding_errors(image: Any) -> Iterator[None]:
    """Turns every error within the context into an :class:`UnreadableImage`.

    Args:
      image: the file that is decoded.

    Raises:
      UnreadableImage: any error within the context.
    """
    try:
        yield
    except Exception as error:
        raise UnreadableImage(
            f"{image.name}: {NOT_AN_IMAGE}: {describe_reason(error)}"
        ) from None


def describe_reason(error: Exception) -> str:
    r"""Returns the message of an error in one line, or its type if it has no message.

    >>> describe_reason(ValueError("two\n lines")), describe_reason(EOFError())
    ('two lines', 'EOFError')
    """
    return " ".join(str(error).split()) or type(error).__name__
