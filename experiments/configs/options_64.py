"""As short_48 for a GPU: VGG16 of full width at 64 px, minutes on one."""

import dataclasses

from experiments.config import Config
from experiments.configs import short_48


def get_config() -> Config:
    return dataclasses.replace(short_48.get_config(), width=1.0, image_size=64, batch_size=128, epochs=10)
