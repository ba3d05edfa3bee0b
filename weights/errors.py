"""What is wrong with a checkpoint, in one line. No torch."""

from __future__ import annotations

from os import PathLike

LONGEST = 200


class CheckpointError(ValueError):
    """A checkpoint that cannot be served: the file, the tensor if there is one, the fact, and what mends it.

    The text is always one printable line of bounded length, whatever a hostile file put into its names.
    """

    def __init__(self, file: str | PathLike[str], fact: str, *, mend: str, tensor: str | None = None) -> None:
        where = one_line(str(file)) if tensor is None else f"{one_line(str(file))}: tensor {one_line(tensor)}"
        super().__init__(f"{where}: {one_line(fact, 3 * LONGEST)}; {one_line(mend, 3 * LONGEST)}")
        self.file = str(file)
        self.tensor = tensor


def one_line(text: str, longest: int = LONGEST) -> str:
    """`text` with everything unprintable escaped and its middle left out where it is longer than `longest`."""
    if len(text) > longest:
        text = f"{text[: longest // 2]}…{text[-longest // 3 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
