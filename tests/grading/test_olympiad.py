"""Several answers, units and tolerances; graded as in a run, in a worker."""

import json

import pytest

from megaprune.grading import GRADERS, Pool, Verdict


def gold(*answers, **rest):
    return json.dumps({"answers": answers, "error": None, "unit": None, "ordered": False} | rest)


CASES = [
    # One answer: as the grader strict has it.
    (gold("2"), r"\boxed{2}", True),
    (gold(r"$\frac{1}{2 n+2}$"), r"\boxed{\dfrac{1}{2(n+1)}}", True),
    (gold("2"), r"\boxed{3}", False),
    (gold("(2,4)"), r"\boxed{(2, 4)}", True),
    (gold("(2,4)"), r"\boxed{(4, 2)}", False),
    (gold("2"), r"\boxed{2, 3}", False),
    (gold("2"), r"\boxed{2} and \boxed{3}", False),
    (gold("2"), r"So \boxed{2}. In short: \boxed{2}", True),
    (gold(r"f(x)=a x+b, where b is an integer"), r"\boxed{f(x)=ax+b, where b is an integer}", True),
    # All of several, in any order, and no other.
    (gold("1", "3", "5"), r"\boxed{1,3,5}", True),
    (gold("1", "3", "5"), r"\boxed{5, 1 \text{ and } 3}", True),
    (gold("1", "3", "5"), r"\boxed{\{3,1,5\}}", True),
    (gold("1", "3", "5"), r"\boxed{x \in \{3,1,5\}}", True),
    (gold("1", "3"), r"\boxed{x = 3 \text{ or } x = 1}", True),
    (gold("1", "3", "5"), r"\boxed{1}, \boxed{3} and \boxed{5}", True),
    (gold("1", "3", "5"), r"\boxed{1,3}", False),
    (gold("1", "3", "5"), r"\boxed{1}", False),
    (gold("1", "3", "5"), r"\boxed{1,3,5,7}", False),
    (gold("1", "3", "5"), r"\boxed{1,3,3}", False),
    (gold("-2", "-2"), r"\boxed{-2,-2}", True),
    (gold("16", "3", "1", "1"), r"\boxed{16}, \boxed{3}, \boxed{1}, \boxed{1}", True),
    (gold("2"), r"$$\boxed{2}$$ $\boxed{2}$", True),
    (gold("-2", "2"), r"\boxed{\pm 2}", True),
    (gold("-2", "2"), r"\boxed{\pm 3}", False),
    (gold("-2"), r"\boxed{\pm 2}", False),
    (gold("3", "1+\\sqrt{2}", "1-\\sqrt{2}"), r"\boxed{1 \pm \sqrt2, 3}", True),
    (gold("(4,23)", "(4,-23)", "(0,2)", "(0,-2)"), r"\boxed{(0, \pm 2), (4, \pm 23)}", True),
    (gold("(3,2)", "(-3,2)", "(3,-2)", "(-3,-2)"), r"\boxed{(\pm 3, \pm 2)}", True),
    (gold("(3,2)", "(-3,-2)"), r"\boxed{(\pm 3, \pm 2)}", True),
    (gold("(3,-2)", "(-3,2)"), r"\boxed{(\pm 3, \mp 2)}", True),
    (gold("(3,-2)", "(-3,2)"), r"\boxed{(\pm 3, \pm 2)}", False),
    (gold("1", "3"), r"\boxed{(1,3)}", True),
    (gold("1", "3"), r"\boxed{(3,1)}", False),
    (gold("1", "3"), r"\boxed{[1,3]}", False),
    (gold("100", "200"), r"\boxed{200,100}", True),
    (gold("100", "200"), r"\boxed{100200}", False),
    (gold("1,000", "2,000"), r"\boxed{2,000, 1,000}", True),
    (gold("(1,2)", "(3,4)"), r"\boxed{(3,4), (1,2)}", True),
    (gold("(1,2)", "(3,4)"), r"\boxed{\{(3,4), (1,2)\}}", True),
    (gold("(1,2)", "(3,4)"), r"\boxed{(2,1), (3,4)}", False),
    (gold("f(x)=x", "f(x)=2-x"), r"\boxed{f(x) = 2 - x} \text{ and } \boxed{f(x) = x}", True),
    (gold("f(x)=x", "f(x)=2-x"), r"\boxed{x, 2-x}", True),
    (gold(r"$\angle B E A_{1}=90$", "80"), r"\boxed{90, 80}", True),
    # In order.
    (gold("1", "3", ordered=True), r"\boxed{1, 3}", True),
    (gold("1", "3", ordered=True), r"\boxed{(1, 3)}", True),
    (gold("1", "3", ordered=True), r"\boxed{1} and \boxed{3}", True),
    (gold("1", "3", ordered=True), r"\boxed{3, 1}", False),
    (gold("1", "3", ordered=True), r"\boxed{(3, 1)}", False),
    # Within an error, on each.
    (gold("4.2", error="1e-1"), r"\boxed{4.25}", True),
    (gold("4.2", error="1e-1"), r"\boxed{4.3}", True),
    (gold("4.2", error="1e-1"), r"\boxed{4.31}", False),
    (gold("4.2", error="1e-1"), r"\boxed{\sqrt{18}}", True),  # 4.243
    (gold("4.2", error="1e-1"), r"\boxed{\sqrt{19}}", False),  # 4.359
    (gold("4.2"), r"\boxed{4.25}", False),
    (gold("1", "1.15", error="0.1"), r"\boxed{1.08, 1}", True),
    (gold("1", "1.15", error="0.1"), r"\boxed{1.02, 1}", False),
    (gold("1.5", "x", error="0.1"), r"\boxed{x, 1.45}", True),
    (gold("(1.5, 2)", error="0.1"), r"\boxed{(1.5, 2)}", True),
    # Units.
    (gold("45", unit="minute"), r"\boxed{45}", True),
    (gold("45", unit="minute"), r"\boxed{45 \text{ minutes}}", True),
    (gold("45", unit="minute"), r"\boxed{45\text{ min}}", True),
    (gold("45", unit="minute"), r"\boxed{45 \text{ seconds}}", False),
    (gold("45", unit="minute"), r"\boxed{44 \text{ minutes}}", False),
    (gold(r"$\frac{600}{7}$", unit="km/h"), r"\boxed{\frac{600}{7} \text{ km/h}}", True),
    (gold(r"$\frac{600}{7}$", unit="km/h"), r"\boxed{600/7 km/h}", True),
    (gold("$166$", unit="$cm^2$"), r"\boxed{166 \text{ cm}^2}", True),
    (gold("$166$", unit="$cm^2$"), r"\boxed{166\ \mathrm{cm^2}}", True),
    (gold("$166$", unit="$cm^2$"), r"\boxed{166 \text{ cm}}", False),
    (gold("90", "60", unit=r"^{\circ}"), r"\boxed{60^\circ, 90^\circ}", True),
    (gold("90", "60", unit=r"^{\circ}"), r"\boxed{60, 90}", True),
    (gold("4.2", unit="%", error="1e-1"), r"\boxed{4.2\%}", True),
    (gold("4.2", unit="%", error="1e-1"), r"\boxed{4.15}", True),
    (gold("4.2", unit="%", error="1e-1"), r"\boxed{0.042}", True),
    (gold("4.2", unit="%", error="1e-1"), r"\boxed{42\%}", False),
]


