-- The text of a payload in which words are looked for.


-- The payload's words in small letters, a space around each, and quotes around the words of each name and string:
-- ` " reason " " card declined " `. So ` card declined ` is in it if the two words follow one another in one string.
-- Of ASCII, all but letters and digits separates words; every other character belongs to one.
-- app/events/query/words.py says the same in Python, letter by letter.
--
-- 1. COLLATE "C", which all that follows inherits, changes the letters of ASCII alone, and makes the ranges of a
--    pattern those of the code points.
-- 2. An escape is a character that separates. The longest one matches: a backslash that is escaped itself begins none.
-- 3. What separates becomes a space, but for quotes. A space that stands alone is no match: that is half the time.
-- 4. A quote becomes a word of its own. At most four spaces are left together: two of one string, and its quotes'.
-- Without a SET clause, so that it is written into the statement that calls it.
CREATE OR REPLACE FUNCTION event_text(payload jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN replace(replace(replace(
    regexp_replace(
        lower(regexp_replace(payload::text COLLATE "C", '\\(?:u[0-9a-f]{4}|.)', ' ', 'g')),
        '[\u0001-\u001f!#-/:-@[-`{-\u007f][\u0001-\u0020!#-/:-@[-`{-\u007f]*|  +', ' ', 'g'),
    '"', ' " '), '  ', ' '), '  ', ' ');
REVOKE ALL ON FUNCTION event_text(jsonb) FROM PUBLIC;
