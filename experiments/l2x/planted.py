"""A corpus whose answer is known: every aspect has one phrase, and its rating is how good the opinions in it are.

    ... which the *aroma quite fine and dull for good here so* and with lovely ...

A phrase begins with a word that names the aspect; opinions follow, and between them words that say nothing. Opinions
scatter about the rating, so the more of them are read the better. The same opinions stand in the phrases of the other
aspects and, astray, between phrases: what an opinion is about, only the way back to the name tells.
"""

from __future__ import annotations

import numpy as np

from experiments.l2x.data import Corpus, Review

ASPECTS = ("look", "aroma", "palate", "taste")
LEVELS = (  # from 0 to 1
    ("awful", "foul", "nasty", "vile"),
    ("dull", "poor", "weak", "bland"),
    ("fair", "decent", "plain", "usual"),
    ("good", "nice", "fine", "pleasant"),
    ("superb", "lovely", "perfect", "great"),
)
NOTHING = (
    *("the", "a", "and", "of", "to", "with", "for", "from", "this", "that", "it", "is", "was", "so", "but", "then"),
    *("here", "there", "quite", "rather", "some", "all", "which", "on", "in", "at", "by", "as", "when", "while"),
)
SCATTER = 0.3  # standard deviation of an opinion about the rating
OPINIONS = 0.6  # share of opinions among the words of a phrase that follow its name
ASTRAY = 0.3  # share of opinions among the other words


def generate(sizes: dict[str, int], words: int, phrase: int, seed: int) -> Corpus:
    """Reviews of so many words, with a phrase of ``phrase`` words for each aspect; the seed alone decides them.

    Raises:
        ValueError: the phrases would not fit.
    """
    if words < len(ASPECTS) * phrase:
        raise ValueError(f"words: {len(ASPECTS)} phrases of {phrase} words do not fit into {words}")
    random = np.random.default_rng(seed)
    splits = {name: [_review(random, words, phrase) for _ in range(size)] for name, size in sizes.items()}
    return Corpus("planted", splits, ASPECTS)


def _review(random: np.random.Generator, words: int, phrase: int) -> Review:
    text = [_word(random, ASTRAY, random.random()) for _ in range(words)]
    ratings, marked = {}, {}
    free = words - len(ASPECTS) * phrase
    starts = np.sort(random.integers(0, free + 1, len(ASPECTS))) + phrase * np.arange(len(ASPECTS))
    for aspect, start in zip(random.permutation(ASPECTS), starts, strict=True):
        rating = random.random()
        text[start : start + phrase] = [str(aspect), *(_word(random, OPINIONS, rating) for _ in range(phrase - 1))]
        ratings[str(aspect)], marked[str(aspect)] = rating, frozenset(range(start, start + phrase))
    return Review(text, ratings, marked)


def _word(random: np.random.Generator, opinions: float, rating: float) -> str:
    if random.random() >= opinions:
        return str(random.choice(NOTHING))
    level = round((len(LEVELS) - 1) * min(max(rating + SCATTER * random.standard_normal(), 0.0), 1.0))
    return str(random.choice(LEVELS[level]))
