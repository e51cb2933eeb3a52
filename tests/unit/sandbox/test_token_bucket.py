"""The sandbox's rate limit tells an honest Retry-After."""

from hypothesis import given
from hypothesis import strategies as st

from bulkfetch.sandbox.token_bucket import TokenBucket


@given(st.floats(0.01, 5000), st.lists(st.floats(0, 3), max_size=60))
def test_retry_after_is_honest(rate, pauses):
    """Whoever waits the seconds that a refusal names is let through, and no more than rate x time + burst pass."""
    now, passed, bucket = 1000.0, 0, TokenBucket(rate, 1000.0)
    for pause in pauses:
        now += pause
        retry_after = bucket.take(now)
        if retry_after is not None:
            assert retry_after >= 1
            now += retry_after
            assert bucket.take(now) is None
        passed += 1
    assert passed <= rate * (now - 1000.0) + max(1, rate) + 1e-3


def test_retry_after_is_never_zero():
    """A client that comes a moment too early is still told to wait a whole second."""
    bucket = TokenBucket(10, 0.0)
    assert [bucket.take(0.0) for _ in range(11)] == [None] * 10 + [1]
    assert bucket.take(0.0999995) == 1
