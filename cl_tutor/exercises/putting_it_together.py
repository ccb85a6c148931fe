"""Lesson 14: being written."""

questions = ()
derivation = ()
notes = ""
