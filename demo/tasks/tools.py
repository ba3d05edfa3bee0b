"""Calling functions: the right one, with the right arguments, then saying what it returned."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from typing import Any

from .base import Conversation, Kind, Reply, Turn
from .beyond import CANNOT
from .catalogue import CATALOGUE
from .functions import Offer
from .phrasing import pick
from .results import ALIASES, ERRORS, SKIES, spelled
from .slots import CURRENCIES, LANGUAGES, MESSAGES, OPERATIONS, ROOMS
from .split import held, same

LONGEST = 8  # turns, results of calls among them
INVENTED = 0.15  # of the names in training, so that names are read, not known
NO_TOOL = ("calculator",)  # topics that do what the model can do itself


class Tools:
    """A request for one of the functions offered, the call, its result, and what is said of it."""

    says = (
        "The user wants. I call a function. The function failed:",
        " ".join(word for word in (*ERRORS, *SKIES, *ROOMS, *MESSAGES, *LANGUAGES)),
        " ".join(f"{said} {passed}" for said, passed in (*CURRENCIES, *OPERATIONS)),
        " ".join((*ALIASES, *(name for names in ALIASES.values() for name in names))).replace("_", " "),
        "on off true false Lock Unlock celsius fahrenheit small medium large ok success done error id humidity source",
        "buy clean find sell wash fix bring order call the new tool api function service heads tails",
        "sent open lost paid ready",
        " ".join(function.text() for function in CATALOGUE),
    )

    def __init__(self, others: Sequence[tuple[Kind, float]], unseen: bool = False) -> None:
        """`others`: what may be asked although functions are there. `unseen`: names that training never draws."""
        self.name = "tools_unseen" if unseen else "tools"
        self.phrasings = tuple(function.phrasing for function in CATALOGUE)
        self._unseen = unseen
        self._kinds = [kind for kind, _ in others]
        self._weights = list(itertools.accumulate(weight for _, weight in others))

    def draw(self, rng: random.Random, held_out: bool) -> Conversation:
        offers = self._offers(rng, held_out)
        turns: list[Turn] = []
        direct = 0.0 if self._unseen else 0.15 if held_out else 0.3  # when not to call is learnt last
        more = 0.2 if held_out else 0.6  # on the same functions another call costs few tokens
        while not turns or (rng.random() < more and len(turns) < LONGEST):
            if rng.random() < direct:
                turns += self._without(rng, held_out, offers)
            else:
                turns += _called(rng, held_out, pick(rng, offers))
        return Conversation(self.name, tuple(turns), tuple(offer.schema for offer in offers))

    def right(self, turn: Turn, said: str) -> bool:
        return same(turn.reply.text, said)

    def _offers(self, rng: random.Random, held_out: bool) -> list[Offer]:
        """1 to 4 functions of different topics; which go together is split between training and evaluation."""
        count = pick(rng, (1, 1, 1, 2, 2, 2, 3, 3, 4))
        while True:
            functions = rng.sample(CATALOGUE, count)
            topics = sorted(function.topic for function in functions)
            if len(set(topics)) == count and (count == 1 or held(" ".join(topics), 5) == held_out):
                break
        offers: list[Offer] = []
        invented = 0.0 if held_out else INVENTED
        for function in functions:
            offer = Offer.draw(rng, function, self._unseen, invented)
            while offer.name in [other.name for other in offers]:
                offer = Offer.draw(rng, function, self._unseen, invented)
            offers.append(offer)
        return offers

    def _without(self, rng: random.Random, held_out: bool, offers: list[Offer]) -> tuple[Turn, ...]:
        """A question that needs none of the functions, or one that is not offered."""
        topics = {offer.function.topic for offer in offers}
        if rng.random() < (0.35 if held_out else 0.5):
            function = pick(rng, CATALOGUE)
            while function.topic in topics or function.topic in NO_TOOL:
                function = pick(rng, CATALOGUE)
            return (Turn(Offer.draw(rng, function, False).ask(rng, held_out)[0], Reply(CANNOT)),)
        while True:
            conversation = rng.choices(self._kinds, cum_weights=self._weights)[0].draw(rng, held_out)
            if not (conversation.kind in ("sums", "differences") and "calculator" in topics):
                return conversation.turns


def _called(rng: random.Random, held_out: bool, offer: Offer) -> tuple[Turn, Turn]:
    """The request and the result."""
    request, call, shown, result = offer.ask(rng, held_out)
    thoughts = {"high": f"The user wants {offer.function.wants.format(**shown)}. I call a function."}
    if rng.random() < 0.06:
        error = pick(rng, ERRORS)
        returned: dict[str, Any] = {"error": error}
        said = f"The function failed: {error}."
    else:
        said = offer.function.reply.format(**shown | {key: str(value) for key, value in result.items()})
        said = said[:1].upper() + said[1:]
        returned = spelled(rng, result)
    return Turn(request, Reply(thoughts=thoughts, call=call)), Turn(json.dumps(returned), Reply(said), role="tool")
