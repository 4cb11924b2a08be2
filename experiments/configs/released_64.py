"""The released model: a joint VGG16 at 64 px from random weights, two to five minutes on a large GPU.

Two CPU cores train three eighths of the width in two hours: `--config.width=0.375 --config.epochs=18
--config.sizes=6x48 --config.batch_size=64`.
"""

from experiments.config import AugmentationConfig, Config


def get_config() -> Config:
    return Config(
        image_size=64,
        weights="none",
        trainable="all",
        batch_norm=True,
        age_head="distribution",
        batch_size=128,
        epochs=30,
        sizes="10x48",
        learning_rate=2e-3,
        weight_decay=0.03,
        flip=True,
        augmentation=AugmentationConfig(
            rotation=8.0, width_shift=0.06, height_shift=0.06, zoom=0.1, shear=3.0, erasing=0.1
        ),
    )
