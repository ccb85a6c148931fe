"""Lesson 08: being written."""

questions = ()
derivation = ()
notes = ""
