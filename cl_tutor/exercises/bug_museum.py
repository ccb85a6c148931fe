"""Lesson 90: being written."""

questions = ()
derivation = ()
notes = ""
