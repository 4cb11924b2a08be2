"""What `make train` runs: faces that the project draws, small enough for a few minutes on two CPU cores."""

from experiments.config import AugmentationConfig, Config


def get_config() -> Config:
    return Config(
        image_size=48,
        width=0.25,
        weights="none",
        trainable="all",
        batch_norm=True,
        batch_size=32,
        epochs=12,
        steps_per_epoch=50,  # one pass over the drawn faces; on real images the same time, not one pass
        learning_rate=2e-3,
        augmentation=AugmentationConfig(width_shift=0.05, height_shift=0.05, zoom=0.05, erasing=0.0),
    )
