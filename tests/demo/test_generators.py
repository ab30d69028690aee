"""What is read back from the words of programs."""

from ibbond.demo.generators import PING_US, estimate, unwrapped

STEP = PING_US * 1000


def test_an_unanswered_ping_was_sent_at_its_interval() -> None:
    answered = {3: 30 * STEP, 5: 50 * STEP}
    assert [estimate(n, [3, 5], answered, 0) for n in (1, 2, 4, 6)] == [28 * STEP, 29 * STEP, 31 * STEP, 51 * STEP]


def test_pings_that_were_never_answered_began_with_the_program() -> None:
    assert [estimate(n, [], {}, 7 * STEP) for n in (1, 2, 3)] == [7 * STEP, 8 * STEP, 9 * STEP]


def test_numbers_of_16_bits_go_on() -> None:
    assert unwrapped(1, 0xFFFF) == 0x10001
    assert unwrapped(2, 0x10001) == 0x10002
