"""What a verification found."""

from collections import Counter
from dataclasses import dataclass, field

Name = tuple[str, str]
# Names that a verdict keeps of each kind.
MOST_NAMES = 1000
_FAULTS = ("lost", "doubled", "foreign", "unscored", "changed", "renamed")
_LISTS = ("lost", "doubled", "foreign", "suspects", "changed", "broken", "renamed")


@dataclass
class Verdict:
    """What a verification found; names are (archive, member), the first `MOST_NAMES` of each kind.

    `lost` images have no row, `doubled` ones more than one, `foreign` rows belong to no image.
    Names of objects: `unscored` ones are in the archive and not scored yet, with their images;
    `gone` ones have rows and have left the archive, with these rows; `renamed` shards are gone and
    have the size and ETag of another one; `changed` ones have another size or ETag than when they
    were scored; `broken` shards cannot be read to their end, and nobody knows what is behind the
    break. `left_out` counts files that cannot be images, by kind and suffix; `suspects` are those
    of them that begin like an image. `count` has the total of each kind.
    """

    images: int = 0
    scored: int = 0
    failed: int = 0
    lost: list[Name] = field(default_factory=list)
    doubled: list[Name] = field(default_factory=list)
    foreign: list[Name] = field(default_factory=list)
    suspects: list[Name] = field(default_factory=list)
    unscored: Counter[str] = field(default_factory=Counter)
    gone: Counter[str] = field(default_factory=Counter)
    changed: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    renamed: list[Name] = field(default_factory=list)
    left_out: Counter[tuple[str, str]] = field(default_factory=Counter)
    count: Counter[str] = field(default_factory=Counter)

    @property
    def passed(self) -> bool:
        return not any(self.count[kind] for kind in _FAULTS)

    def add(self, kind: str, name: Name | str, number: int = 1) -> None:
        """Count a name of a kind, and keep it if it is one of the first."""
        self.count[kind] += number
        kept = getattr(self, kind)
        if isinstance(kept, Counter):
            if name in kept or len(kept) < MOST_NAMES:
                kept[name] += number
        else:
            kept += [name] * min(number, MOST_NAMES - len(kept))

    def merge(self, other: "Verdict") -> None:
        """Add what another part of the verification found."""
        self.images += other.images
        self.scored += other.scored
        self.failed += other.failed
        self.left_out += other.left_out
        for kind in _LISTS:
            kept = getattr(self, kind)
            kept += getattr(other, kind)[: MOST_NAMES - len(kept)]
        for kind in ("unscored", "gone"):
            kept = getattr(self, kind)
            for name, number in getattr(other, kind).items():
                if name in kept or len(kept) < MOST_NAMES:
                    kept[name] += number
        self.count += other.count
