"""Each row of threat_model.md has a test, and each test that names a row names one that exists."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def rows() -> dict[str, str]:
    """Rows of the table of threats by id."""
    lines = (ROOT / "threat_model.md").read_text().splitlines()
    return {match[1]: line for line in lines if (match := re.match(r"\| (T\d+) \|", line))}


def marked() -> dict[str, set[str]]:
    """Names of the test modules by the id that a mark, or a case of the attack corpus, names."""
    found: dict[str, set[str]] = {}
    for path in pathlib.Path(__file__).parent.glob("*.py"):
        text = path.read_text()
        for threat in re.findall(r"threat\(\"(T\d+)\"\)", text):
            found.setdefault(threat, set()).add(path.stem)
        if ".threat)" in text:  # one mark for each attack of the corpus, by its own id
            from support import attacks

            for attack in attacks.ATTACKS:
                found.setdefault(attack.threat, set()).add(path.stem)
    return found


def test_every_row_has_a_test_and_every_test_a_row():
    """The ids of the table and the ids in the tests are the same."""
    assert set(rows()) == set(marked())


@pytest.mark.parametrize("threat", rows())
def test_a_row_names_modules_that_test_it(threat):
    """The modules in the column of tests exist, and one of them carries the mark."""
    named = set(re.findall(r"`(test_\w+|fuzz_core)`", rows()[threat]))
    assert named
    assert all(list((ROOT / "tests").rglob(f"{name}.py")) for name in named)
    assert named & marked()[threat]
