"""Weights and how they move: one algebra of boxes for every layout of a model.

`boxes`, `families`, `model`, `layouts` and `copy_plan` are pure Python. `files`, `convert`,
`verify` and `inspect` read and write folders and need torch. Nothing here needs megatron-core or
vLLM.
"""
