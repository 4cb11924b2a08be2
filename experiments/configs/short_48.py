"""What the options are compared with: three epochs from random weights, nine minutes on two CPU cores."""

from experiments.config import AugmentationConfig, Config


def get_config() -> Config:
    return Config(
        image_size=48,
        weights="none",
        trainable="all",
        batch_norm=True,
        batch_size=64,
        epochs=3,
        sizes="2x32",
        learning_rate=1e-3,
        weight_decay=0.05,
        augmentation=AugmentationConfig(width_shift=0.08, height_shift=0.08, zoom=0.1, shear=5.0, erasing=0.1),
    )
