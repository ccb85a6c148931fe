"""Explorables: one Python class and one JavaScript file each, computed in the browser, with or without a kernel."""

from .ewc_well import EWCWell
from .r_editor import REditor
from .reservoir_stream import ReservoirStream
from .temperature import Temperature
from .two_valleys import TwoValleys

__all__ = ["EWCWell", "REditor", "ReservoirStream", "Temperature", "TwoValleys"]
