"""Trunk, heads, augmentation, losses and saved models, in Keras alone."""
