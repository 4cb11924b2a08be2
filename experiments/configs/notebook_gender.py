"""The second of the notebook's two models: as notebook_age.py, for gender alone."""

from ml_collections import ConfigDict

from experiments.configs import notebook_age


def get_config() -> ConfigDict:
    config = notebook_age.get_config()
    config.model.heads = ("gender",)
    return config