def test_cases():
    with Pool({"olympiads": "olympiad"}, workers=2) as pool:
        for number, (known, response, _) in enumerate(CASES):
            pool.submit(number, "olympiads", known, f"hm</think> {response}", True)
        verdicts = pool.results()
    bad = [
        (*case, verdicts[number])
        for number, case in enumerate(CASES)
        if verdicts[number].match != case[2] or verdicts[number].failed
    ]
    assert bad == []


@pytest.mark.parametrize(
    ("response", "finished", "why"),
    [
        (r"hm</think> \boxed{1}", False, "cut off"),
        (r"hm \boxed{1}", True, "thought not closed"),
        (r"\boxed{1}</think> so 1", True, "no answer"),
        (r"hm</think> \boxed{\frac{}", True, "no answer"),
        (r"hm</think> \boxed{\frac{}}", True, "unparsable"),
    ],
)
def test_as_strict_as_strict(response, finished, why):
    verdict = GRADERS["olympiad"](gold("1"), response, finished)
    assert (verdict.match, verdict.why) == (False, why)
    assert GRADERS["strict"]("1", response, finished) == verdict


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2", "expected an object of answers, error, unit, ordered"),
        ("x+1", "Expecting value"),
        ("{}", "answers is None"),
        ('{"answers": []}', "answers is []"),
        ('{"answers": "2"}', "answers is '2'"),
        ('{"answers": [2]}', "answers is [2]; expected texts"),
        ('{"answers": [" "]}', "expected texts"),
        ('{"answers": ["2"], "error": 0.1}', "error is 0.1"),
        ('{"answers": ["2"], "error": "much"}', "much"),
        ('{"answers": ["2"], "error": "1/0"}', "Fraction(1, 0)"),
        ('{"answers": ["2"], "error": "-1"}', "expected a number above 0"),
        ('{"answers": ["2"], "unit": 3}', "unit is 3"),
        ('{"answers": ["2"], "ordered": "no"}', "ordered is 'no'"),
        ('{"answers": ["2"], "order": true}', "expected an object of"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_a_gold_answer_of_another_form_says_so_and_is_no_wrong_answer(text, says):
    verdict = GRADERS["olympiad"](text, r"</think>\boxed{2}", True)
    assert (verdict.match, verdict.extracted, verdict.why) == (False, "2", "gold unparsable")
    assert verdict.failed
    assert says in verdict.detail
    assert 'expected JSON like {"answers": ["1", "2"]' in verdict.detail


def test_a_gold_answer_of_another_form_in_a_worker():
    with Pool({}, "olympiad") as pool:
        pool.submit(0, "", "2", r"</think>\boxed{2}", True)
        pool.submit(1, "", gold("2"), r"</think>\boxed{2}", True)
        verdicts = pool.results()
    assert verdicts[0].why == "gold unparsable"
    assert "is not one for the grader olympiad" in verdicts[0].detail
    assert verdicts[1] == Verdict(True, "2", "right")


def test_keys_that_may_be_absent():
    assert GRADERS["olympiad"]('{"answers": ["2"]}', r"</think>\boxed{2}", True).match
