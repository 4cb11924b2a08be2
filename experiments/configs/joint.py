"""The reference: one VGG16 with VGGFace weights at 200 px, last block and two heads trained together."""

from experiments.config import Config


def get_config() -> Config:
    return Config()
