"""Ids are said once: by no two threads, and by no child after its parent."""

import os
from concurrent.futures import ThreadPoolExecutor

from app.identifiers import random_bytes, uuid7


def test_no_two_pieces_are_alike_in_any_thread() -> None:
    with ThreadPoolExecutor(8) as threads:
        pieces = list(threads.map(lambda _: random_bytes(), range(20_000)))

    assert len(set(pieces)) == 20_000
    assert {len(piece) for piece in pieces} == {16}


def test_a_forked_child_says_nothing_that_its_parent_says() -> None:
    random_bytes()
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writing, b"".join(random_bytes() for _ in range(100)))
        os._exit(0)
    os.waitpid(child, 0)
    said = os.read(reading, 1_600)
    for end in (reading, writing):
        os.close(end)

    theirs = {said[place : place + 16] for place in range(0, 1_600, 16)}
    assert len(theirs) == 100
    assert not theirs & {random_bytes() for _ in range(1_000)}


def test_event_uids_are_version_7() -> None:
    uids = [uuid7() for _ in range(1_000)]

    assert {(uid.version, uid.variant) for uid in uids} == {(7, "specified in RFC 4122")}
    assert len(set(uids)) == 1_000
