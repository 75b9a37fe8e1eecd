"""The README: its two commands are those of CI, it fits three screens, and its links lead somewhere."""

import re

from support.documents import PAGES, ROOT, blocks

README = (ROOT / "README.md").read_text("utf-8")


def test_the_two_commands_are_those_of_ci():
    """The README's install-and-run and install-and-test commands are there, and CI runs the second to the letter."""
    run_it, test_it = (block.text.strip() for block in blocks("README.md") if block.kind == "sh")
    assert (run_it, test_it) == ("pip install . && ben-secure demo", "pip install '.[test]' && pytest")
    assert f"\n{test_it}\n" in (ROOT / ".ci" / "run").read_text("utf-8")


def test_it_is_short():
    """A reader gets through it."""
    assert len(README.splitlines()) < 150


def test_links_lead_somewhere():
    """Every relative link of a page outside the site names a file of the repository; the site checks its own."""
    for page in PAGES:
        if not page.startswith("docs/"):
            for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / page).read_text("utf-8")):
                assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"
