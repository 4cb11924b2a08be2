"""What `make train` runs: drawn faces, small enough for a few minutes on two CPU cores."""

from ml_collections import ConfigDict

from experiments.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.update(image_size=48, batch_size=32)
    config.trunk.update(weights=None, trainable="all", width=0.25)
    config.batch_norm = True
    config.augmentation.update(width_shift=0.05, height_shift=0.05, zoom=0.05, erasing=0.0)
    config.optimizer.learning_rate = 2e-3
    config.train.update(epochs=12, steps_per_epoch=50)  # one pass over the drawn faces; less than one over UTKFace
    return config
