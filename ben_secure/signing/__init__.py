"""Who vouches for the bytes: a MAC tag in each value for teams, a signed manifest for publishers.

Keys and bytes in, verified bytes or a refusal out. Nothing here knows pickles or patches, and nothing in a database
says which key to trust: keys come from the caller. Import the modules; this one stays empty, so that a reader without
keys does not load cryptography.
"""
