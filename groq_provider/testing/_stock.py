"""The emulator's stock of sentences: answers to a few common questions, and filler for all others."""

from __future__ import annotations

import calendar
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping

_LONGEST_QUOTE = 400  # characters of the user's text

_OPENINGS = (
    "The short answer is that it depends on what you need it for.",
    "There is a simple answer and a longer one, and this is the simple one.",
    "People have asked this for a long time, and most of them came to like the plain answer.",
    "It is easier than it looks once its parts have names.",
    "The first thing to know is where it begins and where it ends.",
    "Much of it follows from a single idea.",
    "It helps to look at a small case before the large one.",
    "There are two sides to this, and both deserve a look.",
    "Three things matter here, and the first one matters most.",
    "A good start is to write down what is known already.",
)
_MIDDLES = (
    "Take one step at a time, and look at the result before you take the next.",
    "Most mistakes come from doing the second step before the first.",
    "What works for ten of them may not work for ten thousand.",
    "The usual case is quick, and the rare one needs some patience.",
    "Measure before you change anything, and measure again after it.",
    "A picture often says it better than a page of text.",
    "Keep what is simple, and leave the rest until somebody asks for it.",
    "It costs little to try, and a failure teaches something, too.",
    "If two ways look equally good, take the one that is easier to undo.",
    "Names are half of the work, so choose them with care.",
    "Those who have done it before would begin with the smallest piece.",
    "An example that can be run is worth more than a long explanation.",
)
_CLOSINGS = (
    "The emulator made this up; a real model would tell you more.",
    "These sentences are from the emulator's own stock, and no model has seen your question.",
    "So much from the emulator, which knows nothing but answers in the right form.",
    "A model would go on from here; the emulator stops.",
)

_NUMBERS = {
    1: "for changing nothing that it is multiplied with",
    2: "as the only even prime",
    3: "as the least number of sides that a polygon can have",
    4: "for the seasons of the year",
    5: "for the fingers of a hand",
    6: "as the smallest perfect number: it is the sum of its divisors 1, 2 and 3",
    7: "for the days of the week",
    8: "for the bits of a byte",
}
_YEARS = {
    1900: "the summer Olympic Games were held in Paris",
    1901: "the first Nobel Prizes were awarded",
    1902: "the Second Boer War ended",
    1903: "the Wright brothers flew near Kitty Hawk",
    1904: "the subway of New York was opened",
    1905: "Albert Einstein published the special theory of relativity",
    1906: "an earthquake destroyed much of San Francisco",
    1907: "the first practical plates for colour photographs were sold",
    1908: "the first Ford Model T was built",
    1909: "an aeroplane crossed the English Channel for the first time",
    1910: "Halley's Comet came back",
    1911: "Roald Amundsen reached the South Pole",
    1912: "the Titanic sank on its first voyage",
    1913: "Ford began to build cars on a moving assembly line",
    1914: "the First World War began",
    1915: "Albert Einstein presented the general theory of relativity",
    1916: "the Easter Rising took place in Dublin",
    1917: "the rule of the tsars ended in Russia",
    1918: "the First World War ended",
    1919: "the Treaty of Versailles was signed",
}
_CITIES = {  # a river, a dish
    "oslo": ("the Akerselva", "lamb with cabbage"),
    "lima": ("the Rimac", "ceviche"),
    "quito": ("the Machangara", "locro, a soup of potatoes"),
    "hanoi": ("the Red River", "bun cha"),
    "accra": ("the Densu", "waakye"),
    "sofia": ("the Iskar", "banitsa"),
}


def _number(match: re.Match[str]) -> str:
    number = int(match[1])
    return f"The number {number} is known {_NUMBERS.get(number, f'for coming right after {number - 1}')}."


def _year(match: re.Match[str]) -> str:
    year = int(match[1])
    days = 366 if calendar.isleap(year) else 365
    return f"In {year} {_YEARS.get(year, f'there were {days} days, and each of them made news somewhere')}."


