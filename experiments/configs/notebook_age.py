"""The first of the notebook's two models: age alone, the last three layers of VGGFace trained, batches of 32."""

from experiments.config import AugmentationConfig, Config


def get_config() -> Config:
    return Config(
        heads="age",
        trainable="3",
        batch_size=32,
        warmup=0.0,
        weight_decay=0.0,
        augmentation=AugmentationConfig(brightness=0.0, contrast=0.0, erasing=0.0),
    )
