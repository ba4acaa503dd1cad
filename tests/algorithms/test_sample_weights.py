"""O1-Pruner's weights: the published ones by hand, ours beside them, and what cannot be."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaprune.algorithms.sample_weights import PRESETS, ProblemResponses, SampleWeights
from megaprune.cli.main import main
from megaprune.errors import InputError


def near(expected):
    return pytest.approx(expected, rel=0, abs=1e-6)


def responses(length, correct, answered=None, name=""):
    answered = None if answered is None else np.array(answered, bool)
    return ProblemResponses(np.array(correct, bool), np.array(length), answered, name)


def paper(**fields):
    return SampleWeights.from_spec({"preset": "o1_pruner_paper", **fields})


MIXED = responses([800, 1000, 1200, 1600], [1, 1, 0, 1])
UNEVEN = responses([100, 1000, 1000, 9900], [1, 0, 0, 1])


def test_the_published_weights_by_hand():
    (found,) = paper().weigh([MIXED])
    # Lbar 1150, cbar .75; then less .066146, over .962872.
    assert found.raw == near([0.9375, 0.65, -1.541667, 0.21875])
    assert found.weight == near([0.904953, 0.606367, -1.669809, 0.158488])
    (found,) = paper(normalize="none", baseline="leave_one_out").weigh([MIXED])
    assert found.raw == near([1.25, 0.866667, -2.055556, 0.291667])
    assert found.weight == near([1.25, 0.866667, -2.0, 0.291667])


@pytest.mark.parametrize(
    ("lam", "raw", "weight"),
    [
        (2, [30, 1, 1, 0.303030], [1.697332, -0.403116, -0.403116, -0.891099]),
        (5, [31.5, -0.5, -0.5, 1.803030], [1.497133, -0.909625, -0.909625, 0.322117]),
    ],
)
def test_clipping_comes_before_the_data_set_s_mean(lam, raw, weight):
    (found,) = paper(lam=float(lam)).weigh([UNEVEN])
    assert found.raw == near(raw)
    assert found.weight == near(weight)


def test_where_all_are_wrong_the_shortest_gains_as_published_and_nothing_here():
    wrong = responses([500, 1000, 1500], [0, 0, 0])
    (found,) = paper().weigh([wrong])
    assert found.raw == near([1, 0, -1 / 3])
    ours, other = SampleWeights().weigh([wrong, MIXED])
    assert not ours.kept
    assert not ours.weight.any()
    assert other.kept
    # What is left out does not count in the mean of the data set either.
    settings = paper(all_wrong="drop")
    assert settings.weigh([wrong, MIXED])[1].weight == near(settings.weigh([MIXED])[0].weight)
    assert not settings.weigh([wrong])[0].weight.any()


def test_what_is_cut_off_or_empty_does_not_gain_by_being_short():
    problem = responses([0, 400, 2000, 400], [0, 0, 1, 1], [False, False, True, True])
    (published,) = paper(normalize="none").weigh([problem])
    assert published.raw == near([700.25 - 2, 700.25 / 400 - 2, 700.25 / 2000, 700.25 / 400])
    (ours,) = paper(normalize="none", shortness="answered").weigh([problem])
    assert ours.raw == near([-1, -1, 700.25 / 2000, 700.25 / 400])
    # One that is long loses all the same.
    long = responses([3000, 1000], [0, 1], [False, True])
    assert paper(shortness="answered").weigh([long])[0].raw == near([-1 / 3 - 1, 1 + 1])


def test_centred_by_problem_average_right_answers_of_easy_problems_are_not_pushed_down():
    easy = responses([1000] * 4, [1] * 4)
    published, _ = paper().weigh([easy, UNEVEN])
    assert (published.weight < -0.5).all()
    ours, other = SampleWeights().weigh([easy, UNEVEN])
    assert not ours.weight.any()
    assert other.weight.sum() == near(0)


@pytest.mark.parametrize("normalize", ["data_set", "problem"])
def test_equal_weights_are_zero(normalize):
    for problems in (
        [responses([7, 7, 7], [1, 1, 1])],
        [responses([3, 3, 3], [1, 1, 1]), responses([9, 9], [0, 0])],
        # Mean length 7.5: the long right answer is worth as much as the short wrong one.
        [responses([8, 7], [1, 0])],
    ):
        lam = 7.5 / 7 - 7.5 / 8 if len(problems[0]) == 2 else 2.0
        for found in paper(normalize=normalize, lam=lam).weigh(problems):
            assert np.array_equal(found.weight, np.zeros(len(found.weight)))


def test_the_length_with_and_without_the_end_token():
    tokens, finished = np.array([10, 10]), np.array([True, False])
    assert SampleWeights().count_tokens(tokens, finished).tolist() == [10, 10]
    assert paper().count_tokens(tokens, finished).tolist() == [9, 10]


problems_of_some_sizes = st.lists(
    st.lists(st.tuples(st.integers(1, 5000), st.booleans()), min_size=2, max_size=6),
    min_size=1,
    max_size=6,
)


@given(problems_of_some_sizes, st.floats(0, 5), st.booleans(), st.integers(0, 9))
def test_against_plain_sums(drawn, lam, leave_one_out, seed):
    """The z-score is over those that are selected; every response has a weight."""
    settings = paper(lam=lam, baseline="leave_one_out" if leave_one_out else "all")
    problems = [responses(*zip(*problem, strict=True)) for problem in drawn]
    selected = settings.select(problems, seed)
    raw = []
    for problem in drawn:
        raw.append([])
        for i, (length, right) in enumerate(problem):
            of = [p for j, p in enumerate(problem) if j != i or not leave_one_out]
            mean = sum(n for n, _ in of) / len(of)
            accuracy = sum(c for _, c in of) / len(of)
            raw[-1].append(mean / length - 1 + lam * (right - accuracy))
    clipped = [[min(4, max(-2, w)) for w in row] for row in raw]
    chosen = np.concatenate([np.array(r)[m] for r, m in zip(clipped, selected, strict=True)])
    assert len(chosen) == 2 * len(drawn)
    mean = sum(chosen) / len(chosen)
    deviation = (sum((w - mean) ** 2 for w in chosen) / len(chosen)) ** 0.5
    for found, row, plain in zip(settings.weigh(problems, selected), raw, clipped, strict=True):
        assert found.raw == pytest.approx(row, rel=1e-9, abs=1e-9)
        if deviation > 1e-6:
            expected = [(w - mean) / deviation for w in plain]
            assert found.weight == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_a_selection_depends_on_the_seed_and_on_nothing_else():
    rng = np.random.default_rng(0)
    first, second = (
        [responses(rng.integers(1, 99, 16), rng.integers(0, 2, 16)) for _ in range(400)]
        for _ in range(2)
    )
    chosen = paper().select(first, 1)
    assert [m.tolist() for m in chosen] == [m.tolist() for m in paper().select(second, 1)]
    assert [m.tolist() for m in chosen] != [m.tolist() for m in paper().select(first, 2)]
    counts = np.sum(chosen, axis=0)
    assert counts.sum() == 2 * 400
    assert counts.min() > 20  # of 50: each place is drawn as often
    assert counts.max() < 90
    assert all(mask.all() for mask in SampleWeights().select(first, 1))


def test_too_few_responses():
    few = responses([5], [1], name="p7")
    with pytest.raises(InputError, match="problem p7 has K=1, and harmonize.responses=2; expected"):
        paper().weigh([MIXED, few])
    with pytest.raises(InputError, match="problem p7 has K=1, and harmonize.responses=2"):
        paper().select([few], 0)
    with pytest.raises(InputError, match="K=1, and harmonize.baseline=leave_one_out; expected 2"):
        SampleWeights().weigh([few])
    assert SampleWeights(baseline="all").weigh([few])[0].weight.tolist() == [0]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("o1", "harmonize.preset='o1'; expected one of o1_pruner"),
        ({"lamb": 1}, "harmonize.lamb: harmonize has no such field; did you mean lam"),
        ({"lam": -1}, "harmonize.lam=-1; expected 0 or more"),
        ({"responses": 0}, "harmonize.responses=0; expected 1 or more, or all"),
        ({"responses": "some"}, "harmonize.responses='some'; expected a whole number or all"),
        ({"clip_low": 5}, "harmonize.clip_low=5.0; expected clip_high=4.0 or less"),
    ],
)
def test_settings_that_cannot_be(spec, message):
    with pytest.raises(InputError, match=message):
        SampleWeights.from_spec(spec)


def test_specs():
    for name, preset in PRESETS.items():
        weights = SampleWeights.from_spec(name)
        assert weights == SampleWeights(**preset.spec)
        assert SampleWeights.from_spec(weights.to_spec()) == weights
    assert SampleWeights.from_spec({}) == SampleWeights()
    merged = SampleWeights.merge_specs("o1_pruner_paper", {"lam": 5})
    assert SampleWeights.from_spec(merged) == paper(lam=5)
    assert SampleWeights.from_spec(SampleWeights.merge_specs(merged, "o1_pruner")).lam == 2


@pytest.fixture
def harmonize(tmp_path, capsys):
    def run(*fields, lines):
        file = tmp_path / "responses.jsonl"
        file.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n")
        status = main(["harmonize", "--weights", str(file), *fields])
        out, err = capsys.readouterr()
        return [json.loads(line) for line in out.splitlines()] if not status else err

    return run


def test_the_command(harmonize):
    lines = [
        {"problem": "a", "length": [800, 1000, 1200, 1600], "correct": [1, 1, 0, 1]},
        {"length": [500, 1000], "correct": [False, False], "finished": [False, True]},
    ]
    first, second = harmonize("harmonize.preset=o1_pruner_paper", "harmonize.lam=5", lines=lines)
    expected = paper(lam=5).weigh([MIXED, responses([500, 1000], [0, 0])])
    assert first == {
        "problem": "a",
        "raw": expected[0].raw.tolist(),
        "weight": expected[0].weight.tolist(),
    }
    assert second == {"raw": [0.5, -0.25], "weight": expected[1].weight.tolist()}
    (_, ours) = harmonize(lines=lines)
    assert ours == {"raw": [0.0, -0.5], "weight": [0.0, 0.0], "kept": False}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"length": [5]}, "line 1: key 'correct' is missing"),
        ({"corect": [1], "length": [5]}, "'correct' is missing; there is 'corect'"),
        ({"correct": [1], "length": [5, 6]}, "2 entries of length and 1 of correct"),
        ({"correct": [1], "length": [-5]}, "length is -5; expected 0 or more"),
        ({"correct": [1], "length": [10**30]}, "expected 0 or more and less than 2.53"),
        ({"correct": [], "length": []}, "no response; expected lists of one or more"),
        ({"problem": "b", "correct": [1], "length": [5]}, r"problem b \(.*line 1\) has K=1, and"),
        ("{", "line 1: not JSON"),
        ("[1]", "line 1: list; expected an object with problem, length, correct"),
    ],
)
def test_lines_that_cannot_be(harmonize, line, message):
    import re

    assert re.search(message, harmonize(lines=[line]))


def test_problems_of_a_difficulty():
    """The shares of the published script: 0 to 40 %, 30 to 70 %, 60 to 100 %, by accuracy."""
    right = [3, 0, 4, 1, 2, 4, 0, 4, 3, 4]  # of 4 each
    problems = [
        ProblemResponses(np.arange(4) < count, np.array([10, 20, 30, 40])) for count in right
    ]
    order = [1, 6, 3, 4, 0, 8, 2, 5, 7, 9]
    for difficulty, places in (
        ("hard", order[:4]), ("medium", order[3:7]), ("easy", order[6:]), ("all", order),
    ):  # fmt: skip
        weights = SampleWeights(difficulty=difficulty, all_wrong="keep")
        assert [place for place, kept in enumerate(weights.of_difficulty(problems)) if kept] == (
            sorted(places)
        )
        weighted = weights.weigh(problems)
        assert [place for place, each in enumerate(weighted) if each.kept] == sorted(places)
        assert not any(each.weight.any() for each in weighted if not each.kept)
    # The mean and the deviation of the data set are those of what is learned from.
    paper = SampleWeights.from_spec({"preset": "o1_pruner_paper", "difficulty": "easy"})
    kept = np.concatenate([each.weight for each in paper.weigh(problems) if each.kept])
    assert (kept.mean(), kept.std()) == (pytest.approx(0, abs=1e-12), pytest.approx(1))
