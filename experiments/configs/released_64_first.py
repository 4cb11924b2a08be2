"""The first run of the released model: VGG16 of three eighths of the width at 64 px, taught by a face recogniser.

Needs embeddings.npz of `experiments.embeddings`. About an hour on one CPU core of 2026.
"""

from ml_collections import ConfigDict

from experiments.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.update(image_size=64, batch_size=64, embeddings="embeddings.npz")
    config.trunk.update(weights=None, trainable="all", width=0.375)
    config.batch_norm = True
    config.model.age_head = "distribution"
    config.augmentation.update(rotation=10.0, width_shift=0.08, height_shift=0.08, zoom=0.15, shear=5.0, erasing=0.1)
    config.augmentation.update(brightness=0.2, contrast=0.2, saturation=0.4, color=0.12, blur=0.02)
    config.optimizer.update(learning_rate=2e-3, weight_decay=0.03)
    config.train.update(epochs=28, image_sizes=((12, 48),), loss_weights={"embedding": 4.0})
    config.calibration.flip = True
    return config
