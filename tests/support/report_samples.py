"""Reports with a finding of every rule, hostile texts, and a console that records its output."""

from __future__ import annotations

import dataclasses
import io
from collections import Counter

from rich.console import Console

from ben_secure.audit.findings import AuditReport, Finding, Tally
from ben_secure.audit.judge.scan import scan_value
from ben_secure.audit.report.table_report import to_table
from ben_secure.audit.rules import RULES
from ben_secure.errors import Rule
from support import assembler

HOSTILE_TEXTS = [
    "\x1b[31mred",
    "\x9b31m",
    "a\nb\rc",
    "\u202egnp",
    "[red]x[/red]",
    ":smile:",
    "[link=http://x]y[/link]",
    "\x07\x7f\0",
    "<script>alert(1)</script>",
    "]]><svg onload=alert(1)>",
    "\"'><img src=x onerror=alert(1)>",
    "[click](http://x) {0}",
    "</style></title><h1>&lt;",
]
"""What could take over a terminal, a table, a page or a viewer of SARIF."""

CALL = Finding(
    lmdb_key=b"S2A_1",
    rule=Rule.CALL_SHAPE,
    message="odd call (REDUCE at byte 7); ask",
    opcode="REDUCE",
    offset=7,
    position=3,
)


def report_of(findings=(CALL,), *, left_out=0, **changes):
    """A report on five values, with these findings and ``left_out`` more of the rule of the last."""
    tally = Tally(
        checked=5,
        value_bytes=2_500_000,
        formats=Counter({"canonical": 5}),
        sizes=Counter({19: 5}),
    )
    for finding in findings:
        tally.add(finding)
    if left_out:
        tally.rules[findings[-1].rule] += left_out
    tally.refused = min(5, sum(finding.level == "error" and finding.lmdb_key is not None for finding in findings))
    for name in ("checked", "refused", "skipped", "value_bytes", "formats", "sizes", "opinions", "clean_keys"):
        if name in changes:
            setattr(tally, name, changes.pop(name))
    return AuditReport(**({"database": "some.lmdb", "entries": 5, "tally": tally} | changes))


def every_rule():
    """One finding of each rule, the first of them on the database as a whole."""
    whole = Finding(rule=Rule.DAMAGED, message="page 7 is its own child")
    rules = [rule for rule in RULES if rule is not Rule.DAMAGED]
    return report_of(
        [
            whole,
            *(
                Finding(
                    lmdb_key=b"S2A_%02d" % place,
                    rule=rule,
                    message=f"{rule} it is",
                    offset=100 * place if place % 2 else None,
                    opcode="REDUCE" if place % 2 else None,
                    global_name="posix.system" if rule is Rule.FORBIDDEN_GLOBAL else None,
                    opinion="fickling: suspicious; it would run: f(x)" if place % 3 == 0 else None,
                    position=place,
                )
                for place, rule in enumerate(rules)
            ),
        ],
        entries=40,
        checked=40,
    )


def hostile_report(text):
    """A report in which everything that comes from a file is a hostile text."""
    finding = scan_value(text.encode(), assembler.program(assembler.name(text, "x")))
    assert finding.rule is Rule.FORBIDDEN_GLOBAL
    finding = dataclasses.replace(finding, opinion=f"fickling: {text!a}", position=2)
    whole = Finding(rule=Rule.FOREIGN_FILE, message=f"a file {text!a} lies there")
    return report_of([whole, finding], database=f"{text}.lmdb", formats=Counter({text: 5}), clean_keys=[text.encode()])


def printed(report, width=100, **options):
    """The printed form of a report."""
    out = Console(file=io.StringIO(), width=width, markup=False, emoji=False, highlight=False, **options)
    to_table(report, out)
    return out.file.getvalue()
