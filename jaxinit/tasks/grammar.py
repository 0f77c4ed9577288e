"""The embedded text: half a million characters drawn from a grammar of known entropy.

    lexicon -> rules -> tokens, drawn -> characters, their hash checked
               rules -> entropy of a sentence, its length -> bits per character

Sentences are English in their function words and word order, and made-up in all else. What pays for
memory:

    agreement    a noun's class (he, she, it, they) decides the verb's ending and the pronoun that
                 refers to it, over relative clauses, owners and asides in between
    tense        an opening such as "Yesterday," decides that of every verb up to the full stop
    brackets     round and square ones nest, and close in order
    questions    what begins with an auxiliary ends with a question mark, its verb without an ending

The grammar is LL(1): no token can begin two alternatives of a symbol (`tests/test_tasks.py` checks
it). So a text has one derivation, and the entropy of sentences is that of derivations. Standard
library only: whole numbers and one documented generator, so that all machines draw the same bytes.
"""

import hashlib
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import accumulate

CHARACTERS = 500_000  # at least; the text ends with a sentence
SEED = 20261125
SHA256 = "371cf2f726dd1c6157b4fc3bec41c7e8514a5fd2dcff8528b2d5a76e6d056af7"

CLOSING = frozenset(".!?,;)]")
OPENING = frozenset("([")
GAPS = {"<space>": " ", "<line>": "\n"}  # what follows a sentence

NUMBER = {"m": "s", "f": "s", "n": "s", "p": "p"}  # singular or plural, by the class of a noun
PRONOUN = {"m": "he", "f": "she", "n": "it", "p": "they"}
SELF = {"m": "himself", "f": "herself", "n": "itself", "p": "themselves"}
OWN = {"m": "his", "f": "her", "n": "its", "p": "their"}
WHO = {"m": "who", "f": "who", "n": "which", "p": "who"}
FUNCTION_WORDS = {
    "the", "a", "every", "this", "some", "many", "these", "few", "of", "who",
    "which", "that", "and", "but", "not", "is", "are", "was", "were", "does",
    "do", "did", "in", "yesterday", "once", "today", "now", "often", "he", "she",
    "it", "they", "himself", "herself", "itself", "themselves", "his", "her", "its", "their",
}  # fmt: skip

# The sounds of a syllable, the frequent ones first. No coda ends in s: no stem is another's plural.
ONSETS = (
    "t", "s", "r", "n", "l", "d", "k", "m", "p", "b", "st", "tr", "h",
    "v", "f", "g", "br", "gr", "j", "w", "pl", "kl", "dr", "z", "fl", "sk",
)  # fmt: skip
VOWELS = ("a", "e", "o", "i", "u", "ea", "ai", "oo")
CODAS = ("n", "r", "l", "t", "m", "nd", "k", "st", "rn", "p", "lt", "d")
# How many stems there are of each kind.
STEMS = {
    "noun.m": 220,
    "noun.f": 220,
    "noun.n": 440,
    "act": 240,  # verbs with an object
    "rest": 140,  # verbs without
    "say": 40,  # verbs with a clause
    "adjective": 320,
    "manner": 100,
    "name.m": 60,
    "name.f": 60,
}
ENDINGS = ("", "s", "ed", "ly")

Alternatives = list[tuple[int, tuple[str, ...]]]
Rules = dict[str, Alternatives]
Below = Callable[[int], int]


def generator(seed: int) -> Below:
    """A function that draws a whole number from 0 up to a limit, the same ones on every machine.

    From `random.Random(seed).random`, whose sequence Python promises to keep, in whole numbers.
    """
    uniform = random.Random(seed).random

    def below(limit: int) -> int:
        # The 53 bits of a float are a whole number, which is scaled without rounding.
        return int(uniform() * 2**53) * limit >> 53

    return below


