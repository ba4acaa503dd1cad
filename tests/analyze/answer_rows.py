"""Rows of answers, as an evaluation has them."""

PROMPT = "<|im_start|>user\nWhat is {}?<|im_end|>\n<|im_start|>assistant\n<think>\n"


def answer(problem, steps, *, number=0, closed=True, **more):
    """A row; given the steps of its thought, or the text of its response."""
    response = steps if isinstance(steps, str) else "\n\n".join(steps)
    row = {
        "problem": f"sums/{problem}",
        "data_source": "sums",
        "prompt": PROMPT.format(problem),
        "number": number,
        "exit_at": None,
        "response": response + ("\n</think>\n\n\\boxed{1}" if closed else ""),
        "length": 10 * len(response.split()),
        "match": True,
        "finish": "stop",
    }
    return row | more
