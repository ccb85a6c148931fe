"""Explorables: one Python class and one JavaScript file each, computed in the browser, with or without a kernel."""

from .projection import Projection
from .r_editor import REditor
from .reservoir_stream import ReservoirStream
from .two_valleys import TwoValleys

__all__ = ["Projection", "REditor", "ReservoirStream", "TwoValleys"]
