"""The parts of `experiments.explore`: what is read, what is counted, what is drawn, what is written."""
