"""The first of the notebook's two models: age alone, the last three layers of VGGFace trained, batches of 32."""

from ml_collections import ConfigDict

from experiments.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.batch_size = 32
    config.trunk.trainable = 3
    config.model.heads = ("age",)
    config.augmentation.update(brightness=0.0, contrast=0.0, erasing=0.0)
    config.optimizer.update(warmup=0.0, weight_decay=0.0)
    config.train.epochs = 30
    return config
