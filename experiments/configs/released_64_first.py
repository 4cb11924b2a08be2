"""The first run of the released model: the heads alone, on dlib's face recogniser at 64 px.

Needs the extra `distill`. About a minute on two CPU cores of 2026.
"""

from ml_collections import ConfigDict

from experiments.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.data.update(image_size=64, batch_size=64)
    config.trunk.update(architecture="dlib", weights="dlib", trainable="none")
    config.model.update(age_head="distribution", units=(256, 256, 128))
    config.augmentation.update(rotation=10.0, width_shift=0.08, height_shift=0.08, zoom=0.15, shear=5.0, erasing=0.1)
    config.augmentation.update(brightness=0.2, contrast=0.2, saturation=0.2, color=0.06, blur=0.02, yaw=50.0)
    config.optimizer.update(learning_rate=4e-3, weight_decay=0.03)
    config.train.epochs = 2
    config.calibration.flip = True
    return config
