"""Where the answer stands in a response."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaprune.grading.find import anywhere, last_box, last_boxes


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{5}", "5"),
        (r"\fbox{5}", "5"),
        (r"\boxed {5}", "5"),
        (r"\boxed5", "5"),
        (r"\boxed 42.", "42"),
        (r"\boxed -3,", "-3"),
        (r"$\boxed{1}$ and $\boxed{2}$", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\left\{x\right.}", r"\left\{x\right."),
        (r"\boxed{a \\ {b}}", r"a \\ {b}"),
        (r"\boxed{\boxed{3}, \boxed{4}}", r"\boxed{3}, \boxed{4}"),
        (r"\boxed{}", ""),
        (r"\boxed{1} then \boxed{2", "1"),
        (r"\boxed{1 \boxed{2}", "2"),
        (r"{ } } \boxed{1} }", "1"),
        (r"{ \boxed{1}", "1"),
        (r"\boxed{1\}", None),
        (r"I put it into \boxed as asked", None),
        (r"boxed{5}", None),
        ("", None),
    ],
)
def test_last_box(text, answer):
    assert last_box(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"$\boxed{3}$ and $\boxed{5}$", "3, 5"),
        (r"\[\boxed{3}\]" + "\n" + r"\[\boxed{5}\]", "3, 5"),
        (r"$x = \boxed{3}, \quad y = \boxed{5}$.", "3, 5"),
        (r"**$\boxed{3}$**, **$\boxed{5}$**", "3, 5"),
        (r"\boxed{1, 2} \text{ or } \boxed{3}", "1, 2, 3"),
        (r"\boxed 3, \boxed 5", "3, 5"),
        (r"\boxed{\boxed{3}, \boxed{4}}", r"\boxed{3}, \boxed{4}"),
        (r"\boxed{3} \boxed{5} \boxed{3}", "3, 5, 3"),
        (r"$\boxed{3}$" + "\n\n" + r"\boxed{3}", "3"),
        (r"\boxed{3} \boxed{}", "3"),
        (r"Not \boxed{3}. But $\boxed{5}$", "5"),
        (r"\boxed{3} is the first. Then $\boxed{5}$ and \boxed{6}", "5, 6"),
        (r"\boxed{3}" + " " * 50 + r"\boxed{5}", "5"),
        (r"\boxed{3}, \boxed{5", "3"),
        (r"\boxed{}", ""),
        ("3, 5", None),
    ],
)
def test_last_boxes(text, answer):
    assert last_boxes(text) == answer


BALANCED = st.recursive(
    st.text("ab1 ,\\frac+^", max_size=5).map(lambda text: text.replace("\\", ""))
    | st.just(r"\{")
    | st.just(r"\}")
    | st.just("\\\\"),
    lambda inner: st.builds("{{{}}}".format, inner) | st.builds("{}{}".format, inner, inner),
    max_leaves=12,
)


@given(before=BALANCED, inside=BALANCED, after=BALANCED)
def test_a_box_with_balanced_braces_is_found_whole(before, inside, after):
    assert last_box(before + r"\boxed{" + inside + "}" + after) == inside


@given(inside=BALANCED, first=BALANCED)
def test_a_cut_box_is_no_answer(inside, first):
    assert last_box(r"\boxed{" + inside) is None
    assert last_box(r"\boxed{" + first + r"} so \boxed{" + inside) == first


@given(st.text("{}\\boxed15 "))
def test_what_is_found_is_balanced_text_of_the_response(text):
    found = last_box(text)
    assert found is None or (found in text and last_box(r"\boxed{" + found + "}") == found)


@pytest.mark.parametrize(
    "piece", ["{", "}", r"\boxed{", "\\", "a", r"\boxed", r"\boxed{1}, ", "</think>"]
)
@pytest.mark.parametrize("find", [last_box, last_boxes, anywhere])
def test_a_megabyte_is_read_in_a_second(find, piece):
    begin = time.process_time()
    find(piece * (1_000_000 // len(piece)))
    assert time.process_time() - begin < 2


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"thought \boxed{42} and on", "42"),
        (r"\boxed{42", "42"),
        (r"\boxed 42$ is", "42"),
        ("So the answer is 42", "42"),
        ("The final answer is $42$. I hope it is correct.", "42"),
        ("答案是42\n\nfin", "42"),
        (r"\boxed{1} \boxed{2}", "2"),
        ("<answer>42</answer>", ""),
        ("", ""),
    ],
)
def test_anywhere(text, answer):
    assert anywhere(text) == answer