def _of_city(match: re.Match[str]) -> str:
    river, dish = _CITIES[match[2].lower()]
    if match[1].lower().startswith("river"):
        return f"A river near {match[2]} is {river}."
    return f"A dish of {match[2]} is {dish}."


#: The questions of the demo, the examples and the README, and those that users often try first. The first pattern that matches counts.
_TOPICS: Mapping[str, str | Callable[[re.Match[str]], str]] = {
    r"\btoken bucket\b": (
        "A token bucket is filled at a steady rate, up to its size. Each request takes out what it costs, and waits while too little "
        "is left. So a short burst passes at once, while over time no more gets through than the rate allows."
    ),
    r"\bnumber (\d{1,12}) known for\b": _number,
    r"\bhappened in (?:the year )?(\d{4})\b": _year,
    r"\bLPUs?\b": (
        "LPU stands for Language Processing Unit, a chip that Groq makes to run language models. It keeps the weights of the model "
        "close to where they are used and plans every step beforehand, so words come out fast and at an even pace."
    ),
    r"\bhow does a semaphore differ\b|\bwhat is a semaphore\b": (
        "A semaphore counts: it lets a fixed number of threads in at the same time, while a mutex lets in only one."
    ),
    r"\bpool of ten\b": "A semaphore that begins at ten: each thread takes one on its way in and gives it back on its way out.",
    r"\bwhat is a mutex\b": "A mutex is a lock that only one thread can hold at a time.",
    r"\bwhy is the sky blue\b": (
        "Air scatters blue light more than red light, so blue reaches the eye from every part of the sky."
    ),
    r"^say hello number (\d{1,12})\b": lambda match: f"Hello, number {int(match[1])}! It is good to hear from you.",
    rf"^name a (river near|dish of) ({'|'.join(_CITIES)})\b": _of_city,
    r"\bcode to process data streams\b": (
        "Read the stream piece by piece, and keep no more of it than you need:\n\n```python\ndef lines(stream):\n"
        "    for line in stream:\n        if line.strip():\n            yield line.rstrip()\n```\n\n"
        "A generator like this one handles a stream of any length in the same little memory."
    ),
    r"\bhaiku\b": "A quiet bucket\nfills one token at a time;\nthen the burst runs through.",
    r"\b(?:tell|write)\b.{1,20}\bstory\b": (
        "Once there was a small server that answered every question in order. One morning a thousand questions came at once, and it "
        "grew afraid. Then it found a bucket, and let them in one by one. Since that day nobody has waited without knowing why."
    ),
}


def sentences(prompt: str, chance: random.Random) -> str:
    """Return plausible sentences for *prompt*; unless it is a known question they quote it, if it is short.

    The same *prompt* and the same state of *chance* give the same sentences.

    >>> import random
    >>> sentences("What is a mutex?", random.Random(1))
    'A mutex is a lock that only one thread can hold at a time.'
    """
    prompt = prompt.strip()
    stock_sentences = [
        chance.choice(_OPENINGS),
        *chance.sample(_MIDDLES, chance.randint(1, 2)),
        chance.choice(_CLOSINGS),
    ]
    text = " ".join(stock_sentences)
    if not prompt or len(prompt) > _LONGEST_QUOTE:
        return text
    for pattern, answer in _TOPICS.items():
        pattern_match = re.search(pattern, prompt, re.IGNORECASE)
        if pattern_match is not None:
            return answer if isinstance(answer, str) else answer(pattern_match)
    if len(prompt.split()) == 1:
        # Begin the answer with the word: tests that send one word per thread detect mixed-up answers by it.
        return f"{prompt}: {text[0].lower()}{text[1:]}"
    verb = "asked" if prompt.endswith("?") else "said"
    return f'You {verb}: "{prompt}"{"" if prompt.endswith(("?", "!", ".")) else "."} {text}'
