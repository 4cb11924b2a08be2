"""What the scripts do around their work."""

import contextlib
import sys
from collections.abc import Iterator

from absl import logging


@contextlib.contextmanager
def in_words() -> Iterator[None]:
    """Quiets TFDS, and ends the script with one line if there is an error that its words explain."""
    logging.set_verbosity(logging.WARNING)  # TFDS tells of each file it opens
    try:
        yield
    except (OSError, ValueError, FloatingPointError) as error:
        sys.exit(f"{type(error).__name__}: {error}")  # a traceback would hide the words
