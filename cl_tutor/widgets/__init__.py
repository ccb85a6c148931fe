"""Explorables: one Python class and one JavaScript file each, computed in the browser, with or without a kernel."""

from .r_editor import REditor
from .reservoir_stream import ReservoirStream
from .scenario_toggle import ScenarioToggle

__all__ = ["REditor", "ReservoirStream", "ScenarioToggle"]
