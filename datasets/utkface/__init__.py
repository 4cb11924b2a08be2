"""UTKFace as a TensorFlow dataset."""
