"""Age intervals and the temperature of gender probabilities."""
