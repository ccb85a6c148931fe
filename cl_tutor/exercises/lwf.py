"""Lesson 07: being written."""

questions = ()
derivation = ()
notes = ""
