"""Stop strings in streamed text, wherever tokens and chunks end (Aho-Corasick: each character is read once)."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Of one sequence. Finds the stop string that ends first; of several ending there, the longest.

    Text is held back only while it may be the start of a stop string. Until `min_tokens` tokens have been fed, text
    passes through unsearched and is no part of any match: feed token by token while that lasts.
    """

    matched: str | None
    """The stop string that was found; from then on `feed` and `finish` return ""."""

    def __init__(self, stop: Sequence[str], include_in_output: bool = False, min_tokens: int = 0) -> None:
        self.matched = None
        self._include = include_in_output
        self._unsearched = min_tokens
        self._next: list[dict[str, int]] = [{}]
        self._depth = [0]
        self._ends: list[str | None] = [None]  # the longest stop string that ends in this state
        self._back = [0]
        for text in stop:
            self._add(text)
        self._link()
        self._state = 0
        self._held = ""  # the last `_depth[_state]` characters: what a stop string may begin with

    def feed(self, text: str, tokens: int = 1) -> str:
        """Text that is safe to emit. `tokens`: how many tokens `text` came from."""
        if self.matched is not None:
            return ""
        if self._unsearched > 0:
            self._unsearched -= tokens
            return text
        if len(self._next) == 1:
            return text
        state, start = self._state, self._next[0]
        for place, character in enumerate(text):
            while state and character not in self._next[state]:
                state = self._back[state]
            state = self._next[state].get(character, 0) if state else start.get(character, 0)
            found = self._ends[state]
            if found is not None:
                return self._stop(self._held + text[: place + 1], found)
        seen = self._held + text
        safe = len(seen) - self._depth[state]
        self._state, self._held = state, seen[safe:]
        return seen[:safe]

    def finish(self) -> str:
        """What was held back, when the sequence has ended for another reason."""
        held, self._held, self._state = self._held, "", 0
        return held

    def _stop(self, seen: str, found: str) -> str:
        self.matched, self._held, self._state = found, "", 0
        return seen if self._include else seen[: len(seen) - len(found)]

    def _add(self, text: str) -> None:
        state = 0
        for character in text:
            if character not in self._next[state]:
                self._next[state][character] = len(self._next)
                self._next.append({})
                self._depth.append(self._depth[state] + 1)
                self._ends.append(None)
                self._back.append(0)
            state = self._next[state][character]
        if state:
            self._ends[state] = text

    def _link(self) -> None:
        """Each state's longest proper suffix that is a state too, breadth first."""
        level = list(self._next[0].values())
        while level:
            below = []
            for state in level:
                for character, child in self._next[state].items():
                    back = self._back[state]
                    while back and character not in self._next[back]:
                        back = self._back[back]
                    self._back[child] = self._next[back].get(character, 0)
                    # Shallower states are final by now, so this is the longest match of all suffixes.
                    self._ends[child] = self._ends[child] or self._ends[self._back[child]]
                    below.append(child)
            level = below
