"""An R to edit: change any accuracy and watch ACC, forgetting, BWT and FWT answer, with the cells that enter them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import traitlets

from .. import plots
from ..results import Results
from .island import Island, module


class REditor(Island):
    """R and b as a table of numbers; the first preset is shown first, and `results` is what the reader has made of it.

    >>> REditor({"forgets": Results([[.9, .1], [.3, .9]], b=[.1, .1])}).results.bwt
    -0.6000000000000001
    """

    _esm = module("r_editor.js")
    presets = traitlets.Dict().tag(sync=True)
    R: traitlets.List = traitlets.List().tag(sync=True)
    b: traitlets.List = traitlets.List().tag(sync=True)

    def __init__(self, presets: Mapping[str, Results]) -> None:
        if not presets:
            raise ValueError('REditor needs at least one preset: REditor({"my run": results}).')
        for name, r in presets.items():
            if not isinstance(r, Results):
                raise TypeError(f"The preset {name!r} must be Results(R, b), not {type(r).__name__}.")
        plain = {name: {"R": r.R.tolist(), "b": r.b.tolist()} for name, r in presets.items()}
        super().__init__(presets=plain, **next(iter(plain.values())))

    @property
    def results(self) -> Results:
        """The table as it stands now, edits included."""
        return Results(np.array(self.R), np.array(self.b))

    def picture(self) -> plots.Picture:
        return plots.matrix(self.results, "An accuracy matrix to edit")
