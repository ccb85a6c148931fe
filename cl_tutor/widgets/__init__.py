"""Explorables: one Python class and one JavaScript file each, computed in the browser, with or without a kernel."""

from .basin_player import BasinPlayer
from .capacity import Capacity
from .ewc_well import EWCWell
from .lambda_explorer import LambdaExplorer
from .projection import Projection
from .r_editor import REditor
from .reservoir_stream import ReservoirStream
from .scenario_toggle import ScenarioToggle
from .spectrum import Spectrum
from .temperature import Temperature
from .two_valleys import TwoValleys

__all__ = [
    "BasinPlayer",
    "Capacity",
    "EWCWell",
    "LambdaExplorer",
    "Projection",
    "REditor",
    "ReservoirStream",
    "ScenarioToggle",
    "Spectrum",
    "Temperature",
    "TwoValleys",
]
