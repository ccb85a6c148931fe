"""Lesson 13: being written."""

questions = ()
derivation = ()
notes = ""
