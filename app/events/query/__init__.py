"""The language of `q`: text ↔ nodes (parsing, printing), and what a query means, in Python and in SQL.

    text ─ parsing: grammar, syntax, leaves ─► node ─ printing ─► text
                                                │
        evaluation, sql (after resolution), bounds, tokens

Pure Python: no request, no session. docs/reading.md has the language on one page.
"""
