"""Lesson 11: being written."""

questions = ()
derivation = ()
notes = ""
