"""Make ``manifest_v2.json``: manifests of version 2 (BLAKE3), and mixtures of both versions that are refused.

As ``generate_manifest.py``: from fixed keys, as docs/format.md says, importing nothing of the package.
"""

import json
import pathlib
import runpy

HERE = pathlib.Path(__file__).parent
PATH = HERE / "manifest_v2.json"
V1 = runpy.run_path(str(HERE / "generate_manifest.py"))
blake3 = runpy.run_path(str(HERE / "blake3_by_hand.py"))["blake3"]
TYPE = "https://ben-secure.readthedocs.io/manifest/v2"
VALUES = {**V1["VALUES"], b"many chunks": bytes(range(251)) * 20}


def records_of(values):
    return [(lmdb_key, blake3(values[lmdb_key])) for lmdb_key in sorted(values)]


def manifest_of(records, version=2, detail=2):
    return V1["manifest_of"](records, version=version, digest_bytes=detail)


def statement_of(manifest, count, algorithm="blake3", predicate_type=TYPE, **release):
    """``None`` leaves the algorithm out."""
    statement = V1["statement_of"](manifest, count, **release)
    named = {} if algorithm is None else {"algorithm": algorithm}
    return statement | {"predicateType": predicate_type, "predicate": statement["predicate"] | named}


def case_of(case, manifest, statement, values=VALUES):
    return {
        "case": case,
        "values": {lmdb_key.hex(): value.hex() for lmdb_key, value in values.items()},
        "manifest": manifest.hex(),
        "statement": statement,
        "envelope": V1["envelope_of"](V1["spelled"](statement), 0).decode(),
    }


def valid_cases():
    for case, values in (("seven records", VALUES), ("no records", {}), ("one record", {b"k": b"v"})):
        manifest = manifest_of(records_of(values))
        yield case_of(case, manifest, statement_of(manifest, len(values)), values)


def mixtures():
    """Manifest and statement are well-formed, each for itself, and the publisher has signed both."""
    by_blake3 = manifest_of(records_of(VALUES))
    by_sha256 = V1["manifest_of"](V1["records_of"](VALUES))
    yield case_of("a list of BLAKE3, declared as SHA-256", by_blake3, V1["statement_of"](by_blake3, len(VALUES)))
    yield case_of("a list of SHA-256, declared as BLAKE3", by_sha256, statement_of(by_sha256, len(VALUES)))


def invalid_manifests():
    records = records_of({b"k": b"v"})
    good = manifest_of(records)
    for version, detail in ((2, 32), (2, 0), (2, 1), (2, 3), (2, 2**31 + 2), (1, 2), (0, 2), (3, 2)):
        yield f"version {version}, kind {detail}", manifest_of(records, version, detail)
    yield "last byte cut off", good[:-1]
    yield "a byte more", good + b"\0"


def invalid_statements():
    manifest = manifest_of(records_of(VALUES))
    for algorithm in ("sha256", "BLAKE3", "blake2b", "blake3 ", "", None, 2, True, ["blake3"], {"blake3": 1}):
        yield f"version 2, algorithm {algorithm!r}", statement_of(manifest, len(VALUES), algorithm)
    null = statement_of(manifest, len(VALUES))
    yield "version 2, algorithm null", null | {"predicate": null["predicate"] | {"algorithm": None}}
    for version in (1, 3):
        statement = statement_of(manifest, len(VALUES), predicate_type=f"{TYPE[:-1]}{version}")
        yield f"version {version}, algorithm blake3", statement


def document() -> str:
    """The file."""
    vectors = {
        "source": "generate_manifest_v2.py; the key is the first of manifest.json",
        "valid": list(valid_cases()),
        "mixtures": list(mixtures()),
        "invalid_manifests": [{"case": case, "manifest": data.hex()} for case, data in invalid_manifests()],
        "invalid_statements": [
            {"case": case, "envelope": V1["envelope_of"](V1["spelled"](statement), 0).decode()}
            for case, statement in invalid_statements()
        ],
    }
    return json.dumps(vectors, indent=2) + "\n"


if __name__ == "__main__":
    PATH.write_text(document())
