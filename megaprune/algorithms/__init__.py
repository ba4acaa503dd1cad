"""What is learned from graded responses: rewards, advantages, filters and losses as objects.

No process groups and no engines; torch is used through the tensors that a loss is given.
"""