def zipf(count: int) -> list[int]:
    """Weights of `count` ranks, about 1 / (rank + 2)."""
    return [100_000 // (rank + 3) for rank in range(count)]


@cache
def lexicon() -> dict[str, list[str]]:
    """The stems of each kind, the frequent ones first and shorter. No form belongs to two stems."""
    below = generator(SEED)
    sounds = [(part, list(accumulate(zipf(len(part))))) for part in (ONSETS, VOWELS, CODAS)]

    def sound(kind: int) -> str:
        part, heights = sounds[kind]
        return part[bisect_right(heights, below(heights[-1]))]

    used = set(FUNCTION_WORDS)
    stems: dict[str, list[str]] = {kind: [] for kind in STEMS}
    for kind, count in STEMS.items():
        while len(stems[kind]) < count:
            share = len(stems[kind]) / count
            if share < 0.1:
                syllables = 1
            elif share < 0.6:
                syllables = 2
            else:
                syllables = 3
            stem = "".join(sound(0) + sound(1) for _ in range(syllables)) + sound(2)
            forms = {stem + ending for ending in ENDINGS}
            if not forms & used:
                used |= forms
                stems[kind].append(stem)
    return stems


@cache
def rules() -> Rules:
    """By symbol: its alternatives, a whole-number weight and what it becomes. A token has none.

    Symbols carry what must be remembered: the class of a noun (m, f, n; p for plurals) and a tense
    (`now`, `then`, `free` for either at each verb, `base` after an auxiliary).
    """
    # The order of the symbols is that in which `expected` sweeps them.
    grammar: Rules = {}
    _add_words(grammar)
    _add_sentences(grammar)
    _add_owners(grammar)
    for tense in ("free", "then", "now", "base"):
        _add_clauses(grammar, tense)
        for noun_class in NUMBER:
            _add_verbs(grammar, noun_class, tense)
            # After an auxiliary the clauses inside are free, so these have no `base`.
            if tense != "base":
                _add_objects(grammar, noun_class, tense)
        if tense != "base":
            _add_statements(grammar, tense)
            _add_goals(grammar, tense)
    return grammar


def _rule(grammar: Rules, symbol: str, *alternatives: tuple[int, str]) -> None:
    grammar[symbol] = [(weight, tuple(becomes.split())) for weight, becomes in alternatives]


def _ranked(grammar: Rules, symbol: str, forms: Sequence[str]) -> None:
    """A choice of words, the frequent ones first."""
    weights = zipf(len(forms))
    grammar[symbol] = [(weight, (form,)) for weight, form in zip(weights, forms, strict=True)]


def _add_words(grammar: Rules) -> None:
    stems = lexicon()
    nouns = ("noun.m", "noun.f", "noun.n")
    for kind in (*nouns, "adjective"):
        _ranked(grammar, kind, stems[kind])
    for kind in ("name.m", "name.f"):
        _ranked(grammar, kind, [stem.capitalize() for stem in stems[kind]])
    _ranked(grammar, "manner", [stem + "ly" for stem in stems["manner"]])
    grammar["noun.p"] = []
    for kind in nouns:
        for weight, (stem,) in grammar[kind]:
            grammar["noun.p"].append((weight, (stem + "s",)))
    for kind in ("act", "rest", "say"):
        for form, ending in (("s", "s"), ("p", ""), ("past", "ed")):
            _ranked(grammar, f"{kind}.{form}", [stem + ending for stem in stems[kind]])
    _ranked(grammar, "count", [str(number) for number in range(2, 100)])
    grammar["year"] = [(1, (str(year),)) for year in range(1700, 2000)]


def _add_sentences(grammar: Rules) -> None:
    """How a sentence begins and ends, and the small words."""
    _rule(
        grammar,
        "sentence",
        (9, "statement.free"),
        (3, "past , statement.then"),
        (3, "present , statement.now"),
        (2, "asked"),
    )
    _rule(grammar, "past", (3, "yesterday"), (3, "once"), (2, "in year"))
    _rule(grammar, "present", (3, "today"), (3, "now"), (2, "often"))
    _rule(
        grammar,
        "asked",
        (2, "did clause.base ? gap"),
        (1, "does one.base ? gap"),
        (1, "do several.base ? gap"),
    )
    _rule(grammar, "stop", (9, ". gap"), (1, "! gap"))
    _rule(grammar, "gap", (5, "<space>"), (1, "<line>"))
    _rule(grammar, "link", (3, "and"), (1, "but"))
    _rule(grammar, "article.s", (6, "a"), (1, "every"), (3, "this"))
    _rule(
        grammar,
        "article.p",
        (3, "some"),
        (2, "many"),
        (2, "these"),
        (1, "few"),
        (3, "count"),
    )
    _rule(grammar, "state", (4, "adjective"), (1, "not adjective"))


def _add_owners(grammar: Rules) -> None:
    """The owner of something, of any class; it may have an owner itself."""
    _rule(
        grammar,
        "owner",
        (5, "the owned"),
        (2, "article.s owned.s"),
        (2, "article.p owned.p"),
        (1, "name.m"),
        (1, "name.f"),
    )
    owned = [(3, f"noun.{c} chain") for c in "mfnp"]
    _rule(grammar, "owned", *owned, (3, "adjective owned"))
    _rule(grammar, "owned.s", *owned[:3], (2, "adjective owned.s"))
    _rule(grammar, "owned.p", (4, "noun.p chain"), (1, "adjective owned.p"))
    _rule(grammar, "chain", (7, ""), (1, "of owner"))
    possessed = [(3, f"noun.{c}") for c in "mfnp"]
    _rule(grammar, "possessed", *possessed, (3, "adjective possessed"))


def _add_clauses(grammar: Rules, t: str) -> None:
    """A subject and its verb in a tense; for questions, of one or of several."""
    persons = [(3, f"name.{c} post.{c}.{t}") for c in "mf"]
    persons += [(1, f"{PRONOUN[c]} verb.{c}.{t}") for c in "mfn"]
    they = (1, f"they verb.p.{t}")
    _rule(
        grammar,
        f"clause.{t}",
        (12, f"the head.{t}"),
        (6, f"article.s head.s.{t}"),
        (4, f"article.p head.p.{t}"),
        *persons,
        they,
    )
    _rule(grammar, f"one.{t}", (6, f"the head.s.{t}"), (3, f"article.s head.s.{t}"), *persons)
    _rule(grammar, f"several.{t}", (6, f"the head.p.{t}"), (3, f"article.p head.p.{t}"), they)
    heads = [(3, f"noun.{c} owning.{c}.{t}") for c in "mfnp"]
    _rule(grammar, f"head.{t}", *heads, (3, f"adjective head.{t}"))
    _rule(grammar, f"head.s.{t}", *heads[:3], (2, f"adjective head.s.{t}"))
    _rule(grammar, f"head.p.{t}", (4, f"noun.p owning.p.{t}"), (1, f"adjective head.p.{t}"))


def _add_verbs(grammar: Rules, c: str, t: str) -> None:
    """What may stand between a subject and its verb, and the verb with what hangs on it."""
    inner = _inner(t)
    number, verb = NUMBER[c], f"verb.{c}.{t}"
    _rule(grammar, f"owning.{c}.{t}", (5, f"post.{c}.{t}"), (1, f"of owner post.{c}.{t}"))
    _rule(
        grammar,
        f"post.{c}.{t}",
        (14, verb),
        (2, f"{WHO[c]} verb.{c}.{inner} {verb}"),
        (2, f"that gapped.{inner} {verb}"),
        (1, f"( clause.free ) {verb}"),
        (1, f"[ clause.free ] {verb}"),
    )
    _rule(grammar, verb, (5, f"predicate.{c}.{t}"), (1, f"manner predicate.{c}.{t}"))
    copula = {"s": "is", "p": "are", "past": "was" if number == "s" else "were"}
    predicates = []
    for form in _forms(c, t):
        predicates.append((6, f"act.{form} object.{c}.{inner}"))
        predicates.append((4, f"rest.{form}"))
        predicates.append((1, f"say.{form} that clause.{inner}"))
        if t != "base":
            predicates.append((3, f"{copula[form]} state"))
    _rule(grammar, f"predicate.{c}.{t}", *predicates)


def _add_objects(grammar: Rules, c: str, t: str) -> None:
    """The verb of a relative clause, and the object of a verb whose subject is of class c."""
    lone = [(1, f"act.{form}") for form in _forms(c, t)]
    _rule(grammar, f"lone.{c}.{t}", *lone)
    _rule(grammar, f"nested.{c}.{t}", (8, f"lone.{c}.{t}"), (1, f"that gapped.{t} lone.{c}.{t}"))
    _rule(grammar, f"with.{c}.{t}", (8, ""), (1, "of owner"), (1, f"{WHO[c]} verb.{c}.{t}"))
    _rule(
        grammar,
        f"object.{c}.{t}",
        (8, f"the goal.{t}"),
        (5, f"article.s goal.s.{t}"),
        (3, f"article.p goal.p.{t}"),
        (1, "name.m"),
        (1, "name.f"),
        (2, SELF[c]),
        (3, f"{OWN[c]} possessed"),
    )


def _add_statements(grammar: Rules, t: str) -> None:
    """Clauses in a row, and relative clauses whose object is what they hang on: "that the queen
    sees"."""
    _rule(grammar, f"statement.{t}", (1, f"clause.{t} more.{t}"))
    _rule(
        grammar,
        f"more.{t}",
        (6, "stop"),
        (2, f", link clause.{t} more.{t}"),
        (1, f"; clause.{t} more.{t}"),
    )
    names = [(1, f"name.{c} lone.{c}.{t}") for c in "mf"]
    pronouns = [(1, f"{PRONOUN[c]} lone.{c}.{t}") for c in "mfnp"]
    _rule(grammar, f"gapped.{t}", (4, f"the hole.{t}"), *names, *pronouns)
    holes = [(3, f"noun.{c} nested.{c}.{t}") for c in "mfnp"]
    _rule(grammar, f"hole.{t}", *holes, (2, f"adjective hole.{t}"))


def _add_goals(grammar: Rules, t: str) -> None:
    goals = [(3, f"noun.{c} with.{c}.{t}") for c in "mfnp"]
    _rule(grammar, f"goal.{t}", *goals, (3, f"adjective goal.{t}"))
    _rule(grammar, f"goal.s.{t}", *goals[:3], (2, f"adjective goal.s.{t}"))
    _rule(grammar, f"goal.p.{t}", (4, f"noun.p with.p.{t}"), (1, f"adjective goal.p.{t}"))


def _inner(tense: str) -> str:
    """The tense inside of clauses that hang on one: an auxiliary decides its own verb alone."""
    return "free" if tense == "base" else tense


def _forms(noun_class: str, tense: str) -> tuple[str, ...]:
    """The forms of a verb that agree with a subject in a tense."""
    number = NUMBER[noun_class]
    forms = {"now": (number,), "then": ("past",), "free": (number, "past"), "base": ("p",)}
    return forms[tense]


def spell(tokens: Iterable[str]) -> str:
    """The characters of sentences: a capital at the start, spaces before words and brackets."""
    pieces = []
    start = True  # of a sentence
    glued = True  # to what stands before
    for token in tokens:
        if token in GAPS:
            pieces.append(GAPS[token])
            start = True
            continue
        if not (start or glued or token in CLOSING):
            pieces.append(" ")
        capital = token[0].upper() + token[1:]
        pieces.append(capital if start else token)
        start = False
        glued = token in OPENING
    return "".join(pieces)


def drawn(seed: int, characters: int) -> str:
    """Sentences, one after another, until there are so many characters."""
    below = generator(seed)
    tables = {}
    for symbol, alternatives in rules().items():
        heights = list(accumulate(weight for weight, _ in alternatives))
        # Backwards, as a stack gives its last symbol first.
        tables[symbol] = heights, [becomes[::-1] for _, becomes in alternatives]
    sentences = []
    length = 0
    while length < characters:
        tokens, waiting = [], ["sentence"]
        while waiting:
            symbol = waiting.pop()
            if symbol not in tables:
                tokens.append(symbol)
                continue
            heights, alternatives = tables[symbol]
            chosen = 0
            if len(heights) > 1:  # where there is no choice, nothing is drawn
                chosen = bisect_right(heights, below(heights[-1]))
            waiting.extend(alternatives[chosen])
        sentences.append(spell(tokens))
        length += len(sentences[-1])
    return "".join(sentences)


def checked(content: str) -> str:
    """The text itself. Raises: ValueError, naming both digests, when it has other bytes."""
    digest = hashlib.sha256(content.encode()).hexdigest()
    if digest != SHA256:
        raise ValueError(
            f"the embedded text has the SHA-256 {digest}, expected {SHA256}: this Python drew "
            "other bytes, so figures on it do not compare; give a text of yours with --text"
        )
    return content


@cache
def text() -> str:
    """The embedded text, ASCII. Raises: ValueError as `checked`."""
    return checked(drawn(SEED + 1, CHARACTERS))


def expected(choice: Callable[[Alternatives], float], token: Callable[[str], float]) -> float:
    """The mean over sentences of a sum over derivations: `choice` by symbol, `token` by token.

    x(A) = choice(A) + sum over alternatives of p times the sum of x over what they become, for all
    symbols A: a linear system, solved by sweeps, each of which reaches one level deeper.
    Assumes that derivations end with probability 1.
    """
    own: dict[str, float] = {}
    children: dict[str, list[tuple[float, str]]] = {}
    for symbol, alternatives in rules().items():
        total = sum(weight for weight, _ in alternatives)
        own[symbol] = choice(alternatives)
        children[symbol] = []
        for weight, becomes in alternatives:
            for part in becomes:
                if part in rules():
                    children[symbol].append((weight / total, part))
                else:
                    own[symbol] += weight / total * token(part)
    means = dict.fromkeys(own, 0.0)
    changed = math.inf
    while changed > 1e-14:
        before = means["sentence"]
        for symbol, parts in children.items():
            from_parts = sum(share * means[part] for share, part in parts)
            means[symbol] = own[symbol] + from_parts
        changed = abs(means["sentence"] - before) / means["sentence"]
    return means["sentence"]


def uncertainty(alternatives: Alternatives) -> float:
    """The entropy of a choice by weights, in bits."""
    total = sum(weight for weight, _ in alternatives)
    shares = [weight / total for weight, _ in alternatives]
    return -math.fsum(share * math.log2(share) for share in shares)


def width(token: str) -> int:
    """The characters that a token adds: its own, and the space before a word.

    The space before an opening bracket counts as that before the word after it, and the gap after a
    sentence as that before its first word.
    """
    if token in GAPS:
        return 0
    return len(token) + (token not in CLOSING and token not in OPENING)


@cache
def entropy() -> float:
    """The entropy rate of the text in bits per character: H(sentence) / E[its characters].

    No predictor of the next character, whatever it remembers, has a smaller mean cross-entropy.
    Assumes that a text has one derivation (see the top).
    """
    return expected(uncertainty, lambda token: 0.0) / expected(lambda alternatives: 0.0, width)
