"""Lesson 06: being written."""

questions = ()
derivation = ()
notes = ""
