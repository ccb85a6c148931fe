"""Lesson 91: being written."""

questions = ()
derivation = ()
notes = ""
