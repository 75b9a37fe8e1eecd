"""Descriptions of a release: a page for people, a card for Hugging Face, Croissant metadata for machines."""
