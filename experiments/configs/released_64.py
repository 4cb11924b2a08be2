"""The second run of the released model: all weights, from those of released_64_first.

Needs embeddings.npz of `experiments.embeddings` and runs/released_64_first. About 90 minutes on two CPU cores of 2026.
The released weights are of a run with `--config.train_split=train+validation`.
"""

from ml_collections import ConfigDict

from experiments.configs import released_64_first


def get_config() -> ConfigDict:
    config = released_64_first.get_config()
    config.init_from = "runs/released_64_first"
    config.trunk.trainable = "all"
    config.data.embeddings = "embeddings.npz"
    config.optimizer.learning_rate = 1.5e-4
    config.train.update(epochs=72, loss_weights={"embedding": 4.0})
    return config
