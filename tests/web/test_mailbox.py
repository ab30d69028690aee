"""What is sent to a browser: the latest of each kind once, events in order, and no more than it can take."""

import asyncio
import json

from ibbond.web.mailbox import MAX_EVENTS, Mailbox


def received(text: str) -> list[tuple[str, object]]:
    blocks = [block.split("\n") for block in text.split("\n\n") if block]
    return [(kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for kind, data in blocks]


def test_a_new_browser_gets_what_is_known() -> None:
    mailbox = Mailbox({"rates": "2", "drawing": "1"}, [{"what": "cut"}])
    assert received(asyncio.run(mailbox.take())) == [
        ("drawing", 1),
        ("rates", 2),
        ("events", {"forget": True, "missed": 0, "items": [{"what": "cut"}]}),
    ]


def test_a_slow_browser_gets_the_latest_and_the_last_events() -> None:
    mailbox = Mailbox({}, [])
    for number in range(MAX_EVENTS + 7):
        mailbox.put("rates", str(number))
        mailbox.add_event(number)
    (_, rates), (_, events) = received(asyncio.run(mailbox.take()))
    assert rates == MAX_EVENTS + 6
    assert events == {"forget": True, "missed": 7, "items": list(range(7, MAX_EVENTS + 7))}


def test_another_lab_empties_the_list_of_events() -> None:
    async def story() -> str:
        mailbox = Mailbox({}, ["old"])
        await mailbox.take()
        mailbox.add_event("older")
        mailbox.forget_events()
        mailbox.add_event("new")
        return await mailbox.take()

    assert received(asyncio.run(story())) == [("events", {"forget": True, "missed": 0, "items": ["new"]})]
