"""A condition in words, as `--where` takes it: "female, 60-70, Asian"."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agegender.data.filters import LabelFilter
from agegender.schema import AGE_CONFLICT, FOLDS, GENDER_CONFLICT, GENDERS, MAX_AGE, RACES

CONFLICTS = {
    "conflict": (AGE_CONFLICT, GENDER_CONFLICT),
    "age conflict": (AGE_CONFLICT,),
    "gender conflict": (GENDER_CONFLICT,),
}
UNDERSTOOD = (
    f"an age such as 25 or a range of ages such as 60-70 (0 to {MAX_AGE}); {', '.join(GENDERS)}; {', '.join(RACES)}; "
    f"fold 0 to fold {FOLDS - 1}; {', '.join(CONFLICTS)}, no conflict"
)


@dataclasses.dataclass(frozen=True)
class Where:
    """A condition and the words it was given in; `conflicting` are features of which one at least has to be true."""

    words: str
    conditions: LabelFilter
    conflicting: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, Any]) -> NDArray[np.bool_]:
        """Says for which images the condition holds; labels as for `LabelFilter.matches`."""
        held = self.conditions.matches(labels)
        return held & np.any([labels[key] for key in self.conflicting], axis=0) if self.conflicting else held


def parse_where(words: str) -> Where:
    """Understands a condition in words, upper or lower case, with commas between.

    Terms of one kind are alternatives ("Asian, Indian" is either), terms of different kinds have to hold together.

    Args:
        words: such as "male, 25", "female, 60-70, Asian", "fold 3", "conflict".

    Raises:
        ValueError: for a word that is not understood, and for two ages; the message lists what is understood.

    >>> print(parse_where("Female, 60-70, asian").conditions)
    ages=(60, 70), genders=('female',), races=('Asian',)
    """
    ages: list[tuple[int, int]] = []
    genders, races, folds, conflicts = [], [], [], set()
    names = {name.lower(): name for name in (*GENDERS, *RACES)}
    for term in (" ".join(term.lower().split()) for term in words.split(",")):
        if found := re.fullmatch(r"(\d+)(?: ?[-\u2013] ?(\d+))?", term):
            ages.append((int(found[1]), int(found[2] or found[1])))
        elif found := re.fullmatch(r"fold ?(\d+)", term):
            folds.append(int(found[1]))
        elif names.get(term) in GENDERS:
            genders.append(names[term])
        elif names.get(term) in RACES:
            races.append(names[term])
        elif term in CONFLICTS or term == "no conflict":
            conflicts.add(term)
        else:
            raise ValueError(f"`--where` does not know {term!r}. It knows {UNDERSTOOD}. Received: where={words!r}")
    if len(ages) > 1 or ("no conflict" in conflicts and len(conflicts) > 1):
        raise ValueError(f"`--where` takes one age or range, and not both of opposites. Received: where={words!r}")
    try:
        conditions = LabelFilter(
            ages=ages[0] if ages else None,
            genders=tuple(genders) or None,
            races=tuple(races) or None,
            folds=tuple(folds) or None,
            conflicts="no conflict" not in conflicts,
        )
    except ValueError as error:
        raise ValueError(f"{error} in where={words!r}") from error
    wanted = {key for term in conflicts for key in CONFLICTS.get(term, ())}
    return Where(words.strip(), conditions, tuple(sorted(wanted)))
