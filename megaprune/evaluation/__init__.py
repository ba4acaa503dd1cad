"""How right and how long a model's answers are: drawn, kept and summed up."""
