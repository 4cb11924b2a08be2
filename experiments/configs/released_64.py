"""The third run of the released model: from the weights of released_64_second, with heads turned to the side.

Needs embeddings.npz and runs/released_64_second. About 25 minutes on two CPU cores of 2026.
"""

from ml_collections import ConfigDict

from experiments.configs import released_64_second


def get_config() -> ConfigDict:
    config = released_64_second.get_config()
    config.init_from = "runs/released_64_second"
    config.augmentation.yaw = 50.0
    config.optimizer.learning_rate = 1e-3
    config.train.epochs = 16
    return config
