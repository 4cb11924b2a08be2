"""From predictions to metrics by group and a report."""
