"""The released model: a joint VGG16 at 64 px from random weights, two to five minutes on a large GPU.

Two CPU cores train three eighths of the width in two hours: `--config.trunk.width=0.375 --config.train.epochs=18
--config.train.image_sizes='((6, 48),)' --config.data.batch_size=64`.
"""

from ml_collections import ConfigDict

from experiments.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.update(image_size=64, batch_size=128)
    config.trunk.update(weights=None, trainable="all")
    config.batch_norm = True
    config.model.age_head = "distribution"
    config.augmentation.update(rotation=8.0, width_shift=0.06, height_shift=0.06, zoom=0.1, shear=3.0, erasing=0.1)
    config.optimizer.update(learning_rate=2e-3, weight_decay=0.03)
    config.train.update(epochs=30, image_sizes=((10, 48),))
    config.calibration.flip = True
    return config
