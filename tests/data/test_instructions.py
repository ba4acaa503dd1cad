"""Words around a problem that ask for a form of the answer: found, and taken off where wanted."""

import pytest

from megaprune.data.instructions import BOX, asked_format, without_instructions

PROBLEM = "Let $x + 3 = 7$. What is $x$?"

AROUND = [
    (
        "Solve the following math problem step by step. The last line of your response should be "
        "of the form Answer: $Answer (without quotes) where $Answer is the answer to the problem."
        '\n\n{}\n\nRemember to put your answer on its own line after "Answer:".',
        "Answer:",
    ),
    (
        "{}\n\nThe last line should be of the form Answer: $ANSWER, and you do not need to use a "
        "\\boxed command for the answer.",
        "Answer:",
    ),
    ('{} Let\'s think step by step and output the final answer after "####".', "####"),
    ("{}\nWrite your final answer as #### N.", "####"),
    ("{} Let's think step by step and output the final answer within \\boxed{{}}.", BOX),
    ("{}\n\nPresent the answer in LaTex format: \\boxed{{Your answer}}", BOX),
    ("{}\nPlease reason step by step, and put your final answer within \\boxed{{}}.", BOX),
    ("{}\nPut your answer inside <answer> </answer> tags.", "<answer>"),
    ('{}\nGive the final answer as JSON: {{"answer": ...}}.', "JSON"),
    ("{}\nEnd your response with 'Final Answer: X'.", "Answer:"),
    ("Please think step by step.\n{}", None),
]


@pytest.mark.parametrize(("around", "form"), AROUND)
def test_words_around_a_problem(around, form):
    text = around.format(PROBLEM)
    assert asked_format(text) == form
    assert without_instructions(text) == PROBLEM


OWN = [
    PROBLEM,
    "Fill the box: $\\boxed{\\phantom{0}} + 3 = 7$. Which digit is it?",
    "The robot moves step by step. Where is it after 9 steps?",
    "Express the answer as $m/n$ and find $m + n$.",
    "Give your answer in simplest form.",
    "Solve the equation step by step.",  # nothing would be left
    "Show that #P is hard. What is the answer: A, B or C?",
    "1. First sentence. 2. Second sentence! What follows? (A) 1 (B) 2",
]


@pytest.mark.parametrize("problem", OWN)
def test_what_is_the_problems_own_stays(problem):
    assert without_instructions(problem) == problem


@pytest.mark.parametrize("problem", [*OWN[:1], *OWN[2:]])
def test_a_problem_asks_for_no_form(problem):
    assert asked_format(problem) is None


def test_sentences_within_a_problem_stay():
    text = "Let x = 1. Write the answer in \\boxed{}. What is x + 1?"
    assert without_instructions(text) == text
    assert without_instructions(f"{text} Put the answer in \\boxed{{}}.") == text
