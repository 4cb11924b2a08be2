"""What the options are compared with: a few epochs of a narrow VGG16 from random weights, minutes on two CPU cores."""

from experiments.config import AugmentationConfig, Config


def get_config() -> Config:
    return Config(
        image_size=48,
        width=0.25,
        weights="none",
        trainable="all",
        batch_norm=True,
        batch_size=64,
        epochs=4,
        learning_rate=2e-3,
        weight_decay=0.03,
        augmentation=AugmentationConfig(
            rotation=8.0, width_shift=0.06, height_shift=0.06, zoom=0.1, shear=3.0, erasing=0.1
        ),
    )
