"""Examine a database as a whole: its pages, the files beside it, and the users who can write to it."""
