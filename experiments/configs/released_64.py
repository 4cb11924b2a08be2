"""The second run of the released model: from the weights of released_64_first, with less augmentation.

Needs embeddings.npz and runs/released_64_first. About half an hour on one CPU core of 2026.
"""

from ml_collections import ConfigDict

from experiments.configs import released_64_first


def get_config() -> ConfigDict:
    config = released_64_first.get_config()
    config.init_from = "runs/released_64_first"
    config.augmentation.update(rotation=8.0, width_shift=0.06, height_shift=0.06, zoom=0.1, shear=3.0)
    config.augmentation.update(brightness=0.1, contrast=0.1, saturation=0.0, color=0.0, blur=0.0)
    config.optimizer.learning_rate = 1e-3
    config.train.update(epochs=14, image_sizes=())
    return config
