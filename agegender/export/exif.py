"""How a JPEG or PNG file says that its image is turned, read and undone within a TensorFlow graph.

TensorFlow decodes images without looking at their EXIF orientation, which Pillow's `exif_transpose` undoes.
"""

from typing import Any, Final

_HEAD: Final = 4096  # bytes of a file in which its EXIF data begin
# The first directory, right after EXIF's head, in either byte order; in it any number of entries of 12 bytes, and that
# of the orientation: tag 0x0112, type 3, one value. Text of bytes: \C is one, whatever it is.
_ENTRIES: Final = r"\C\C(?:\C{12}){0,60}?"
_LITTLE: Final = rf"II\*\x00\x08\x00\x00\x00{_ENTRIES}\x12\x01\x03\x00\x01\x00\x00\x00([\x01-\x08])\x00"
_BIG: Final = rf"MM\x00\*\x00\x00\x00\x08{_ENTRIES}\x01\x12\x00\x03\x00\x00\x00\x01\x00([\x01-\x08])"
_FILE: Final = rf"^\C*?(?:Exif\x00\x00|eXIf)(?:{_LITTLE}|{_BIG})\C*$"


def orientations(files: Any) -> Any:
    """The EXIF orientations of images.

    What XMP says of them is not looked at, nor EXIF data far from the beginning of a file.

    Args:
        files: a tensor of strings [batch], each the bytes of a JPEG or PNG file.

    Returns:
        A tensor uint8 [batch], 1..8; 1, upright, where nothing else is said or it cannot be read.
    """
    import tensorflow as tf

    heads = tf.strings.substr(files, 0, _HEAD)
    found = tf.strings.regex_replace(heads, _FILE, r"\1\2")  # one byte, or the head as it was
    return tf.io.decode_raw(tf.where(tf.strings.length(found) == 1, found, b"\x01"), tf.uint8, fixed_length=1)[:, 0]


def turn_upright(image: Any, orientation: Any) -> Any:
    """Undoes an orientation.

    Args:
        image: a tensor [height, width, 3].
        orientation: a tensor uint8, 1..8.

    Returns:
        A tensor [height, width, 3], or [width, height, 3] from orientation 5 on.
    """
    import tensorflow as tf

    def turned() -> Any:
        over = tf.cond(orientation >= 5, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
        back = [tf.reduce_any(orientation == of) for of in ((3, 4, 7, 8), (2, 3, 6, 7))]  # rows, columns
        return tf.reverse(over, tf.boolean_mask((0, 1), back))

    return tf.cond(orientation == 1, lambda: image, turned)
