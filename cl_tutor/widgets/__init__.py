"""Explorables: one Python class and one JavaScript file each, computed in the browser, with a copy that needs no kernel."""

from .r_editor import REditor

__all__ = ["REditor"]
