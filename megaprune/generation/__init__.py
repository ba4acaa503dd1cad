"""Responses to prompts: real vLLM, in the same processes as the model in training."""
