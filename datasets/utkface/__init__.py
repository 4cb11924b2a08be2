"""UTKFace as a TensorFlow dataset. Importing this package registers it: `tfds.load("utkface")`."""

from .utkface_dataset_builder import Builder as Builder
