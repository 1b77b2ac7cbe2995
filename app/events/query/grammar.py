"""The grammar: LALR, with a lexer that knows where it is, so that a value may hold what a word may not.

The parser does not recurse, and no pattern of the lexer tries a text twice: both take time in proportion to the text.
What the grammar cannot say stands in syntax.py (what must touch, how deep, how many) and in leaves.py (what a field
takes).
"""

from typing import Final

from lark import Lark

MEMBER: Final = r'(?:(?:[A-Za-z0-9_$@-]|[^\x00-\x7f\s])+|"(?:[^"\\]|\\[\s\S])*")'
"""One name within a path: bare or quoted."""

_GRAMMAR: Final = rf"""
    start: any?
    ?any: all (_OR all)*
    ?all: one (_AND? one)*
    ?one: (_NOT | _MINUS) one -> negated
        | _OPEN any _CLOSE
        | HEAD value -> compared
        | HEAD value _RANGE value -> ranged
        | HEAD _LIST item (_COMMA item)* _LIST_END -> listed
        | _HAS PATH -> has
        | TERM -> term
        | QUOTED -> phrase
    ?value: VALUE | QUOTED
    ?item: ITEM | QUOTED

    _OR.3: /OR(?![^\s()"])/
    _AND.3: /AND(?![^\s()"])/
    _NOT.3: /NOT(?![^\s()"])/
    _MINUS.3: /-(?=[^\s)])/
    _OPEN: "("
    _CLOSE: ")"
    _HAS.2: "has:"
    PATH: /payload(?:\.{MEMBER})+/
    HEAD.1: /[A-Za-z0-9_$@][A-Za-z0-9_$@-]*(?:\.{MEMBER})*(?::|>=|<=|>|<)/
    TERM: /(?!(?:OR|AND|NOT)(?![^\s()"]))[^\s"()-][^\s"()]*/
    QUOTED: /"(?:[^"\\]|\\[\s\S])*"/
    VALUE: /(?:(?!\.\.)[^\s"()\[\],])+/
    ITEM: /[^\s"()\[\],]+/
    _RANGE.2: ".."
    _LIST: "["
    _LIST_END: "]"
    _COMMA: ","
    %ignore /\s+/
"""

PARSER: Final = Lark(_GRAMMAR, parser="lalr", lexer="contextual", propagate_positions=False, maybe_placeholders=False)
