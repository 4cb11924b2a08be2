"""The second of the notebook's two models: as notebook_age.py, for gender alone."""

import dataclasses

from experiments.config import Config
from experiments.configs import notebook_age


def get_config() -> Config:
    return dataclasses.replace(notebook_age.get_config(), heads="gender")
