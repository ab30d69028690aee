"""Which event the silence of a TCP stream belongs to (`drill.traffic`)."""

from ibbond.drill.traffic import Stream
from ibbond.machine import MS


def test_a_silence_belongs_to_the_event_that_began_it() -> None:
    """The last bytes before an event arrive a spacing earlier: within the time of the event before."""
    stream = Stream("h2", "h1", MS, [(1999 * MS, 8200 * MS)], 9000 * MS)
    assert stream.longest(1000 * MS, 2000 * MS).ns == 0
    assert stream.longest(2000 * MS, 3000 * MS).ns == 6200 * MS


def test_a_silence_to_the_end() -> None:
    stream = Stream("h2", "h1", MS, [], 1999 * MS)
    assert stream.longest(1000 * MS, 2000 * MS).ns == 0
    assert stream.longest(2000 * MS, 3000 * MS).ns == 1000 * MS
