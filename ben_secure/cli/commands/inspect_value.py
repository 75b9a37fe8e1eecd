"""``ben-secure inspect``: describe a database or one value. No code from the value is run."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, replace
from itertools import islice
from typing import Any

import click
from rich import box
from rich.console import Console
from rich.table import Table

from ben_secure.audit.findings import Finding
from ben_secure.audit.judge.formats import written_by
from ben_secure.audit.judge.scan import scan_value
from ben_secure.audit.opinion.opinions import Opinions
from ben_secure.audit.report import finding_to_json, printable_key
from ben_secure.audit.report.disassembly import disassemble
from ben_secure.audit.report.explain import explain
from ben_secure.audit.rules import Category
from ben_secure.cli import _options, _signing
from ben_secure.cli._common import console, print_json
from ben_secure.cli._describe import band_facts, metadata_facts
from ben_secure.cli._tensors import header_lines, tensor_facts
from ben_secure.cli._usage import Command, argument
from ben_secure.errors import LimitExceededError, printable
from ben_secure.pages.reader import PageReader
from ben_secure.signing.footer import payload_end
from ben_secure.tensors import SIGN
from ben_secure.values import Decoder

_SHOWN_KEYS = 5
_STATISTICS = ("min", "mean", "max")


@click.command("inspect", cls=Command)
@_options.readable
@argument("lmdb_key", metavar="[KEY]", required=False, note="LMDB key (patch name) of one value.")
@click.option("--hex", "as_hex", is_flag=True, help="KEY is hexadecimal, as in audit --json.")
@click.option(
    "--disassemble",
    "as_opcodes",
    is_flag=True,
    help="Also list the opcodes of the value, or its safetensors header. No code is run.",
)
@_options.as_json
def command(database: str, lmdb_key: str | None, as_hex: bool, as_opcodes: bool, as_json: bool) -> int:
    """Describe a database, or one value in it.

    Exit code 0: the database or patch was described. 1: the value is refused. 2: the database or value does not exist.
    """
    with PageReader(database) as reader:
        if lmdb_key is None:
            document = _database_facts(reader)
        else:
            document = _value_facts(reader, _raw_key(lmdb_key, as_hex), as_opcodes)
    if as_json:
        print_json(document)
    elif lmdb_key is None:
        _print_database(document, console())
    else:
        _print_value(document, console())
    return 1 if document["verdict"] == "refused" else 0


def _raw_key(text: str, as_hex: bool) -> bytes:
    if not as_hex:
        return os.fsencode(text)
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise click.UsageError(f"KEY is {printable(text)}; expected hexadecimal digits, or no --hex") from None


def _database_facts(reader: PageReader) -> dict[str, Any]:
    return _signing.document("inspect", reader.path, None, 0) | {
        "facts": asdict(reader.facts),
        "first_lmdb_keys": [printable_key(lmdb_key) for lmdb_key in islice(reader.keys(), _SHOWN_KEYS)],
    }


def _value_facts(reader: PageReader, lmdb_key: bytes, as_opcodes: bool) -> dict[str, Any]:
    try:
        value = reader.get(lmdb_key)
        if value is None:
            first = next(reader.keys(), None)
            hint = f"; its first key is {printable_key(first)}" if first is not None else ", which is empty"
            raise click.UsageError(f"{printable_key(lmdb_key)} is not in this database{hint}")
        finding = scan_value(lmdb_key, value)
    except LimitExceededError as error:  # the value is too long to be read
        value, finding = b"", Finding.from_error(lmdb_key, error)
    verdict, exit_code = ("clean", 0) if finding is None else ("refused", 1)
    document = _signing.document("inspect", reader.path, verdict, exit_code)
    document |= {"lmdb_key": printable_key(lmdb_key), "lmdb_key_hex": lmdb_key.hex(), "value_bytes": len(value)}
    document |= _patch_facts(value) if finding is None else _refusal_facts(finding, value)
    if as_opcodes:
        offset = None if finding is None else finding.offset
        document["disassembly"] = header_lines(value) if value[4:9] == SIGN else disassemble(value, offset)
    return document


def _refusal_facts(finding: Finding, value: bytes) -> dict[str, object]:
    with Opinions() as opinions:
        opinion = opinions.of_refused(value)
    finding = finding if opinion is None else replace(finding, opinion=opinion.text)
    explanation = explain(finding, value)
    return {
        "finding": finding_to_json(finding),
        "explanation": {
            "title": explanation.title,
            "help": explanation.help,
            "consequence": explanation.consequence,
            "around": list(explanation.disassembly),
        },
    }


def _patch_facts(value: bytes) -> dict[str, object]:
    patch, state = Decoder().note(value, payload_end(value), lambda patch, state: (patch, state))
    written: dict[str, object]
    if state is None:
        written = tensor_facts(value)
    else:
        with Opinions() as opinions:
            opinion = opinions.of_accepted(value).text
        names = sorted(".".join(pair) for pair in state.names)
        written = {"format": f"{written_by(state)}, pickle protocol {value[1]}", "globals": names, "opinion": opinion}
    return written | {
        "patch_class": type(patch).__name__,
        "bands": [band_facts(band) for band in patch.bands],
        "metadata": metadata_facts(patch),
    }


def _print_database(document: dict[str, Any], out: Console) -> None:
    facts = document["facts"]
    pages = ", ".join(f"{facts[f'{kind}_pages']:,} {kind}" for kind in ("branch", "leaf", "overflow"))
    rows = [
        ("database", printable(document["database"], 400)),
        ("records", f"{facts['entries']:,}"),
        ("file", f"{facts['file_bytes']:,} bytes (map size {facts['map_bytes']:,})"),
        ("pages", f"{facts['page_bytes']:,} bytes each: {pages}; last page {facts['last_page']:,}"),
        ("tree depth", str(facts["depth"])),
        ("last commit", f"transaction {facts['txnid']:,}"),
    ]
    rows += [("first keys" if not index else "", key) for index, key in enumerate(document["first_lmdb_keys"])]
    _print_rows(rows, out)
    out.print("Values were not checked. ben-secure audit DB checks all, ben-secure inspect DB KEY shows one.")


def _print_value(document: dict[str, Any], out: Console) -> None:
    rows = [
        ("LMDB key", document["lmdb_key"]),
        ("value", f"{document['value_bytes']:,} bytes"),
    ]
    finding = document.get("finding")
    if finding is None:
        rows += [("class", document["patch_class"]), ("format", document["format"])]
        rows += [("second opinion", document["opinion"])] if "opinion" in document else []
        _print_rows(rows, out)
        out.print()
        _print_bands(document["bands"], out)
        _print_metadata(document["metadata"], out)
    else:
        _print_refusal(rows, finding, document["explanation"], "disassembly" in document, out)
    if "disassembly" in document:
        out.print("\n".join(["", *document["disassembly"]]), soft_wrap=True)
    out.print()
    if finding is None:
        out.print("CLEAN: a patch and nothing else", style="bold green")
    else:
        category = Category(finding["category"])
        out.print(f"REFUSED: it {category.one}; {category.advice}", style="bold red", soft_wrap=True)


def _print_refusal(
    rows: list[tuple[str, str]], finding: dict[str, Any], explanation: dict[str, Any], disassembly: bool, out: Console
) -> None:
    """Print why a value is refused, and the opcodes around the refusal unless a longer ``disassembly`` follows."""
    rows = [*rows, ("refused by", f"{finding['rule']} ({explanation['title']})")]
    rows += [("at byte", f"{finding['offset']:,}")] if finding["offset"] is not None else []
    rows += [(name, finding[name]) for name in ("opcode", "global") if finding[name] is not None]
    rows += [("reason", finding["message"]), ("meaning", explanation["help"])]
    rows += [("loading it", explanation["consequence"])] if explanation["consequence"] else []
    _print_rows(rows, out)
    if explanation["around"] and not disassembly:
        out.print("\n".join(["", *explanation["around"]]), soft_wrap=True)


def _print_rows(rows: Iterable[tuple[str, str]], out: Console) -> None:
    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for row in rows:
        grid.add_row(*row)
    out.print(grid)


def _print_bands(bands: list[dict[str, Any]], out: Console) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("band", overflow="fold")
    for heading in ("resolution", "shape", "dtype", "min", "mean", "max"):
        table.add_column(heading, justify="right", overflow="fold")
    for band in bands:
        numbers = [f"{band[name]:.6g}" if isinstance(band[name], float) else str(band[name]) for name in _STATISTICS]
        shape = " x ".join(map(str, band["shape"]))
        table.add_row(band["name"], f"{band['resolution_m']} m", shape, band["dtype"], *numbers)
    out.print(table)


def _print_metadata(metadata: list[dict[str, Any]], out: Console) -> None:
    if not metadata:
        return
    out.print()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("metadata", overflow="fold")
    table.add_column("type", overflow="fold")
    table.add_column("value", overflow="fold")
    for entry in metadata:
        table.add_row(entry["name"], entry["type"], entry["value"])
    out.print(table)
