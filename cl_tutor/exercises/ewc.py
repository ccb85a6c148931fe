"""Lesson 05: being written."""

questions = ()
derivation = ()
notes = ""
