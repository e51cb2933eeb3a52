"""Whose a refusal is: the rule, and simulated runs against limiters and single invoices; a test's ID has its seed."""

import pytest
from support.limit_simulation import World, simulate

from bulkfetch.net.pace import Pace
from bulkfetch.net.refusals import Refusals

SEEDS = range(20)
NEAR, FAR = 0.005, 0.05
"""Seconds of latency."""


def told(rule, *, answers=0, refusals=0, invoice="bad {}"):
    """The last trial that `rule` wants after so many answers and then refusals."""
    trial = None
    for number in range(answers):
        rule.answered(f"good {number}", 1.0)
    for number in range(refusals):
        trial = rule.refused(invoice.format(number), 2.0, began=1.5)
    return trial


def test_refusals_that_come_thick_are_tried_beside_a_control():
    """Four in a row are more than single invoices explain: what was answered last is asked beside what was refused."""
    rule = Refusals(Pace(0.0, 0.0))
    assert told(rule, answers=30, refusals=3) is None
    trial = told(rule, refusals=1, invoice="another")
    assert trial is not None
    assert trial.asks[:2] == [("good 27", True), ("bad 1", False)]
    assert [control for _, control in trial.asks] == [True, False] * 3


def test_without_an_answer_there_is_no_control():
    """Before the first answer nobody can tell a limit from the invoices' own: then it is a limit."""
    rule = Refusals(Pace(0.0, 0.0))
    assert told(rule, refusals=3) is None
    assert not rule.limited(2.0)
    assert told(rule, refusals=1, invoice="another") is None
    assert rule.limited(2.0)


def test_a_refusal_that_is_about_no_invoice_is_a_limits():
    """An object store's, for example."""
    rule = Refusals(Pace(0.0, 0.0))
    assert rule.refused(None, 2.0, began=1.5) is None
    assert rule.limited(2.0)


def test_an_invoice_that_is_asked_again_proves_nothing():
    """What was refused before is refused again without any limit."""
    rule = Refusals(Pace(0.0, 0.0))
    assert told(rule, answers=9, refusals=50, invoice="the same") is None
    assert not rule.limited(2.0)


@pytest.mark.parametrize(
    ("outcomes", "limit"),
    [([False], True), ([True, True], True), ([True, False, True, False, True, False], False)],
    ids=["control refused", "suspect answered", "control answered, suspects refused"],
)
def test_a_trial_ends_as_soon_as_it_is_clear(outcomes, limit):
    """A refused control or an answered suspect is a limit; only all of them together are single invoices."""
    trial = told(Refusals(Pace(0.0, 0.0)), answers=9, refusals=5)
    verdicts = [trial.note(answered=answered) for answered in outcomes]
    assert verdicts == [None] * (len(outcomes) - 1) + [limit]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("latency", [NEAR, FAR], ids=["near", "far"])
def test_single_invoices_hold_up_no_other(seed, latency):
    """5% refused twice each: the others are as fast as without, within 1.15, and no limit is seen."""
    free = simulate(World(latency=latency), seed)
    report = simulate(World(latency=latency, share=0.05), seed)
    others = sorted(report.answered)[: int(0.9 * len(report.answered))]
    assert others[-1] <= 1.15 * free.seconds
    assert report.limits == 0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("times", [2, 3])
def test_a_block_of_refused_neighbours_is_no_limit(seed, times):
    """A hundred in a row that are refused by themselves cost a few trials."""
    report = simulate(World(block=range(300, 400), times=times), seed)
    assert report.limits == 0
    assert report.singles <= 4
    longest_waits = sum(2.0**number for number in range(times))
    assert report.seconds <= 1.5 * simulate(World(), seed).seconds + longest_waits


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("limit", [5.0, 20.0, 50.0, 200.0])
@pytest.mark.parametrize("latency", [NEAR, FAR], ids=["near", "far"])
def test_behind_a_limit_with_a_burst_the_rate_is_found(seed, limit, latency):
    """A bucket of a second's worth: 95% of the rate, at most 5% refused, and no invoice is lost."""
    report = simulate(World(invoices=int(limit * 120), latency=latency, limit=limit, burst=limit), seed)
    assert report.rate() >= 0.95 * limit
    assert report.refused_share <= 0.05


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("limit", "share"), [(5.0, 0.75), (20.0, 0.85), (50.0, 0.85)])
def test_behind_a_limit_without_a_burst_most_of_the_rate_is_found(seed, limit, share):
    """A limiter that lets nothing through ahead of time refuses half of what is a little too fast."""
    report = simulate(World(invoices=int(limit * 120), limit=limit), seed)
    assert report.rate() >= share * limit
    assert report.refused_share <= 0.05


@pytest.mark.parametrize("seed", SEEDS)
def test_a_limit_that_falls_and_one_that_goes_are_followed(seed):
    """From 50 a second to 20: most of that is used. From 50 to none: within a minute nothing holds the run back."""
    falls = simulate(World(invoices=3000, limit=50.0, changes=[(30.0, 20.0)]), seed)
    assert falls.seconds <= 1.6 * (30 + (3000 - 30 * 50) / 20)
    assert falls.refused_share <= 0.12
    goes = simulate(World(invoices=30_000, limit=50.0, changes=[(30.0, 0.0)]), seed)
    assert goes.seconds <= 60


@pytest.mark.parametrize("limit", [20.0, 50.0])
def test_single_invoices_behind_a_limit(limit):
    """5% refused twice each, behind a limit: in the median of all seeds, 60% of the rate."""
    world = World(invoices=int(limit * 120), limit=limit, burst=limit, share=0.05)
    most = int(0.95 * world.invoices)
    rates = sorted(most / sorted(simulate(world, seed).answered)[most - 1] for seed in SEEDS)
    assert rates[len(rates) // 2] >= 0.6 * limit
