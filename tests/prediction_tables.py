"""A table of predictions for tests of what measures it."""

import numpy as np


def make_table(count: int = 400, seed: int = 0) -> dict[str, np.ndarray]:
    """Labels and predictions that are good but for the ages of Asian faces and the genders of children."""
    random = np.random.default_rng(seed)
    ages, genders = random.integers(0, 100, count).astype("float32"), random.integers(0, 2, count).astype("float32")
    races = random.integers(0, 5, count).astype("float32")
    errors = random.normal(0, 3, count) + 8 * (races == 2)
    logits = np.where(ages < 10, 0.1, 2) * (2 * genders - 1) + random.normal(0, 1, count)
    return {
        **{"age": ages, "gender": genders, "race": races},
        **{"predicted_age": (ages + errors).astype("float32"), "p_female": 1 / (1 + np.exp(-logits))},
    }
