"""Queries, payloads, and whether the one finds the other: what docs/reading.md says, for Python and for PostgreSQL."""

from typing import Final

Case = tuple[str, str, bool]

COMPARED: Final[list[Case]] = [
    ("payload.a:49.99", '{"a": 49.990}', True),
    ("payload.a:49.99", '{"a": "49.99"}', True),
    ("payload.a:49.99", '{"a": "49.990"}', False),
    ('payload.a:"49.99"', '{"a": 49.99}', False),
    ("payload.a:9007199254740993", '{"a": 9007199254740992}', False),
    ("payload.a:1e2", '{"a": 100}', True),
    ("payload.a:1", '{"a": true}', False),
    ("payload.a:true", '{"a": true}', True),
    ("payload.a:true", '{"a": "true"}', True),
    ("payload.a:true", '{"a": 1}', False),
    ('payload.a:"true"', '{"a": true}', False),
    ("payload.a:null", '{"a": null}', True),
    ("payload.a:null", "{}", False),
    ('payload.a:""', '{"a": ""}', True),
    ("payload.a:card*", '{"a": "card_declined"}', True),
    ("payload.a:4*", '{"a": 49}', False),
    ("payload.a:[fraud, 5]", '{"a": 5.0}', True),
    ("payload.a>100", '{"a": 100.1}', True),
    ("payload.a>100", '{"a": "200"}', False),
    ('payload.a>"100"', '{"a": "200"}', True),
    ('payload.a>"100"', '{"a": 200}', False),
    ("payload.a<b", '{"a": "a"}', True),
    ("payload.a:1..3", '{"a": 3}', True),
    ("payload.a>true", '{"a": true}', False),
    ("payload.a>\uffff", '{"a": "\U0001f600"}', True),
]
"""Values are compared by kind and exactly."""

LISTS: Final[list[Case]] = [
    ("payload.a.b:1", '{"a": [{"b": 2}, {"b": 1}]}', True),
    ("payload.a:1", '{"a": [2, 1]}', True),
    ("payload.a:1", '{"a": [[1]]}', False),
    ("payload.a.b:1", '{"a": [[{"b": 1}]]}', False),
    ("payload.a:3..5", '{"a": [1, 9]}', False),
    ("payload.a>=3 payload.a<=5", '{"a": [1, 9]}', True),
    ("has:payload.a.b", '{"a": [1, {"b": null}]}', True),
    ("has:payload.a", '{"a": []}', True),
    ("has:payload.a", '{"b": {"a": 1}}', False),
    ("has:payload.a.b", '{"a": "b"}', False),
    ('payload."card type"."a.b":x', '{"card type": {"a.b": "x"}}', True),
    ('payload."".é:x', '{"": {"é": "x"}}', True),
    ("-payload.a:1", "{}", True),
    ("-payload.a:1", '{"a": [1, 2]}', False),
    ("-payload.a:1", '{"a": 2}', True),
    ("-payload.a>1", '{"a": "x"}', True),
    ("-has:payload.a", '{"a": null}', False),
]
"""A list is any of its elements, and a missing member is nothing."""

WORDS: Final[list[Case]] = [
    ('"card declined"', '{"a": "  card,      - -   declined  "}', True),
    ('"card declined"', '{"a": "card       declined"}', True),
    ("declined", '{"reason": "Card_Declined"}', True),
    ("card_declined", '{"reason": "the card declined."}', True),
    ('"card declined"', '{"reason": "declined card"}', False),
    ('"card declined"', '{"a": "card", "b": "declined"}', False),
    ('"card declined"', '{"card": "declined"}', False),
    ('"card declined"', '{"a": ["card", "declined"]}', False),
    ("card", '{"a": "cards"}', False),
    ("reason", '{"reason": 1}', True),
    ("49.99", '{"a": 49.99}', True),
    ("100", '{"a": 1e2}', True),
    ("u0041", r'{"a": "\\u0041"}', True),
    ("u001f", r'{"a": "\u001f"}', False),
    ("n", r'{"a": "x\n"}', False),
    ("café", '{"a": "Café!"}', True),
    ("cafÉ", '{"a": "café"}', False),
    ("payment", '{"a": 1}', False),
]
"""A word is found whole, and a phrase within one text."""
