"""What the thoughts of a model consist of, before and after pruning.

`thoughts` reads and chooses answers and counts words of doubt; `judge` says what a language model
is asked about each step, and reads its reply; `judging` asks it about many thoughts and keeps what
it says (`client` speaks to it); `summary` adds up and draws; `run` does all that.
"""
