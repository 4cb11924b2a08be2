"""From photographs to faces with ages and genders."""
