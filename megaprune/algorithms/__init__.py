"""From rewards to gradients: advantage estimators (numpy) and losses (torch), no process groups."""
