"""Lesson 10: being written."""

questions = ()
derivation = ()
notes = ""
