"""Likeness of a new cover to the existing cover most similar to it, by features that no part of gatefold trained.

All covers of a catalogue are too many to compare with: candidates are those nearest in the cover tower's space, and the
sources that the new cover was made from.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from gatefold.generator.interface import Generated, Pixels
from gatefold.generator.originality import Likeness
from gatefold.images.likeness import IndependentFeatures, available, likeness
from gatefold.images.pixels import resized

_CANDIDATES = 32
"""covers nearest in the cover tower's space that a new cover is compared with"""
_SOURCES = 8  # those with the largest shares
_KEPT = 20_000  # features kept, of 5 kB each


class NearestCover:
    """Measures `originality.MeasureLikeness`.

    Args:
        features: None where the extra `eval` is not installed; then every likeness is None.
        nearest: song_ids of so many covers nearest to each of pixels uint8 [n, 3, S, S] in the cover tower's space.
        read: pixels uint8 [3, S, S] of those of these songs that have any.
    """

    def __init__(
        self,
        features: IndependentFeatures | None,
        nearest: Callable[[Pixels, int], Sequence[Sequence[str]]],
        read: Callable[[Sequence[str]], Mapping[str, Pixels]],
        size: int,
    ) -> None:
        self._features, self._nearest, self._read, self._size = features, nearest, read, size
        self._known: OrderedDict[str, np.ndarray] = OrderedDict()

    def __call__(self, generated: Sequence[Generated]) -> list[Likeness | None]:
        if self._features is None or not generated:
            return [None] * len(generated)
        pixels = np.stack([resized(one.pixels, self._size) for one in generated])
        made = self._features.features(pixels)
        found: list[Likeness | None] = []
        for one, feature, near in zip(generated, made, self._nearest(pixels, _CANDIDATES), strict=True):
            shares = one.attribution.shares[:_SOURCES] if one.attribution else ()
            candidates = list(dict.fromkeys([*near, *(share.song_id for share in shares)]))
            known = self._of(candidates)
            if not known:
                found.append(None)
                continue
            alike = likeness(feature[None], np.stack(list(known.values())))[0]
            best = int(alike.argmax())
            found.append(Likeness(float(min(alike[best], 1.0)), list(known)[best]))
        return found

    def _of(self, song_ids: Sequence[str]) -> dict[str, np.ndarray]:
        """Features of those of these covers that have pixels."""
        missing = [song_id for song_id in song_ids if song_id not in self._known]
        pixels = self._read(missing) if missing else {}
        if pixels:
            assert self._features is not None
            features = self._features.features(np.stack(list(pixels.values())))
            self._known.update(zip(pixels, features, strict=True))
        known = {song_id: self._known[song_id] for song_id in song_ids if song_id in self._known}
        while len(self._known) > _KEPT:
            self._known.popitem(last=False)
        return known


def load_features(device: str) -> IndependentFeatures | None:
    """The network on this device; None where the extra `eval` is not installed."""
    return IndependentFeatures(device) if available() else None
