"""Lesson 09: being written."""

questions = ()
derivation = ()
notes = ""
