"""The page that shows a release in hexadecimal agrees with the present output of ben_secure."""

from support.worked_format import PAGE, page


def test_the_page_shows_the_bytes_that_are_written():
    """A change of a byte of a format shows on the page: python tests/support/worked_format.py writes it."""
    assert PAGE.read_text() == page()
