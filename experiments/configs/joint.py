"""The reference: one VGG16 with VGGFace weights at 200 px; trains the last block and both heads together."""

from ml_collections import ConfigDict

from experiments.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.batch_size = 64
    config.train.epochs = 30
    return config
