"""What a release says of itself: a page for people, a card for Hugging Face, Croissant metadata for machines."""
