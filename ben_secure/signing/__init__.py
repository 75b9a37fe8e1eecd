"""Authenticity of the bytes: a MAC tag in each value for teams, a signed manifest for publishers.

These modules take keys and bytes, and return verified bytes or raise an error. They do not know pickles or patches.
Keys come from the caller, never from a database. Import the modules. This one stays empty, so a reader without keys
does not load cryptography.
"""
