"""The released model: a joint VGG16 at 64 px from random weights."""

from experiments.config import AugmentationConfig, Config


def get_config() -> Config:
    return Config(
        image_size=64,
        weights="none",
        trainable="all",
        batch_norm=True,
        age_head="distribution",
        batch_size=64,
        epochs=18,
        sizes="8x32,6x48",
        learning_rate=1e-3,
        weight_decay=0.05,
        flip=True,
        augmentation=AugmentationConfig(width_shift=0.08, height_shift=0.08, zoom=0.1, shear=5.0, erasing=0.1),
    )
