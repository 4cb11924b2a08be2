"""The second run of the released model: from the weights of released_64_first, with weaker colours.

Needs embeddings.npz and runs/released_64_first. About 100 minutes on one CPU core of 2026.
"""

from ml_collections import ConfigDict

from experiments.configs import released_64_first


def get_config() -> ConfigDict:
    config = released_64_first.get_config()
    config.init_from = "runs/released_64_first"
    config.augmentation.update(saturation=0.2, color=0.06, blur=0.02)
    config.optimizer.learning_rate = 1.5e-3
    config.train.update(epochs=40, image_sizes=())
    return config
