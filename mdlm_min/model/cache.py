"""Keys and values kept from one forward pass to the next, so that a later pass reads some positions only.

A pass over some positions is exact where no other position has changed in between and each block's output at the others would
be the same. In a bidirectional model it is not: what is kept of them belongs to the tokens of the pass that filled the cache. In
a model of one block, keys and values depend on their own token alone, and the pass is exact.
"""

from torch import Tensor

from mdlm_min.model.selection import Selection


class KeyValueCache:
    """Keys (rotated) and values of every block and position: `layers[i]` is a pair, each [rows, length, width]."""

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []

    def update(self, layer: int, keys: Tensor, values: Tensor, places: Selection | None) -> tuple[Tensor, Tensor]:
        """Keep a block's keys and values and return those of all positions.

        Without `places` they are of all positions, [rows, length, width]; otherwise of these, packed: [rows, slots, width].
        """
        if places is None:
            self.layers[layer : layer + 1] = [(keys.contiguous(), values.contiguous())]
        else:
            real = slice(places.count)
            row, column, slot = places.row[real], places.column[real], places.slot[real]
            for kept, new in zip(self.layers[layer], (keys, values), strict=True):
                kept[row, column] = new[row, slot]
        return self.layers[layer]

    def rows(self, index: Tensor) -> "KeyValueCache":
        """A copy of the rows `index` (int64 [rows])."""
        part = KeyValueCache()
        part.layers = [(keys[index], values[index]) for keys, values in self.layers]
        return part

    def put(self, index: Tensor, part: "KeyValueCache", rows: int) -> None:
        """Take over a filled cache as the rows `index` of `rows` in all."""
        if not self.layers:
            self.layers = [tuple(x.new_zeros(rows, *x.shape[1:]) for x in pair) for pair in part.layers]  # type: ignore[misc]
        for mine, theirs in zip(self.layers, part.layers, strict=True):
            for kept, new in zip(mine, theirs, strict=True):
                kept.index_copy_(0, index, new)


class Reading:
    """One forward pass over the positions `fresh` (bool [batch, length]) of sequences whose other positions are in a cache.

    The fresh positions of each row are packed to the left: [batch, slots]. position: where each stands, int64 [batch, slots];
    unused slots repeat position 0, and nothing comes of them.
    """

    def __init__(self, fresh: Tensor) -> None:
        self.places = Selection.of(fresh)
        self.batch = len(fresh)
        self.position = self.places.pack(self.places.column, self.batch)

    def within(self, selection: Tensor) -> Selection:
        """The same selection (bool [batch, length]) by row and slot. Raises ValueError for one that is not all fresh."""
        chosen = self.places.pack(self.places.pick(selection), self.batch)
        if int(chosen.sum()) != int(selection.sum()):
            raise ValueError("selection: some of its positions are not fresh")
        return Selection.of(chosen)
